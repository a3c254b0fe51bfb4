"""The table of objectives, and what is computed and refused from it."""

from dataclasses import replace
from typing import Literal

from tether.config.objective import OBJECTIVE_NAMES, ObjectiveOptions
from tether.errors import UsageError
from tether.objectives import (
    adaptive,
    lists,
    pointwise,
    reference_free,
    referenced,
    supervised,
    transport,
    unpaired,
)
from tether.objectives.objective import Objective
from tether.objectives.scores import mean_probability, without_reference
from tether.records.tensors import LossInputs, LossOutput, LossTerm

_MODULES = (referenced, adaptive, pointwise, reference_free, supervised, transport, unpaired, lists)
_BY_NAME = {row.name: row for module in _MODULES for row in module.ROWS}

OBJECTIVES: dict[str, Objective] = {name: _BY_NAME[name] for name in OBJECTIVE_NAMES}
"""Every objective by the name `loss_type` takes, in the order of the documentation."""

Rows = Literal["pairs", "preference", "chosen", "sft", "unpaired", "list"]

_ROWS_GIVE: dict[str, set[str]] = {
    "pairs": {"pairs", "chosen"},
    "preference": {"pairs", "chosen"},
    "chosen": {"chosen"},
    "sft": {"chosen"},
    "unpaired": {"unpaired"},
    "list": {"list"},
}
_ROWS_NAMED = {
    "pairs": "pairs (chosen, rejected)",
    "chosen": "single completions or the chosen side of pairs",
    "unpaired": "single completions marked desirable or undesirable",
    "list": "ranked lists of completions",
}
_ROWS_ARE = {"preference": "pairs", "sft": "chosen"}
_EVERY = ("f_divergence_type", "ld_alpha", "wpo_weighting")
_ANY = ("label_smoothing", "f_alpha_divergence_coef")


def compute(options: ObjectiveOptions, inputs: LossInputs) -> LossOutput:
    """Return the weighted sum of the named objectives as terms, with the scores the first on pairs compared.

    Where the inputs hold no reference, objectives that use one see log-probs of exactly 0. The terms' values
    are sums over rows; the caller divides by the global count of each term's unit. Row weights multiply
    values and do not enter the counts.

    Raises:
        UsageError: an impossible combination, or rows an objective cannot honour.

    """
    _check_options(options)
    _check_rows(options, inputs)
    seen = without_reference(inputs) if inputs.reference is None else inputs
    outputs: list[LossOutput] = []
    for name, weight in options.weighted:
        objective = OBJECTIVES[name]
        output = objective.loss(seen, options)
        terms = tuple(replace(term, weight=term.weight * weight) for term in output.terms)
        if options.wpo_weighting == "mean_probability" and "wpo_weighting" in objective.options:
            terms = tuple(_times(term, seen) for term in terms)
        outputs.append(replace(output, terms=terms))
    shown = next((o for o, n in zip(outputs, options.loss_type, strict=True) if _compares(n)), outputs[0])
    return LossOutput(
        tuple(term for output in outputs for term in output.terms),
        shown.chosen.detach(),
        shown.rejected.detach(),
        next((output.beta.detach() for output in outputs if output.beta is not None), None),
    )


def needs_reference(options: ObjectiveOptions) -> bool:
    """Return whether any named objective uses the reference's log-probs."""
    return any(objective.reference != "none" for objective in _named(options))


def needs_reference_tokens(options: ObjectiveOptions) -> bool:
    """Return whether the reference's log-probs are needed per token, not only summed."""
    return options.ld_alpha is not None and needs_reference(options)


def needs_mismatched(options: ObjectiveOptions) -> bool:
    """Return whether any named objective reads completions of other rows (role `kl`)."""
    return any(objective.mismatched for objective in _named(options))


def couples(options: ObjectiveOptions) -> bool:
    """Return whether rows of an update depend on each other, so that the loss needs all of them at once."""
    shifted = "bco_pair" in options.loss_type and options.bco_delta != "none"
    return shifted or any(objective.couples for objective in _named(options))


def needs_live_reference(options: ObjectiveOptions) -> bool:
    """Return whether a named objective reads the reference's distributions, not only scored texts."""
    return any(objective.reference == "live" for objective in _named(options))


def next_state(options: ObjectiveOptions, inputs: LossInputs) -> dict[str, float]:
    """Return what the objectives remember after an update; `inputs` are those the update's loss saw."""
    seen = without_reference(inputs) if inputs.reference is None else inputs
    state = dict(inputs.state)
    for objective in _named(options):
        if objective.advance is not None:
            state |= objective.advance(seen, options)
    return state


def units(options: ObjectiveOptions) -> set[str]:
    """Return the units whose global counts divide the loss."""
    return {unit for objective in _named(options) for unit in objective.units}


def zero_margin(options: ObjectiveOptions) -> float | None:
    """Return the loss when policy and reference agree, or None where it depends on the texts."""
    total = 0.0
    for name, weight in options.weighted:
        rule = OBJECTIVES[name].zero_margin
        value = rule(options) if rule is not None else None
        if value is None or options.wpo_weighting != "none":
            return None
        total += weight * value
    return total


