"""Which charts a study page has, from its findings; each with a caption that says what is drawn."""

from collections.abc import Callable, Sequence
from typing import Any

from tether.analysis.drift import FrontierLaw
from tether.records.findings import Comparison, Findings, Law, Point, SettingFinding, TokenFinding
from tether.reports import plots, study_plots
from tether.reports.figures import Figure
from tether.reports.plots import BLUE, GREY, INK, ORANGE, SERIES, Axis
from tether.reports.tables import number
from tether.reports.verbatim import visible_controls

START, OPTIMUM = "start", "exact optimum"
DODGE = 1.06
"""Factor on the axis between arms of one beta, so that their intervals do not hide each other."""
CURVE = 60
"""Points of the fitted law."""
KL = "KL from the start model, nats per answer"


def main_arm(findings: Findings) -> str:
    """Return the arm the page tells most of: the first that was asked how tight."""
    if findings.tight:
        return findings.tight[0].arm
    arms = [s.setting.arm for s in findings.settings if s.cells]
    dpo = [arm for arm in arms if arm == "DPO"]
    return (dpo or arms or [""])[0]


def settings_of(findings: Findings, arm: str) -> list[SettingFinding]:
    """Return the measured settings of an arm, tight to loose."""
    own = [s for s in findings.settings if s.setting.arm == arm and s.cells]
    return sorted(own, key=lambda s: -(s.setting.beta or 0.0))


def frontier_figures(findings: Findings) -> list[Figure]:
    """Return gain against cost, and the curve over beta."""
    return [f for f in (_frontier(findings), _strengths(findings)) if f is not None]


def comparison_figure(name: str, title: str, found: Sequence[Comparison], unit: str) -> list[Figure]:
    """Return the intervals of comparisons, each at its own best."""
    rows = [
        {
            "name": f"{c.first} − {c.second}",
            "x": c.difference.estimate,
            "low": c.difference.low,
            "high": c.difference.high,
        }
        for c in found
    ]
    if not rows:
        return []
    chart = study_plots.differences(rows, Axis(f"difference in {unit}"))
    level = number(round(100 * found[0].difference.level, 1))
    text = f"Best setting of the one less best setting of the other; all {level} % intervals hold together."
    return [Figure(name, title, text, chart, tuple(rows))]


def knob_figures(findings: Findings) -> list[Figure]:
    """Return what moved with beta: KL, rankings, log-ratios, entropy, length."""
    arms = list(dict.fromkeys(s.setting.arm for s in findings.settings if s.cells))
    main = main_arm(findings)
    found = [
        _over_beta(findings, "kl_by_beta", "KL by β", f"{KL}; bands are one standard error.", arms, _kl),
        _several(
            findings, main, "ranking", "Ranking accuracy by β", Axis(format=".0%"), 0.5,
            {"implicit_accuracy": ("implicit reward", BLUE), "policy_accuracy": ("policy itself", ORANGE)},
            "Share of held-out pairs ranked as labelled. Neither finds the best β: the policy's own accuracy "
            "rises on into collapse (RefDPO, Table 2).",
        ),
        _several(
            findings, main, "log_ratios", "Log-ratio by β", Axis(), 0.0,
            {"chosen_log_ratio": ("chosen", BLUE), "rejected_log_ratio": ("rejected", ORANGE)},
            "Mean log policy − log start of whole held-out answers, nats.",
        ),
        _over_beta(
            findings, "entropy_by_beta", "Entropy by β", "Nats per token along the model's own answers.",
            arms, lambda s: (s.numbers.get("entropy"), None),
        ),
        _over_beta(
            findings, "length_by_beta", "Answer length by β",
            "Mean tokens of own answers, end token included.", arms,
            lambda s: (s.numbers.get("tokens"), None),
        ),
    ]  # fmt: skip
    return [figure for figure in found if figure is not None]


