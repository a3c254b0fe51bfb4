"""Two processes give what one gives, whatever is trained and wherever a run was stopped."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.tiny import gentle_model, save_model, tiny_batch, tiny_model
from tests.training import jobs
from tests.training.conftest import rows
from tests.training.pair import Together
from tether.config.train import TrainConfig
from tether.errors import RunFolderError, UsageError
from tether.policies.artifact import read_artifact
from tether.policies.load import load_model
from tether.policies.sharding import blocks
from tether.training.parallel import ALONE, SHARE_OF_GPU, Processes, shares, wants_shards
from tether.training.run import train

pytestmark = pytest.mark.xdist_group("parallel")

ABSOLUTE = 1e-5
"""Two processes add up a gradient in another order; losses of a few updates differ by fp32 rounding."""

CASES: dict[str, dict[str, Any]] = {
    "plain": {"measure_prompts": 3, "kl_max_new_tokens": 6},
    "lora": {"use_peft": True, "lora_r": 4},
    "three-micro-steps": {"max_tokens_per_microbatch": 100},
    "coupled": {"loss_type": "bco_pair"},
    "bf16-lora": {"use_peft": True, "lora_r": 4, "bf16": True},
    "dora": {"use_peft": True, "lora_r": 4, "use_dora": True, "measure_prompts": 3, "kl_max_new_tokens": 6},
    "pissa": {"use_peft": True, "lora_r": 4, "init_lora_weights": "pissa"},
    "prior": {"reference": "prior"},
    "moving": {"reference": "moving", "ref_model_mixup_alpha": 0.5, "ref_model_sync_steps": 2},
    "live-reference": {"loss_type": "epsilon_dpo"},
    "model": {"reference": "model:tied", "measure_prompts": 3, "kl_max_new_tokens": 6},
}

RARE = ("bf16-lora", "dora", "pissa", "prior", "moving", "live-reference", "model")


@pytest.fixture(scope="module")
def together() -> Iterator[Together]:
    two = Together()
    yield two
    two.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and rows: 9 to train on in updates of 4, so that the last one has one row for two."""
    folder = tmp_path_factory.mktemp("parallel")
    for name, options in {"model": {}, "tied": {"tie_word_embeddings": True}}.items():
        save_model(folder / name, gentle_model("llama", **options))
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(9)))
    (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(5, 100)))
    return folder


@pytest.fixture
def options(place: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def make(name: str, **others: Any) -> dict[str, Any]:
        return {
            "model_name_or_path": str(place / "model"),
            "dataset_name": str(place / "train.jsonl"),
            "eval_dataset_name": str(place / "eval.jsonl"),
            "output_dir": str(tmp_path / name),
            "learning_rate": 1e-3,
            "train_batch_size": 4,
            "num_train_epochs": 2,
            "logging_steps": 1,
            "measure_prompts": 0,
            "seed": 7,
            **others,
        }

    return make


def lines(folder: str | Path, *phases: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if not phases or line["phase"] in phases]


def agree(one: str | Path, other: str | Path, absolute: float = ABSOLUTE) -> None:
    """Compare every number of two runs' metrics."""
    first, second = lines(one), lines(other)
    assert [(line["step"], line["phase"]) for line in first] == [
        (line["step"], line["phase"]) for line in second
    ]
    for a, b in zip(first, second, strict=True):
        for name, value in a.items():
            if isinstance(value, float) and not name.startswith(("logps/", "eval_logps/")):
                assert b[name] == pytest.approx(value, abs=absolute), (a["step"], a["phase"], name)
    assert first[-1]["step"] > 1


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow if c in RARE else ()) for c in CASES]
)
def test_two_processes_train_as_one(
    case: str, parallel: str, together: Together, options: Callable[..., dict[str, Any]], place: Path
) -> None:
    if (case, parallel) == ("moving", "fsdp"):
        pytest.skip("refused, see below")
    given = {**CASES[case]}
    if case == "model":
        given["reference"] = f"model:{place}/tied"
    one, two = options("one", **given), options("two", **given, parallel=parallel)
    alone = train(TrainConfig.model_validate(one))
    records = together.run(jobs.run, options=two)
    # In bf16 a weight that differs in its last bit can fall to either side of a rounding 2^16 times coarser.
    agree(one["output_dir"], two["output_dir"], ABSOLUTE if case != "bf16-lora" else 1e-3)
    assert records[0]["hardware"]["processes"] == 2
    assert records[0]["results"] == records[1]["results"]
    assert len(records[0]["measurements"]) == len(alone.measurements)
    for mine, theirs in zip(alone.measurements, records[0]["measurements"], strict=True):
        assert theirs["kl_start"] == pytest.approx(mine.kl_start, abs=1e-5)
        assert theirs["kl_reference"] == pytest.approx(mine.kl_reference, abs=1e-5)
        assert (theirs["prompts"], theirs["tokens"]) == (mine.prompts, mine.tokens)
    same_scores(*(Path(folder["output_dir"]) / "reference" for folder in (one, two)))
    same_model(*(Path(folder["output_dir"]) / "model" for folder in (one, two)))


