"""The table is complete and true: names, needs, refusals, options that are really read, and the page."""

import importlib.util
import itertools
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.objectives.batches import loss_of, options_for, random_rows
from tether.config.objective import OBJECTIVE_NAMES, ObjectiveOptions
from tether.errors import UsageError
from tether.objectives import (
    OBJECTIVES,
    check,
    compute,
    couples,
    needs_reference,
    needs_reference_tokens,
    units,
    warnings,
    without_reference,
)
from tether.records.tensors import LossInputs

ROOT = Path(__file__).resolve().parents[2]

OTHER: dict[str, dict[str, Any]] = {
    "beta": {"beta": 0.37},
    "label_smoothing": {"label_smoothing": 0.17},
    "f_divergence_type": {"f_divergence_type": "js_divergence"},
    "f_alpha_divergence_coef": {
        "f_divergence_type": "alpha_divergence",
        "f_alpha_divergence_coef": 1.7,
    },
    "ld_alpha": {"ld_alpha": 0.3},
    "wpo_weighting": {"wpo_weighting": "mean_probability"},
    "ipo_reduction": {"ipo_reduction": "sum"},
    "simpo_gamma": {"simpo_gamma": 1.3},
    "cpo_alpha": {"cpo_alpha": 0.2},
    "alphapo_alpha": {"alphapo_alpha": 0.9},
    "unlikelihood_alpha": {"unlikelihood_alpha": 0.3},
    "discopop_tau": {"discopop_tau": 0.6},
    "dpop_lambda": {"dpop_lambda": 4.0},
    "hypo_gamma": {"hypo_gamma": 0.6},
    "chi_po_rmax": {"chi_po_rmax": 0.01},
    "bco_delta": {"bco_delta": "running"},
    "beta_dpo_alpha": {"beta_dpo_alpha": 1.9},
    "beta_dpo_keep": {"beta_dpo_keep": 0.4},
    "epsilon_dpo_epsilon": {"epsilon_dpo_epsilon": 0.5},
    "desirable_weight": {"desirable_weight": 1.7},
    "undesirable_weight": {"undesirable_weight": 1.7},
}
SWITCHES = {"f_alpha_divergence_coef": {"f_divergence_type": "alpha_divergence"}}


def page_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("objectives_page", ROOT / "tools" / "objectives_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_name_is_in_the_table_once() -> None:
    assert tuple(OBJECTIVES) == OBJECTIVE_NAMES
    assert all(name == objective.name for name, objective in OBJECTIVES.items())


def test_every_option_is_read_by_some_objective() -> None:
    read = {option for objective in OBJECTIVES.values() for option in objective.options}
    assert read == set(ObjectiveOptions.model_fields) - {"loss_type", "loss_weights"} == set(OTHER)


def moved_by(name: str, option: str) -> bool:
    inputs = random_rows(name, 11, spread=1.0)
    plain = loss_of(options_for(name, **SWITCHES.get(option, {})), inputs)
    return abs(float(loss_of(options_for(name, **OTHER[option]), inputs)) - float(plain)) > 1e-5


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_reads_exactly_the_options_it_lists(name: str) -> None:
    for option in OTHER:
        if option in OBJECTIVES[name].options:
            assert moved_by(name, option), f"{option} changes nothing"
            continue
        try:
            moved = moved_by(name, option)
        except UsageError as error:
            assert option in str(error) or "f_divergence_type" in str(error)
        else:
            assert not moved, f"{option} is read but not listed"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_reference_is_read_exactly_where_the_table_says(name: str) -> None:
    inputs = random_rows(name, 12)
    assert inputs.reference is not None
    other = replace(inputs.reference, sums=inputs.reference.sums * 1.5 - 0.3)
    options = options_for(name)
    moved = abs(float(loss_of(options, replace(inputs, reference=other)) - loss_of(options, inputs))) > 1e-5
    assert moved == needs_reference(options) == (OBJECTIVES[name].reference != "none")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_units_are_the_tables(name: str) -> None:
    output = compute(options_for(name), random_rows(name, 13))
    assert {term.unit for term in output.terms} == set(OBJECTIVES[name].units) == units(options_for(name))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_without_a_reference_is_zero_log_probs_or_refused(name: str) -> None:
    options, rows = options_for(name), OBJECTIVES[name].reads
    reason = OBJECTIVES[name].without_reference
    if reason is not None:
        with pytest.raises(UsageError, match="reference none") as caught:
            check(options, has_reference=False, reads=rows)
        assert reason in str(caught.value) and "\n" not in str(caught.value)
        return
    check(options, has_reference=False, reads=rows)
    inputs = random_rows(name, 14)
    bare = replace(inputs, reference=None)
    zeros = without_reference(inputs)
    assert zeros.reference is not None and not zeros.reference.sums.any()
    assert float(loss_of(options, bare)) == float(loss_of(options, zeros))


def test_rows_of_another_kind_are_refused() -> None:
    check(options_for("sigmoid"), has_reference=True, reads="preference")
    check(options_for("sft"), has_reference=False, reads="preference")
    check(options_for("sft"), has_reference=False, reads="sft")
    check(options_for("kto"), has_reference=True, reads="unpaired")
    for name, rows in itertools.product(("sigmoid", "orpo", "aot"), ("sft", "unpaired", "list")):
        with pytest.raises(UsageError, match="reads pairs"):
            check(options_for(name), has_reference=True, reads=rows)
    with pytest.raises(UsageError, match="desirable or undesirable, but the rows are pairs"):
        check(options_for("kto"), has_reference=True, reads="preference")
    with pytest.raises(UsageError, match="ranked lists"):
        check(options_for("plackett_luce"), has_reference=True, reads="pairs")
    with pytest.raises(UsageError, match="single completions"):
        check(options_for("sigmoid", loss_type=["sft", "kto"]), has_reference=True, reads="unpaired")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"loss_type": "hinge", "label_smoothing": 0.1}, "hinge does not read it"),
    ({"loss_type": "dpop", "f_divergence_type": "forward_kl"}, "dpop has no such form"),
    ({"loss_type": ["sigmoid", "apo_zero"], "f_divergence_type": "forward_kl"}, "apo_zero has no such form"),
    ({"loss_type": "simpo", "ld_alpha": 0.5}, "simpo has no such form"),
    ({"loss_type": "aot", "wpo_weighting": "mean_probability"}, "aot has no such form"),
    ({"loss_type": ["orpo", "sft"]}, "used alone"),
    ({"loss_type": ["sigmoid", "unlikelihood"]}, "used alone"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_combinations_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    options = ObjectiveOptions(**values)
    with pytest.raises(UsageError, match=message) as caught:
        check(options, has_reference=True, reads="pairs")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=message):
        compute(options, random_rows("sigmoid"))