def check(options: ObjectiveOptions, *, has_reference: bool, reads: Rows, live: bool = True) -> None:
    """Refuse what cannot work, before any model is loaded.

    `reads` says what the rows are: `pairs` (also `preference`), `chosen` (also `sft`), `unpaired` or `list`.
    `live` says whether the reference can be a model run beside the policy.

    Raises:
        UsageError: the combination makes no sense; says why and what to do.

    """
    _check_options(options)
    for objective in _named(options):
        if objective.reads not in _ROWS_GIVE[reads]:
            raise UsageError(
                f"loss_type {objective.name} reads {_ROWS_NAMED[objective.reads]}, but the rows are"
                f" {_ROWS_NAMED[_ROWS_ARE.get(reads, reads)]}"
            )
        if not has_reference and objective.reference != "none" and objective.without_reference is not None:
            raise UsageError(
                f"loss_type {objective.name} cannot run with reference none: {objective.without_reference}"
            )
    if needs_live_reference(options) and not live:
        raise UsageError(
            f"loss_type {_names(options)} reads the reference's whole distributions, not only scored texts;"
            " use reference self, or model:PATH with the policy's tokenizer"
        )
    if not has_reference and options.f_divergence_type != "reverse_kl":
        raise UsageError(
            f"f_divergence_type {options.f_divergence_type} cannot run with reference none: without a"
            " reference there is no divergence to choose"
        )


def warnings(options: ObjectiveOptions) -> list[str]:
    """Return what is allowed but unusual: beta outside the range seen in papers, options nothing reads."""
    found: list[str] = []
    for objective in _named(options):
        if objective.usual_beta is None or "beta" not in objective.options:
            continue
        low, high = objective.usual_beta
        if not low <= options.beta <= high:
            found.append(
                f"beta {options.beta:g} is outside what papers used for {objective.name}"
                f" ({low:g} to {high:g}; start from {objective.default_beta:g})"
            )
    read = {option for objective in _named(options) for option in objective.options}
    for name, field in ObjectiveOptions.model_fields.items():
        if name in ("loss_type", "loss_weights", "beta") or name in read:
            continue
        if getattr(options, name) != field.default:
            found.append(f"{name} is set, but {_names(options)} does not read it")
    return found


def _check_options(options: ObjectiveOptions) -> None:
    named = _named(options)
    for option in _EVERY:
        unaware = [o.name for o in named if option not in o.options and o.reads != "chosen"]
        if getattr(options, option) != ObjectiveOptions.model_fields[option].default and unaware:
            raise UsageError(
                f"{option} is set, but {', '.join(unaware)} has no such form; use it with"
                f" {', '.join(o.name for o in OBJECTIVES.values() if option in o.options)}"
            )
    for option in _ANY:
        if getattr(options, option) != ObjectiveOptions.model_fields[option].default and not any(
            option in o.options for o in named
        ):
            raise UsageError(
                f"{option} is set, but {_names(options)} does not read it; leave it out, or use it with"
                f" {', '.join(o.name for o in OBJECTIVES.values() if option in o.options)}"
            )
    for objective in named:
        if len(named) > 1 and not objective.combines:
            raise UsageError(
                f"loss_type {objective.name} is itself a sum with a likelihood term and is used alone;"
                f" found {_names(options)}"
            )
    # Coupled losses are differentiated with respect to sums alone: a term on tokens would lose its gradient.
    if couples(options) and (options.ld_alpha is not None or any(o.tokens for o in named)):
        raise UsageError(
            f"loss_type {_names(options)} needs all rows of an update at once and cannot be combined with"
            " ld_alpha, which needs the log-prob of every token"
        )


def check_labels(options: ObjectiveOptions, *, soft: bool, offset: bool, weighted: bool) -> None:
    """Refuse rows with soft labels, margins or weights that an objective cannot honour.

    Raises:
        UsageError: names the objective and what it cannot read.

    """
    for objective in _named(options):
        reason: str | None = None
        if soft and not objective.soft_labels:
            reason = "soft labels (probability below 1); its loss is defined for certain labels only"
        elif offset and not objective.offsets and objective.reads != "chosen":
            reason = "margins; its loss has no offset"
        elif weighted and not objective.weighted:
            reason = "weights; after sorting a value no longer belongs to a row"
        if reason is not None:
            raise UsageError(f"loss_type {objective.name} cannot read rows with {reason}")


def _check_rows(options: ObjectiveOptions, inputs: LossInputs) -> None:
    check_labels(
        options,
        soft=bool((inputs.probabilities != 1).any()),
        offset=bool((inputs.margins != 0).any()),
        weighted=bool((inputs.weights != 1).any()),
    )


def _times(term: LossTerm, inputs: LossInputs) -> LossTerm:
    return replace(term, values=term.values * mean_probability(inputs)) if term.unit == "pairs" else term


def _compares(name: str) -> bool:
    return OBJECTIVES[name].reads in ("pairs", "list")


def _named(options: ObjectiveOptions) -> list[Objective]:
    return [OBJECTIVES[name] for name in options.loss_type]


def _names(options: ObjectiveOptions) -> str:
    return " + ".join(options.loss_type)