def same_scores(one: Path, two: Path) -> None:
    """Compare two reference tables."""
    if not (one / "manifest.json").is_file():
        assert not (two / "manifest.json").is_file()
        return
    first, second = read_artifact(one)[0].scores, read_artifact(two)[0].scores
    assert first.keys() == second.keys()
    for key, score in first.items():
        assert second[key].count == score.count
        assert second[key].total == pytest.approx(score.total, rel=1e-6)


def same_model(one: Path, two: Path) -> None:
    """Compare two saved models: names, config, and weights up to what Adam makes of rounding."""
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in two.iterdir()}
    settings = "adapter_config.json" if "adapter_config.json" in names else "config.json"
    assert (one / settings).read_text() == (two / settings).read_text()
    first, second = (load_file(next(folder.glob("*.safetensors"))) for folder in (one, two))
    assert first.keys() == second.keys()
    # Adam divides by the gradient's own size: where that is near zero, its rounding moves a whole step.
    worst = max(float((first[name] - second[name]).abs().max()) for name in first)
    assert worst < 1e-4


SHAPES = [(4, [3, 6]), (9, [2, 2]), (2, [7, 1]), (12, [5, 4]), (3, [1, 8])]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["model", "tied", "lora"])
def test_the_gradient_is_the_sum_over_all_rows_however_they_are_cut(
    name: str, checkpointing: bool, parallel: str, together: Together, place: Path, tmp_path: Path
) -> None:
    folder = str(place / ("model" if name == "lora" else name))
    options = {"model_name_or_path": folder, "dataset_name": "-", "output_dir": str(tmp_path)}
    options |= {"use_peft": name == "lora", "gradient_checkpointing": checkpointing}
    # One micro-step of all rows; three or more; a single row, which leaves a process without any.
    for shapes, budget in ((SHAPES, 4096), (SHAPES, 20), (SHAPES[:1], 20)):
        given: dict[str, Any] = {"folder": folder, "shapes": shapes, "options": options}
        alone = jobs.gradient(**given, parallel=parallel, budget=4096)
        for part in together.run(jobs.gradient, **given, parallel=parallel, budget=budget):
            assert part["loss"] == pytest.approx(alone["loss"], abs=1e-6)
            assert part["gradients"].keys() == alone["gradients"].keys()
            for key, value in alone["gradients"].items():
                wanted, found = torch.tensor(value), torch.tensor(part["gradients"][key])
                assert float((found - wanted).norm()) <= 1e-5 * float(wanted.norm()), key
            if parallel == "fsdp":
                assert part["held"] <= 0.55 * alone["held"]


def test_samples_of_uneven_lengths_are_those_of_one_process(together: Together, place: Path) -> None:
    alone = jobs.measured(str(place / "model"), parallel="", stops=25)
    lengths = [row["tokens"] for row in alone.values()]
    assert max(lengths) > 3 * min(lengths)
    found: dict[int, Any] = {}
    for part in together.run(jobs.measured, folder=str(place / "model"), parallel="fsdp", stops=25):
        found |= part
    assert found.keys() == alone.keys()
    for prompt, row in alone.items():
        assert found[prompt]["ids"] == row["ids"]
        assert found[prompt]["kl_start"] == pytest.approx(row["kl_start"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("change", [{"reference": "moving"}])
def test_what_shards_cannot_do_is_refused(
    change: dict[str, Any], together: Together, options: Callable[..., dict[str, Any]]
) -> None:
    ends = together.outcomes(jobs.run, options=options("two", parallel="fsdp", **change))
    assert any(answer[0] == "UsageError" and "use parallel ddp" in answer[1] for _, answer in ends)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "gpt_neox", "qwen3", "phi3"])
