"""Write docs/objectives.md from the table of objectives; `--check` says whether it is up to date."""

import sys
from pathlib import Path

from tether.config.objective import ObjectiveOptions
from tether.objectives import OBJECTIVES, Objective
from tether.objectives.modifiers import MODIFIERS, Modifier

PAGE = Path(__file__).resolve().parents[1] / "docs" / "objectives.md"

HEAD = """\
# Objectives

<!-- Written by tools/objectives_page.py from the table in src/tether/objectives. Do not edit. -->

`loss_type` takes one of these names, or several to be summed (`loss_type: [sigmoid, sft]`,
`loss_weights: [1.0, 0.2]`). Where TRL 1.16 has a name, ours gives TRL's number; where a paper's form
differs it is an option of its own, and every difference is listed below. Two objectives of RefDPO
(2407.13709) are settings of `sigmoid`: `reference: none` is the posterior-probability objective,
`reference: prior` the likelihood one. f-DPO, LD-DPO, WPO and TR-DPO are [laid over](#laid-over-an-objective)
an objective.

Symbols, all in nats: `p` log-prob of a text under the policy, summed over its tokens; `n` its tokens;
`r` = `p` minus the same under the reference; `d` = `p_w - p_l`, `d_ref` the same under the reference;
`w` the chosen text, `l` the rejected one; `beta`, and `e` = `label_smoothing`, options; `m` the row's
`margin`, in units of reward (beta x nats).

- A loss is a sum over units divided by their count in the whole update, so it does not depend on the
  micro-batch. `pairs` counts rows, `chosen_tokens` the tokens of chosen (or only) completions. Where rows
  couple, the loss depends on which rows share an update, and only on that.
- A row's `weight` multiplies its value and does not enter the count. Where soft labels are read, a row
  with `probability` p costs p l(x) + (1 - p) l(-x). Rows an objective cannot honour are refused, never
  ignored.
- With `reference: none` the reference's log-probs are 0; objectives for which that makes no sense refuse.
- `rewards/*` are beta x r for every objective; `objective/*` are what the loss compared, in a sum those
  of the first objective on pairs.
"""

LAID_OVER = """\
## Laid over an objective

Methods of their own in their papers, options here, because they go with many objectives.
"""

FOOT = """\
## Not offered

TDPO (2404.11999), whose token-level KL needs the whole next-token distribution of two models at every
token, and TRL's form of WPO's weight (its sampled alignment), which needs the policy's. epsilon-DPO reads
such distributions, at the price of another pass per pair.
"""


def table() -> str:
    """Return the overview: one line per objective."""
    lines = [
        "| name | rows | reference | log-probs | divided by | rows couple | soft labels | margin | beta"
        " | TRL |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for o in OBJECTIVES.values():
        beta = "-" if "beta" not in o.options else f"{o.default_beta:g}"
        cells = [
            f"[{o.name}](#{o.name})",
            o.reads,
            {"sum": "yes", "live": "live model", "none": "no"}[o.reference],
            "per token" if o.length_rule == "mean" else "summed",
            ", ".join(o.units),
            "yes" if o.couples else "no",
            "yes" if o.soft_labels else "no",
            "yes" if o.offsets else "no",
            beta,
            o.trl or "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return (
        "\n".join(lines) + "\n\nbeta: where its paper or TRL starts; the option's default is 0.1 for all.\n"
    )


def zero(o: Objective) -> str:
    """Return the value at zero margin for the default options."""
    smoothing = 0.001 if o.name == "exo_pair" else 0.0
    options = ObjectiveOptions(loss_type=(o.name,), label_smoothing=smoothing)
    value = o.zero_margin(options) if o.zero_margin is not None else None
    if value is None:
        return "depends on the texts"
    at = ", ".join(
        text
        for text in (
            f"beta {options.beta:g}" if "beta" in o.options else "",
            f"label_smoothing {smoothing:g}" if smoothing else "",
        )
        if text
    )
    return f"{value:.6g} ({at})" if at else f"{value:.6g}"


def section(o: Objective) -> str:
    """Return one objective's screen."""
    trl = "not in TRL 1.16" if o.trl is None else f"`{o.trl}`"
    difference = o.trl_difference or ("" if o.trl is None else "None.")
    options = ", ".join(f"`{name}`" for name in o.options) or "none"
    lines = [
        f"## {o.name}",
        "",
        f"**{o.title}.** {o.purpose}",
        "",
        f"    {o.equation}",
        "",
        f"- Evidence: {o.evidence}",
        f"- Source: {o.source}",
        f"- TRL: {trl}." + (f" Difference: {difference}" if difference else ""),
        f"- Options read: {options}",
        f"- Value at zero margin: {zero(o)}",
    ]
    if o.usual_beta is not None:
        lines.append(f"- beta in papers: {o.usual_beta[0]:g} to {o.usual_beta[1]:g}")
    if o.reference != "none":
        refused = f"refused: {o.without_reference}" if o.without_reference else "allowed"
        lines.append(f"- `reference: none`: {refused}")
    if not o.combines:
        lines.append("- Used alone: it is itself a sum with a likelihood term")
    return "\n".join(lines) + "\n"


def modifier(m: Modifier) -> str:
    """Return the screen of an option that is laid over objectives."""
    readers = [f"`{o.name}`" for o in OBJECTIVES.values() if m.option in o.options]
    keys = ", ".join(f"`{name}`" for name in (m.option, *m.further))
    lines = [
        f"### {m.option}",
        "",
        f"**{m.title}.** {m.purpose}",
        "",
        f"    {m.equation}",
        "",
        f"- Evidence: {m.evidence}",
        f"- Source: {m.source}",
        f"- TRL: {m.trl}",
        f"- Options read: {keys}",
        f"- Goes with: {', '.join(readers) or 'every objective that has a reference'}",
    ]
    if m.refused:
        lines.append(f"- Refused with {m.refused}")
    return "\n".join(lines) + "\n"


def options_section() -> str:
    """Return the options, their defaults and sources."""
    lines = ["## Options", "", "| option | default | meaning | source |", "|---|---|---|---|"]
    for name, field in ObjectiveOptions.model_fields.items():
        extra = field.json_schema_extra
        source = str(extra.get("source", "")) if isinstance(extra, dict) else ""
        default = field.default
        shown = (
            ", ".join(default) if isinstance(default, tuple) else "unset" if default is None else f"{default}"
        )
        lines.append(f"| `{name}` | {shown} | {field.description} | {source} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the whole page."""
    parts = [HEAD, table(), *(section(o) for o in OBJECTIVES.values())]
    parts += [LAID_OVER, *(modifier(m) for m in MODIFIERS), options_section(), FOOT]
    return "\n".join(parts)


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
        print(
            "docs/objectives.md is up to date"
            if current
            else "docs/objectives.md is old: run tools/objectives_page.py"
        )
        sys.exit(not current)
    PAGE.write_text(page(), encoding="utf-8")