def learning_figures(findings: Findings) -> list[Figure]:
    """Return the learning curves of the main arm, one line per strength."""
    brief = _brief(findings)
    order = list(brief.values())
    found: list[Figure] = []
    for index, metric in enumerate(dict.fromkeys(curve.metric for curve in findings.curves)):
        rows = [
            {"x": x, "y": y, "series": brief[curve.setting]}
            for curve in findings.curves
            if curve.metric == metric and curve.setting in brief
            for x, y in curve.points
        ]
        names = [name for name in order if any(row["series"] == name for row in rows)]
        if not names:
            continue
        chart = plots.lines(rows, Axis("update", whole=True), Axis(), study_plots.ramp(names))
        text = "On held-out pairs, first seed of each strength."
        if metric == "held-out loss":
            text += " Losses at different β are on different scales: their order means nothing."
        found.append(Figure(f"learning_{index}", metric.capitalize(), text, chart, tuple(rows)))
    return found


def token_figures(findings: Findings) -> list[Figure]:
    """Return RefDPO's figures 1 and 2, the end token and positions, for the main arm."""
    brief = _brief(findings)
    own = {brief[t.setting]: t for t in findings.tokens if t.setting in brief}
    names = [name for name in brief.values() if name in own]
    if not names:
        return []
    colours = study_plots.ramp(names)
    found = [_distribution(own, names, colours), _falls(own, names, colours), _end(findings, own)]
    found += [
        _positions(own, names, colours, role)
        for role in dict.fromkeys(r for n in names for r in own[n].positions)
    ]
    return [figure for figure in found if figure is not None]


def _positions(
    own: dict[str, TokenFinding], names: Sequence[str], colours: dict[str, str], role: str
) -> Figure | None:
    rows = [
        {"x": first + 1, "y": mean, "series": name}
        for name in names
        for first, mean in own[name].positions.get(role, ())
    ]
    if len({row["x"] for row in rows}) < 2:
        return None
    marks = tuple(sorted({float(row["x"]) for row in rows}))
    chart = plots.lines(rows, Axis("token of the answer, from", marks=marks), Axis(), colours, rule=0.0)
    text = f"Mean log policy − log start per token of {role} answers, nats, by where in the answer it stands."
    return Figure(f"by_position_{role}", f"By position, {role} answers", text, chart, tuple(rows))


def _brief(findings: Findings) -> dict[str, str]:
    """Return the strengths of the main arm, tight to loose, and the shortest name of each."""
    arm = main_arm(findings)
    return {
        s.setting.name: s.setting.name.removeprefix(arm).strip() or s.setting.name
        for s in settings_of(findings, arm)
    }


def _marks(settings: Sequence[SettingFinding]) -> tuple[float, ...]:
    return tuple(sorted({s.setting.beta for s in settings if s.setting.beta}))


def _beta_axis(settings: Sequence[SettingFinding]) -> Axis:
    return Axis("β (larger is tighter)", marks=_marks(settings))


def _frontier(findings: Findings) -> Figure | None:
    if len(findings.frontier) < 3:
        return None
    scored = findings.judge or findings.gold
    arms = list(dict.fromkeys(p.arm for p in findings.frontier))
    colours = {START: INK} | dict(zip([a for a in arms if a != START], SERIES * 3, strict=False))
    points, faint = _means(findings)
    curves: list[dict[str, Any]] = []
    for arm in (a for a in arms if a.startswith("dial of ")):
        curves += [{"x": p.kl, "y": p.score, "series": arm} for p in findings.frontier if p.arm == arm]
    start = next(p.score for p in findings.frontier if p.arm == START)
    reach = max(p.kl for p in findings.frontier)
    for law in findings.laws:
        curves += _law_rows(law, start, max(p.kl for p in findings.frontier if p.arm == law.arm))
    if findings.optimum and scored == findings.gold:
        colours[OPTIMUM] = GREY
        curves += [
            {"x": p.kl, "y": p.reward, "series": OPTIMUM} for p in findings.optimum if p.kl <= 1.5 * reach
        ]
    score = (scored or "score").replace("_", " ")
    chart = study_plots.tradeoff(
        points, Axis(KL, zero=True), Axis(score), colours, faint=faint, curves=curves, unnamed=(START,)
    )
    text = (
        "One point per setting, bars one standard error; small rings are single seeds. Dashed: the law "
        "R(d) = d (α − β̂ log d), d = √KL, with its 95 % band."
    )
    if OPTIMUM in colours:
        text += " Grey: the exact optimum; no policy at that KL has more reward."
    if any(p.dial is not None for p in findings.frontier):
        text += " The line without fit is one model dialled while it writes, not retrained."
    return Figure(
        "frontier", f"{score.capitalize()} against KL", text, chart, tuple([*points, *faint, *curves])
    )


