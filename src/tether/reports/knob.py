"""What the knob did: beta told with a study's own numbers, against the contradictory advice about it."""

import math

from tether.records.findings import Findings, SettingFinding, Tight
from tether.reports.study_figures import main_arm, settings_of
from tether.reports.tables import brief, number, percent, with_error

Z95 = 1.959963984540054


def knob_text(findings: Findings) -> list[str]:
    """Return paragraphs on what beta did; empty where fewer than two strengths were measured."""
    own = [s for s in settings_of(findings, main_arm(findings)) if s.setting.beta and s.kl is not None]
    if len(own) < 2:
        return []
    tight, loose = own[0], own[-1]
    found = [_held(tight, loose), _advice(tight, loose)]
    if own[0].setting.loss_type == "sigmoid":
        found.append(_margin(tight, loose))
    asked = next((t for t in findings.tight if t.arm == own[0].setting.arm), None)
    peak = _peak(own, asked)
    return [text for text in (*found, peak) if text]


def _held(tight: SettingFinding, loose: SettingFinding) -> str:
    one, other = tight.setting.beta, loose.setting.beta
    moved = (loose.kl or 0.0) - (tight.kl or 0.0)
    error = math.hypot(loose.kl_se or 0.0, tight.kl_se or 0.0)
    ends = (
        f"from {with_error(tight.kl, tight.kl_se)} nats per answer at β {number(one)} to "
        f"{with_error(loose.kl, loose.kl_se)} at β {number(other)}"
    )
    if abs(moved) <= Z95 * error:
        return (
            f"β says how tightly a model is held to its reference. Here it hardly mattered: KL went {ends}, "
            "which is within its error. Too few updates, or too small a learning rate, hide what β does."
        )
    if moved < 0:
        return (
            f"β says how tightly a model is held to its reference; larger should be tighter. Here KL fell "
            f"towards smaller β, {ends}. With few updates the loss at small β has hardly moved yet: more "
            "updates, or another learning rate, would show more."
        )
    return f"β says how tightly a model is held to its reference: larger is tighter. Here KL rose {ends}."


def _advice(tight: SettingFinding, loose: SettingFinding) -> str:
    return (
        "Advice about β contradicts itself because the gradient of the DPO loss is multiplied by β: at the "
        "very first update a larger β pushes harder, so people read it as the stronger setting. But the push "
        "ends when β times the log-ratio between chosen and rejected is large enough, and with a larger β "
        f"that is reached after a smaller move: the same reward margin takes "
        f"{brief((tight.setting.beta or 1.0) / (loose.setting.beta or 1.0))} times as many nats at "
        f"β {number(loose.setting.beta)} as at β {number(tight.setting.beta)}. Adam divides the size of the "
        "gradient out, so even the first steps are about equally long."
    )


def _margin(tight: SettingFinding, loose: SettingFinding) -> str:
    parts: list[str] = []
    for s in (tight, loose):
        chosen, rejected = s.numbers.get("chosen_log_ratio"), s.numbers.get("rejected_log_ratio")
        if chosen is None or rejected is None or s.setting.beta is None:
            return ""
        nats = chosen - rejected
        parts.append(
            f"at β {number(s.setting.beta)} chosen and rejected parted by {brief(nats)} nats, a reward "
            f"margin of {brief(s.setting.beta * nats)}, at which a pair still pulls with "
            f"{percent(1 / (1 + math.exp(min(s.setting.beta * nats, 700.0))))} of full weight"
        )
    moved = loose.numbers.get("chosen_log_ratio") or 0.0
    fell = (
        f" The chosen answers themselves lost {brief(-moved)} nats at the loosest setting: the loss sees "
        "only the difference (likelihood displacement)."
        if moved < 0
        else ""
    )
    return f"On held-out pairs, {parts[0]}; {parts[1]}.{fell}"


def _peak(own: list[SettingFinding], asked: Tight | None) -> str:
    if asked is None or asked.best_looking is None:
        return "Which β is best cannot be said without a score of the models' own answers."
    scored = [s for s in own if s.gain is not None]
    best = next((s for s in scored if s.setting.name == asked.best_looking), None)
    if best is None or len(scored) < 3:
        return ""
    # A degenerate setting was never compared: its score may even be the highest.
    sound = [s for s in scored if not s.degenerate]
    above = [s for s in sound if (s.setting.beta or 0) > (best.setting.beta or 0)]
    below = [s for s in sound if (s.setting.beta or 0) < (best.setting.beta or 0)]
    tighter, looser = ([s for s in side if not s.in_set] for side in (above, below))
    parts: list[str] = []
    if tighter:
        parts.append(f"{_names(tighter)} held too tight to reach it")
    if looser:
        parts.append(f"{_names(looser)} went past it")
    name = best.setting.name
    if len(parts) == 2:
        return f"The score makes an inverted U: {name} looks best; {parts[0]}, and {parts[1]}."
    if parts:
        other = below if tighter else above
        rest = "no setting is distinguishably worse" if other else "there is no sound setting"
        return f"{name} looks best; {parts[0]}. On the other side {rest}."
    return f"{name} looks best, but no other strength is distinguishable from it: the curve is flat here."


def _names(settings: list[SettingFinding]) -> str:
    names = [s.setting.name for s in settings]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
