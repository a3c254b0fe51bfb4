"""Tables of a study page, from its findings."""

from collections.abc import Sequence
from statistics import fmean

from tether.records.findings import Comparison, Estimate, Findings, Law, Regret
from tether.reports.tables import Table, count, decimals_for, number, percent, with_error


def score_name(findings: Findings) -> str:
    """Return what the judge's score is called."""
    return (findings.judge or findings.gold or "score").replace("_", " ")


def settings_table(findings: Findings) -> Table:
    """Return every setting: score, gain, whether it is in the set, KL; seeds and flags where they tell."""
    several = any(len(s.seeds) > 1 for s in findings.settings)
    flagged = any(s.degenerate or s.missing for s in findings.settings)
    rows = tuple(
        (
            s.setting.name,
            with_error(s.score, s.score_se),
            f"{plain_text(s.gain)} ({range_text(s.gain)})" if s.gain is not None else "–",
            "–" if s.p_value is None else "not distinguishable" if s.in_set else "worse",
            "–" if s.p_value is None else _p_text(s.p_value),
            with_error(s.kl, s.kl_se),
            number(s.kl_per_token, 3),
            *([",\u00a0".join(str(seed) for seed in s.seeds) or "–"] if several else []),
            *(["; ".join([*s.degenerate, *s.missing])] if flagged else []),
        )
        for s in findings.settings
    )
    names = ("setting", score_name(findings), "gain over start", "beside the best", "p", "KL from start")
    more = [*(["seeds"] if several else []), *(["flags"] if flagged else [])]
    return Table((*names, "KL per token", *more), rows, frozenset({1, 2, 4, 5, 6}))


MEANT = {
    "posterior": "posterior is DPO's loss without a reference",
    "likelihood": "likelihood holds DPO's loss to the prior, the model's own probability of the answer "
    "without its prompt",
}
"""Names of RefDPO (arXiv 2407.13709) that say little by themselves."""


def names_text(findings: Findings) -> str:
    """Explain the names of arms that need it."""
    arms = {s.setting.arm.partition(",")[0] for s in findings.settings}
    told = [text for name, text in MEANT.items() if name in arms]
    return f"Names as in RefDPO: {'; '.join(told)}." if told else ""


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else number(p, 3 if p < 0.1 else 2)


MEASURED = (
    ("implicit accuracy", "implicit_accuracy", percent),
    ("policy accuracy", "policy_accuracy", percent),
    ("chosen log-ratio", "chosen_log_ratio", lambda v: number(v, 1)),
    ("rejected log-ratio", "rejected_log_ratio", lambda v: number(v, 1)),
    ("entropy", "entropy", lambda v: number(v, 2)),
    ("tokens", "tokens", lambda v: number(v, 1)),
    ("end by themselves", "end_rate", percent),
    ("repeated 4-grams", "repetition", lambda v: percent(v, 1)),
    ("tokens beyond 10 nats", "large_share", lambda v: percent(v, 1)),
)


def measured_table(findings: Findings) -> Table:
    """Return what was measured beside the score, means over seeds, the start model first."""
    rows = [("start", findings.start)] + [(s.setting.name, s.numbers) for s in findings.settings if s.cells]
    body = tuple((name, *(text(values.get(field)) for _, field, text in MEASURED)) for name, values in rows)
    columns = ("setting", *(title for title, _, _ in MEASURED))
    return Table(columns, body, frozenset(range(1, len(columns))))


def laws_table(findings: Findings) -> Table | None:
    """Return the fitted laws."""
    rows = tuple(
        (
            law.arm,
            f"{number(law.alpha, 2)} ({_ends(law.alpha_interval)})",
            f"{number(law.beta_hat, 2)} ({_ends(law.beta_hat_interval)})",
            _peak(law, max(p.kl for p in findings.frontier if p.arm == law.arm)),
            number(law.residual_sd, 2),
            count(law.n),
        )
        for law in findings.laws
    )
    columns = ("arm", "α (95 %)", "β̂ (95 %)", "highest at KL", "residual sd", "cells")
    return Table(columns, rows, frozenset({1, 2, 3, 4, 5})) if rows else None


def _peak(law: Law, reach: float) -> str:
    """Say where a law is highest: nothing beyond the KL measured, nor of a turn that may be none."""
    if law.peak_kl is None:
        return "never turns"
    if law.peak_kl > reach:
        return f"beyond {number(reach, 1)}"
    return number(law.peak_kl, 1) + (" (or never)" if law.beta_hat_interval[0] <= 0 else "")


