"""A grid holds every combination once, leaves out the impossible ones by name, and its names are stable."""

from typing import Any

import pytest

from tether.config.study import PRESETS, StudyConfig, build_study, resolved
from tether.errors import UsageError
from tether.study.grid import cells

BASE = {"model": "base", "data": "pairs.jsonl", "output_dir": "O"}


def study(**options: Any) -> StudyConfig:
    return build_study({**BASE, **options})


def names(config: StudyConfig) -> list[str]:
    return [cell.cell_id for cell in cells(config)[0]]


def test_commas_on_the_command_line_and_lists_in_yaml_mean_the_same() -> None:
    words = study(beta="1,0.1", loss_type="sigmoid,ipo", seed="0,1", data_fraction="0.5,1")
    lists = study(beta=[1, 0.1], loss_type=["sigmoid", "ipo"], seed=[0, 1], data_fraction=[0.5, 1])
    assert words == lists
    assert len(cells(words)[0]) == 16


def test_objectives_are_not_repeated_over_what_they_do_not_read() -> None:
    found = names(study(beta=[1, 0.1], loss_type=["simpo", "unlikelihood"], reference=["self", "none"]))
    assert found == [
        "simpo-beta1-lr1e-06-seed0",
        "simpo-beta0.1-lr1e-06-seed0",
        "unlikelihood-lr1e-06-seed0",
    ]


def test_what_cannot_be_is_left_out_with_its_reason() -> None:
    found, skipped = cells(study(beta=[0.1], loss_type=["sigmoid", "apo_zero"], reference=["self", "none"]))
    assert [c.cell_id for c in found] == [
        "sigmoid-self-beta0.1-lr1e-06-seed0",
        "sigmoid-none-beta0.1-lr1e-06-seed0",
        "apo_zero-self-beta0.1-lr1e-06-seed0",
    ]
    (entry,) = skipped
    assert entry["loss_type"] == "apo_zero" and "cannot run with reference none" in entry["reason"]


def test_named_exclusions_take_lists() -> None:
    config = study(
        beta=[10, 1, 0.1],
        reference=["self", "none"],
        exclude=[{"reference": "self", "beta": [10, 1]}],
    )
    found, skipped = cells(config)
    assert [c.cell_id for c in found] == [
        "sigmoid-self-beta0.1-lr1e-06-seed0",
        *(f"sigmoid-none-beta{beta}-lr1e-06-seed0" for beta in ("10", "1", "0.1")),
    ]
    assert [entry["reason"] for entry in skipped] == ["excluded", "excluded"]


def test_adding_cells_renames_and_removes_none() -> None:
    before = study(beta=[1, 0.1])
    after = study(beta=[1, 0.1], add=[{"beta": [0.05]}, {"seed": [1]}])
    assert names(after)[:2] == names(before)
    # The seed added last crosses every beta, the added one too.
    assert len(names(after)) == 6
    assert {c.factors.seed for c in cells(after)[0] if c.factors.beta == 0.05} == {0, 1}


def test_references_of_one_name_get_cells_of_two() -> None:
    found = names(study(beta=[0.1], reference=["model:a/base", "model:b/base"]))
    assert found[0] == "sigmoid-model.base-beta0.1-lr1e-06-seed0"
    assert found[1].startswith(found[0] + "-") and len(set(found)) == 2


def test_a_reference_from_a_run_is_named_after_the_run() -> None:
    assert names(study(beta=[0.1], reference=["model:runs/first/model"])) == [
        "sigmoid-model.first-beta0.1-lr1e-06-seed0"
    ]


def test_every_cell_is_a_training_config_on_one_split() -> None:
    config = study(beta=[0.1], seed=[3, 4], loss_type=["sigmoid+sft"], eval_fraction=0.2)
    found = cells(config)[0]
    assert {cell.config.split_seed for cell in found} == {3}
    assert [cell.config.seed for cell in found] == [3, 4]
    assert found[0].config.loss_type == ("sigmoid", "sft")
    assert found[0].config.measure_prompts == 0
    assert found[0].config.output_dir == f"O/cells/{found[0].cell_id}"


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_make_grids_and_give_way_to_other_keys(preset: str) -> None:
    more = {"reference": "self,model:teacher"} if preset == "refdpo-3" else {}
    config = study(preset=preset, **more)
    assert config.beta == tuple(PRESETS[preset]["beta"])
    assert study(preset=preset, beta=[7], **more).beta == (7,)
    found = cells(config)[0]
    if preset == "refdpo-2":
        betas = {r: [c.factors.beta for c in found if c.factors.reference == r] for r in config.reference}
        assert max(b for b in betas["self"] if b) == 0.1 and max(b for b in betas["none"] if b) == 100
    if preset.startswith("refdpo"):
        assert found[0].config.num_train_epochs == 3 and found[0].config.pairs_per_update == 32


def test_a_resolved_study_is_the_same_study_again() -> None:
    config = study(preset="refdpo-2", seed=[0, 1], max_length=256, add=[{"beta": [0.5]}])
    again = build_study(resolved(config))
    assert again == config.model_copy(update={"preset": None})
    assert names(again) == names(config)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"betas": [1]}, "unknown key 'betas'; did you mean beta"),
        ({"beta": [-1]}, "beta: is -1"),
        ({"beta": []}, "beta: is empty"),
        ({"seed": [1, 1]}, "seed: names 1 twice"),
        ({"preset": "refdpo-4"}, "preset 'refdpo-4' is not known"),
        ({"preset": "refdpo-3"}, "asks which reference"),
        ({"exclude": [{"betta": 1}]}, "exclude: has betta"),
        ({"dial": "0.5,101"}, "dial: is [0.5, 101.0]; give different values between -100 and 100"),
        ({"dial": [2, 2]}, "dial: is [2.0, 2.0]"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"loss_type": ["sigmod"]}, "'sigmod' is not an objective; did you mean sigmoid"),
        ({"loss_type": ["apo_zero"], "reference": ["none"]}, "no cell is left to run: loss_type apo_zero"),
        # One value of a list that nothing can have is a mistake, not a combination to leave out.
        (
            {"loss_type": ["sigmoid", "sigmod"]},
            "loss_type: 'sigmod' is not an objective; did you mean sigmoid",
        ),
        ({"loss_type": ["sigmoid", "ipo+sigmod"]}, "loss_type: 'sigmod' is not an objective"),
        ({"reference": ["self", "slef"]}, "reference: is 'slef'; use one of"),
        ({"beta": [0.1, -1]}, "beta: is -1"),
        ({"data_fraction": [1, 2]}, "data_fraction: input should be less than or equal to 1, got 2"),
        ({"learning_rate": [1e-3, -1]}, "learning_rate: input should be greater than or equal to 0"),
        ({"add": [{"beta": ["x"]}]}, "add: has beta 'x': input should be a valid number"),
        ({"add": [{"beta": [-0.1]}]}, "beta: is -0.1; it must be above 0"),
        ({"add": [{"labels": ["foo"]}]}, "add: has labels 'foo': input should be 'given' or 'shuffled'"),
        ({"exclude": [{"seed": 0.5}]}, "exclude: has seed 0.5: input should be a valid integer"),
    ],
)
def test_a_study_that_cannot_be_is_refused_in_one_line(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        cells(study(**options))
    assert text in str(caught.value) and "\n" not in str(caught.value)