def _means(findings: Findings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    points: list[dict[str, Any]] = []
    faint: list[dict[str, Any]] = []
    main = main_arm(findings)
    ends = {p.arm: [q.dial for q in findings.frontier if q.arm == p.arm] for p in findings.frontier}
    for p in findings.frontier:
        if not p.setting:
            last = p.dial is not None and p.dial in (ends[p.arm][0], ends[p.arm][-1])
            points.append(_point(p, START if p.dial is None else f"dial {p.dial:g}" if last else ""))
    for s in findings.settings:
        own = [p for p in findings.frontier if p.setting == s.setting.name]
        if not own or s.score is None or s.kl is None:
            continue
        row: dict[str, Any] = {"x": s.kl, "y": s.score, "series": s.setting.arm}
        row["label"] = "" if s.setting.beta is None or s.setting.arm != main else f"β {s.setting.beta:g}"
        if s.score_se is not None:
            row |= {"low": s.score - s.score_se, "high": s.score + s.score_se}
        if s.kl_se is not None:
            row |= {"left": s.kl - s.kl_se, "right": s.kl + s.kl_se}
        points.append(row)
        if len(own) > 1:
            faint += [{"x": p.kl, "y": p.score, "series": p.arm, "cell": p.cell} for p in own]
    return points, faint


def _point(p: Point, label: str) -> dict[str, Any]:
    row: dict[str, Any] = {"x": p.kl, "y": p.score, "series": p.arm, "label": label}
    if p.score_se is not None:
        row |= {"low": p.score - p.score_se, "high": p.score + p.score_se}
    return row


def _law_rows(law: Law, start: float, reach: float) -> list[dict[str, Any]]:
    fitted = FrontierLaw(
        law.alpha, law.beta_hat, law.alpha_interval, law.beta_hat_interval, law.residual_sd, law.n,
        law.covariance, 0.95, law.freedom,
    )  # fmt: skip
    kl = [reach * (k / CURVE) ** 2 for k in range(1, CURVE + 1)]
    gain, (low, high) = fitted.gain(kl), fitted.gain_interval(kl)
    return [
        {"x": x, "y": start + float(g), "low": start + float(a), "high": start + float(b), "series": law.arm,
         "dashed": True}
        for x, g, a, b in zip(kl, gain, low, high, strict=True)
    ]  # fmt: skip


def _strengths(findings: Findings) -> Figure | None:
    measured = [s for s in findings.settings if s.gain is not None and s.setting.beta]
    if len(measured) < 2:
        return None
    chosen = {t.recommended for t in findings.tight}
    arms = list(dict.fromkeys(s.setting.arm for s in measured))
    rows: list[dict[str, Any]] = []
    for s in sorted(measured, key=lambda s: s.setting.beta or 0.0):
        assert s.gain is not None
        aside = DODGE ** (arms.index(s.setting.arm) - (len(arms) - 1) / 2)
        row: dict[str, Any] = {"x": (s.setting.beta or 0.0) * aside, "beta": s.setting.beta}
        row |= {"y": s.gain.estimate, "series": s.setting.arm}
        row |= {"low": s.gain.low, "high": s.gain.high, "chosen": s.setting.name in chosen}
        row |= {"in_set": s.in_set, "degenerate": bool(s.degenerate)}
        rows.append(row)
    colours = dict(zip(arms, SERIES * 3, strict=False))
    score = (findings.judge or "score").replace("_", " ")
    chart = study_plots.strengths(rows, _beta_axis(measured), Axis(f"gain in {score}"), colours)
    level = next((s.gain.level for s in measured if s.gain is not None), 0.95)
    text = (
        f"Gain over the start model (dashed: none) with {number(round(100 * level, 1))} % intervals that "
        "hold together for all settings of an arm. Ringed: the choice of the rule."
    )
    return Figure("beta_curve", "Gain by β", text, chart, tuple(rows))


def _kl(s: SettingFinding) -> tuple[float | None, float | None]:
    return s.kl, s.kl_se


def _over_beta(
    findings: Findings,
    name: str,
    title: str,
    text: str,
    arms: Sequence[str],
    value: Callable[[SettingFinding], tuple[float | None, float | None]],
) -> Figure | None:
    rows: list[dict[str, Any]] = []
    used: list[SettingFinding] = []
    for arm in arms:
        for s in reversed(settings_of(findings, arm)):
            y, se = value(s)
            if y is None or not s.setting.beta:
                continue
            used.append(s)
            row: dict[str, Any] = {"x": s.setting.beta, "y": y, "series": arm}
            rows.append(row | ({} if se is None else {"low": y - se, "high": y + se}))
    if len({row["x"] for row in rows}) < 2:
        return None
    colours = dict(zip(dict.fromkeys(row["series"] for row in rows), SERIES * 3, strict=False))
    chart = plots.lines(rows, _beta_axis(used), Axis(zero=True), colours, band=True)
    return Figure(name, title, text, chart, tuple(rows))


def _several(
    findings: Findings,
    arm: str,
    name: str,
    title: str,
    y: Axis,
    rule: float,
    fields: dict[str, tuple[str, str]],
    text: str,
) -> Figure | None:
    own = list(reversed(settings_of(findings, arm)))
    rows = [
        {"x": s.setting.beta, "y": s.numbers.get(field), "series": label}
        for field, (label, _) in fields.items()
        for s in own
        if s.setting.beta and s.numbers.get(field) is not None
    ]
    if len({row["x"] for row in rows}) < 2:
        return None
    colours = {label: c for label, c in fields.values() if any(row["series"] == label for row in rows)}
    chart = plots.lines(rows, _beta_axis(own), y, colours, rule=rule)
    return Figure(name, title, f"{text} {arm}." if arm else text, chart, tuple(rows))


def _distribution(own: dict[str, Any], names: Sequence[str], colours: dict[str, str]) -> Figure | None:
    rows = [
        {"x": edge, "y": share, "series": name}
        for name in names
        for edge, share in own[name].histogram
        if share > 0
    ]
    if len({row["x"] for row in rows}) < 2:
        return None
    x = Axis("mean log policy − log start of a token type, nats")
    chart = plots.lines(rows, x, Axis(log=True, format="~g"), colours)
    text = (
        "Share of vocabulary types by how far their mean log-ratio moved over held-out answers, logarithmic "
        "(RefDPO, Figure 1). The tail to the left is what grows as β falls."
    )
    return Figure("token_types", "How far token types moved", text, chart, tuple(rows))


def _falls(own: dict[str, Any], names: Sequence[str], colours: dict[str, str]) -> Figure | None:
    loosest = own[names[-1]].followed
    if not loosest:
        return None
    order = [shown(fall.token) for fall in loosest]
    rows = [
        {"name": shown(fall.token), "x": fall.mean, "series": name, "count": fall.count}
        for name in names
        for fall in own[name].followed
    ]
    chart = study_plots.dots(rows, Axis("mean log-ratio, nats"), order, colours)
    text = (
        "The ten token types that fell most at the loosest strength, of those seen 100 times or more, and "
        "what became of them at the others (RefDPO, Figure 2)."
    )
    return Figure("largest_falls", "Token types that fell most", text, chart, tuple(rows))


def _end(findings: Findings, own: dict[str, Any]) -> Figure | None:
    brief = _brief(findings)
    betas = {brief[s.setting.name]: s.setting.beta for s in findings.settings if s.setting.name in brief}
    rows: list[dict[str, Any]] = [
        {"x": betas[name], "y": token.end.get(role), "series": role}
        for role in ("chosen", "rejected")
        for name, token in own.items()
        if betas.get(name) and token.end.get(role) is not None
    ]
    if len({row["x"] for row in rows}) < 2:
        return None
    rows.sort(key=lambda row: (row["series"], row["x"]))
    marks = tuple(sorted({float(row["x"]) for row in rows}))
    axis = Axis("β (larger is tighter)", marks=marks)
    chart = plots.lines(rows, axis, Axis(), {"chosen": BLUE, "rejected": ORANGE}, rule=0.0)
    text = (
        "Mean log policy − log start of the token that ends held-out answers, nats (RefDPO, Figures 2 and 3)."
    )
    return Figure("end_token", "The end token", text, chart, tuple(rows))


def shown(token: str) -> str:
    """Return a token with its white space visible."""
    text = token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
    return visible_controls(text) or "(empty)"