def comparison_table(found: Sequence[Comparison]) -> Table | None:
    """Return arms at their own best, with KL, length and entropy there."""
    if not found:
        return None
    keys = list(dict.fromkeys(key for c in found for key in c.numbers))
    rows = tuple(
        (
            f"{c.first} − {c.second}",
            c.verdict,
            f"{plain_text(c.difference)} ({range_text(c.difference)})",
            c.first_setting,
            c.second_setting,
            *(" / ".join(number(v, 2) for v in c.numbers.get(key, (None, None))) for key in keys),
        )
        for c in found
    )
    columns = ("", "verdict", "difference", "best of the one", "best of the other", *keys)
    return Table(columns, rows, frozenset({2, *range(5, 5 + len(keys))}))


def equal_kl_table(found: Sequence[Comparison]) -> Table | None:
    """Return arms at equal KL."""
    rows = tuple(
        (
            f"{c.first} − {c.second}",
            number(point.kl, 2),
            number(point.first, 2),
            number(point.second, 2),
            f"{plain_text(point.difference)} ({range_text(point.difference)})",
        )
        for c in found
        for point in c.equal_kl
    )
    columns = ("", "KL", "the one", "the other", "difference")
    return Table(columns, rows, frozenset({1, 2, 3, 4})) if rows else None


def shuffled_table(findings: Findings) -> Table | None:
    """Return the label-shuffle control."""
    rows = tuple(
        (
            c.setting,
            number(c.gain, 2),
            f"{plain_text(c.shuffled)} ({range_text(c.shuffled)})",
            percent(c.share),
            f"{plain_text(c.difference)} ({range_text(c.difference)})",
        )
        for c in findings.shuffled
    )
    columns = ("setting", "gain", "gain on shuffled labels", "share", "difference")
    return Table(columns, rows, frozenset({1, 2, 3, 4})) if rows else None


def distance_table(findings: Findings) -> Table | None:
    """Return how far each reference is from the start model."""
    rows = tuple((d.reference, d.kind, number(d.per_token, 3)) for d in findings.distances)
    return Table(("reference", "measured by", "nats per token"), rows, frozenset({2})) if rows else None


def end_table(findings: Findings) -> Table | None:
    """Return the end token per arm, averaged over its settings (RefDPO, Figure 3); None for a single arm."""
    arms = {s.setting.name: s.setting.arm for s in findings.settings}
    rows: list[tuple[str, ...]] = []
    for arm in dict.fromkeys(arms[t.setting] for t in findings.tokens):
        ends = [t.end for t in findings.tokens if arms[t.setting] == arm]
        both = [
            (e["chosen"], e["rejected"]) for e in ends if None not in (e.get("chosen"), e.get("rejected"))
        ]
        if both:
            chosen, rejected = (fmean(float(pair[side] or 0.0) for pair in both) for side in (0, 1))
            shown = (number(value, 2) for value in (chosen, rejected, chosen - rejected))
            rows.append((arm, *shown, count(len(both))))
    columns = ("end token, nats", "chosen", "rejected", "chosen − rejected", "settings")
    return Table(columns, tuple(rows), frozenset({1, 2, 3, 4})) if len(rows) > 1 else None


def rules_table(findings: Findings) -> Table | None:
    """Return what each rule would have chosen, and its regret where a world gives the truth."""
    rows = tuple(
        (
            r.rule,
            r.needs,
            r.choice or "none",
            _regret(r.regret),
            number(r.runs, 1) if r.runs else "none",
            "–" if r.seconds is None else number(r.seconds, 0),
            "yes" if r.proven else "no",
        )
        for r in findings.rules
    )
    columns = ("rule", "needs", "choice", "regret", "further runs", "processor seconds", "in use")
    return Table(columns, rows, frozenset({3, 4, 5})) if rows else None


def scorers_table(findings: Findings) -> Table | None:
    """Return what cross-fitting would have chosen with each scorer."""
    rows = tuple(
        (f"{s.beta:g}", s.choice or "none", _regret(s.regret)) for r in findings.rules for s in r.sensitivity
    )
    return Table(("scorer's β", "choice", "regret"), rows, frozenset({0, 2})) if rows else None


def _regret(regret: Regret | None) -> str:
    return "–" if regret is None or regret.share is None else percent(regret.share)


def _ends(interval: tuple[float, float]) -> str:
    return f"{number(interval[0], 2)} to {number(interval[1], 2)}"


def plain_text(estimate: Estimate, *, signed: bool = False) -> str:
    """Return an estimate to the digits its error allows."""
    return number(estimate.estimate, decimals_for(estimate.se), signed=signed)


def range_text(estimate: Estimate) -> str:
    """Return an estimate's interval, or its error, or that there is none."""
    if estimate.low is None or estimate.high is None:
        return f"± {number(estimate.se, decimals_for(estimate.se))}" if estimate.se else "no interval"
    decimals = decimals_for(estimate.se)
    level = number(round(100 * estimate.level, 1))
    return f"{level} %: {number(estimate.low, decimals)} to {number(estimate.high, decimals)}"