def test_sums_that_make_sense_are_allowed() -> None:
    mixed = options_for("sigmoid", loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0])
    check(mixed, has_reference=True, reads="pairs")
    assert not couples(mixed) and units(mixed) == {"pairs", "chosen_tokens"}
    with_sort = options_for("sigmoid", loss_type=["sigmoid", "aot"])
    check(with_sort, has_reference=True, reads="pairs")
    assert couples(with_sort)
    tails = options_for("sigmoid", loss_type=["sigmoid", "sft"], ld_alpha=0.5)
    check(tails, has_reference=True, reads="pairs")
    assert needs_reference_tokens(tails)


def test_a_shift_over_the_update_and_token_values_do_not_mix() -> None:
    options = options_for("bco_pair", bco_delta="update", ld_alpha=0.5)
    with pytest.raises(UsageError, match="ld_alpha"):
        check(options, has_reference=True, reads="pairs")


def test_f_divergence_without_a_reference_is_refused() -> None:
    options = options_for("sigmoid", f_divergence_type="js_divergence")
    with pytest.raises(UsageError, match="no divergence to choose"):
        check(options, has_reference=False, reads="pairs")


def test_unusual_beta_and_unread_options_are_said() -> None:
    assert warnings(options_for("sigmoid")) == []
    (beta,) = warnings(options_for("simpo"))
    assert "beta 0.1" in beta and "1 to 10" in beta and "start from 2" in beta
    (unread,) = warnings(options_for("sigmoid", simpo_gamma=1.0))
    assert unread == "simpo_gamma is set, but sigmoid does not read it"


def test_an_empty_piece_of_an_update_costs_nothing() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    for name in OBJECTIVES:
        if name == "kto":
            continue
        inputs = random_rows(name)
        none = LossInputs(
            policy=inputs.policy[empty],
            reference=None if inputs.reference is None else inputs.reference[empty],
            roles=(),
            group_of=empty,
            chosen=empty,
            rejected=empty,
            weights=torch.zeros(0),
            margins=torch.zeros(0),
            probabilities=torch.zeros(0),
            tilted=None if inputs.tilted is None else inputs.tilted[empty],
        )
        assert float(loss_of(options_for(name), none)) == 0, name


def test_the_page_is_the_tables() -> None:
    module = page_module()
    assert (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8") == module.page()