def test_every_block_is_a_shard_of_its_own(family: str) -> None:
    found = blocks(tiny_model(family))
    assert len(found) == 2 and all("LayerNorm" not in type(block).__name__ for block in found)


def test_each_process_runs_its_own_rows_only(
    together: Together, options: Callable[..., dict[str, Any]]
) -> None:
    seen = together.run(jobs.run_counting, options=options("two", eval_dataset_name=None))
    assert sum(part["groups"] for part in seen) == 18  # 9 rows, twice
    assert all(part["groups"] >= 8 for part in seen)


def test_a_batch_per_device_is_counted_over_all_processes_and_said(
    together: Together, options: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    two = options("two", train_batch_size=None, per_device_train_batch_size=2, num_train_epochs=1)
    record = together.run(jobs.run, options=two)[0]
    assert record["config"]["train_batch_size"] == 4 and record["steps"] == 3
    with pytest.raises(RunFolderError, match="train_batch_size was 4, now None"):
        train(TrainConfig.model_validate(two))


@pytest.mark.parametrize(("rank", "parallel"), [(0, "ddp"), (1, "ddp"), (1, "fsdp")])
def test_a_run_of_two_stopped_in_one_goes_on_in_one_process(
    rank: int, parallel: str, together: Together, options: Callable[..., dict[str, Any]]
) -> None:
    whole, stopped = options("whole"), options("stopped", parallel=parallel)
    train(TrainConfig.model_validate(whole))
    ends = together.run(jobs.run_until, options=stopped, step=2, rank=rank)
    assert ends == [("Interrupted", 143), ("SaidElsewhere", 143)]
    assert (Path(stopped["output_dir"]) / "checkpoints" / "step-2" / "complete.json").is_file()
    train(TrainConfig.model_validate(stopped))
    agree(whole["output_dir"], stopped["output_dir"])


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_of_one_goes_on_in_two_processes(
    parallel: str, together: Together, options: Callable[..., dict[str, Any]]
) -> None:
    whole, stopped = options("whole"), options("stopped", parallel=parallel)
    train(TrainConfig.model_validate(whole))
    assert jobs.run_until(stopped, step=3, rank=0) == ("Interrupted", 143)
    together.run(jobs.run, options=stopped)
    agree(whole["output_dir"], stopped["output_dir"])


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_of_two_goes_on_in_two_to_the_last_bit_with_dropout(
    parallel: str, together: Together, options: Callable[..., dict[str, Any]]
) -> None:
    dropout = {
        "parallel": parallel,
        "use_peft": True,
        "lora_r": 4,
        "lora_dropout": 0.3,
        "eval_dataset_name": None,
    }
    whole, stopped = options("whole", **dropout), options("stopped", **dropout)
    together.run(jobs.run, options=whole)
    together.run(jobs.run_until, options=stopped, step=2, rank=1)
    together.run(jobs.run, options=stopped)
    assert lines(whole["output_dir"]) == lines(stopped["output_dir"])


@pytest.mark.parametrize("rank", [None, 0, 1])
def test_an_error_ends_all_processes_and_one_of_them_says_why(
    rank: int | None, together: Together, options: Callable[..., dict[str, Any]]
) -> None:
    ends = together.run(jobs.run_with_failure, options=options("two"), rank=rank)
    assert {status for _, _, status in ends} == {6}
    telling = [(who, text) for who, (kind, text, _) in enumerate(ends) if kind == "GuardStop"]
    assert telling == [(rank or 0, ("process 1 of 2: " if rank else "") + "step 2: broken on purpose")]


def test_memory_that_runs_out_in_one_process_is_told_and_not_tried_again(
    together: Together, options: Callable[..., dict[str, Any]]
) -> None:
    ends = together.run(jobs.run_with_failure, options=options("two"), rank=1, memory=True)
    assert [kind for kind, _, _ in ends] == ["SaidElsewhere", "ResourceError"]
    assert ends[1][1].startswith("process 1 of 2: out of memory at step 1") and ends[0][2] == 4


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_hangs_is_ended_when_another_fails(failing: int) -> None:
    two = Together()
    try:
        ends = two.outcomes(jobs.fail_or_hang, failing=failing)
        assert ends[failing][1][0] == "GuardStop" and ends[1 - failing][1][0] == "Silence"
        two.processes[1 - failing].join(30)
        assert two.processes[1 - failing].exitcode == 6
    finally:
        two.close()


@pytest.mark.slow
def test_families_in_shards_choose_the_layout_and_give_the_sums_of_one_process(
    together: Together, tmp_path: Path
) -> None:
    names = ["gpt2", "gemma2", "gemma3_text", "qwen3", "phi3", "gpt_neox", "falcon", "bloom", "mamba"]
    folders = [str(tmp_path / name) for name in names]
    for name, folder in zip(names, folders, strict=True):
        tiny_model(name).save_pretrained(folder)
    alone = jobs.families(folders, layout="auto")
    for part in together.run(jobs.families, folders=folders, layout="auto"):
        for name, mine, theirs in zip(names, alone, part, strict=True):
            assert theirs[:2] == mine[:2], name
            assert theirs[2] == pytest.approx(mine[2], rel=1e-6), name
    assert {choice for choice, _, _ in alone} == {"packed", "shared", "padded"}


def test_processes_with_different_rows_are_refused(
    together: Together, options: Callable[..., dict[str, Any]], tmp_path: Path, place: Path
) -> None:
    ends = together.outcomes(jobs.run_with_own_rows, options=options("two"), rows=[rows(8), rows(9)])
    assert [fine for fine, _ in ends] == [False, False]
    assert any("train: process 0 has" in answer[1] for _, answer in ends)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=1, max_size=3)), min_size=1),
    st.integers(1, 5),
)
def test_every_group_is_dealt_once_and_no_process_gets_much_more(
    shapes: list[tuple[int, list[int]]], count: int
) -> None:
    dealt = shares(tiny_batch(shapes), count)
    assert sorted(group for part in dealt for group in part) == list(range(len(shapes)))
    assert all(part == sorted(part) for part in dealt)
    sizes = [prompt + sum(lengths) for prompt, lengths in shapes]
    held = [sum(sizes[group] for group in part) for part in dealt]
    assert max(held) - min(held) <= max(sizes)


class TwoOnPaper(Processes):
    """Two processes that agree on everything."""

    def __init__(self) -> None:
        super().__init__(0, 2)

    def most(self, value: int) -> int:
        return value


@pytest.mark.parametrize(
    ("options", "bytes_each", "copies"),
    [
        ({"measure_prompts": 0}, 16, True),
        ({"measure_prompts": 1}, 20, True),
        ({"measure_prompts": 0, "use_peft": True}, 4, True),
        ({"parallel": "fsdp"}, 0, False),
        ({"parallel": "ddp"}, 10**9, True),
        ({"reference": "moving"}, 10**9, True),
    ],
)
def test_auto_cuts_the_model_up_where_a_copy_would_fill_the_gpu(
    options: dict[str, Any], bytes_each: int, copies: bool, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"model_name_or_path": str(place / "tied"), "dataset_name": "-", "output_dir": "-"}
    config = TrainConfig.model_validate({**given, **options})
    needed = bytes_each * sum(p.numel() for p in load_model(place / "tied").model.parameters())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for free, whole_copies in ((needed / SHARE_OF_GPU + 1, copies), (needed / SHARE_OF_GPU - 1, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, free))
        settled = config.parallel != "auto" or config.reference == "moving"
        expected = copies if settled else whole_copies
        assert wants_shards(config, TwoOnPaper(), in_memory=False) is not expected
        assert not wants_shards(config, ALONE, in_memory=False)


def test_an_object_is_not_cut_up(place: Path) -> None:
    given = {"model_name_or_path": str(place / "tied"), "dataset_name": "-", "output_dir": "-"}
    config = TrainConfig.model_validate({**given, "parallel": "fsdp"})
    with pytest.raises(UsageError, match="needs a model folder"):
        wants_shards(config, TwoOnPaper(), in_memory=True)
    assert not wants_shards(config.model_copy(update={"parallel": "auto"}), TwoOnPaper(), in_memory=True)


def test_alone_every_exchange_gives_back_what_it_was_given() -> None:
    values = torch.tensor([1.5, -0.0])
    assert ALONE.first and ALONE.most(-3) == -3 and ALONE.gathered([1]) == [[1]]
    assert ALONE.summed(values) is values
