"""`tether calibrate`: the dial's numbers are the measured ones, the rule the study's, the price told."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from tether import api
from tether.cli.main import main
from tether.config.aliases import TRAIN_ALIASES
from tether.config.parse import build
from tether.config.train import TrainConfig
from tether.errors import DataError, RunFolderError, UsageError
from tether.generation.measure import measure
from tether.judging.judges import LengthJudge, Opinion, Question
from tether.judging.pairwise import Pair
from tether.policies.load import load_model
from tether.records.calibration import CALIBRATION, Calibration
from tether.records.comparison import Verdict
from tether.records.results import read_run
from tether.records.rows import Preference
from tether.study import calibrate as calibrating
from tether.study import judged as judging
from tether.study.dialler import Dialler, within
from tether.study.judged import NOISE
from tether.study.price import LIMIT, updates_in_wholes
from tether.tokens.load import load_tokenizer, stop_ids
from tether.tokens.render import Renderer
from tether.training.track import Silent

OPTIONS: dict[str, Any] = {
    "learning_rate": 3e-3,
    "train_batch_size": 32,
    "max_steps": 30,
    "kl_max_new_tokens": 5,
    "beta": 0.3,
    "save_strategy": "no",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate") / "world"
    api.make_world("enumerable-tiny", folder, pairs=300, eval_pairs=20)
    return folder


def options(world: Path, out: Path) -> dict[str, Any]:
    paths = {"model": world / "model", "data": world / "train.jsonl", "eval_data": world / "eval.jsonl"}
    return {**OPTIONS, **{key: str(path) for key, path in paths.items()}, "output_dir": str(out)}


def calibrated(world: Path, out: Path, **more: Any) -> Any:
    given = {**OPTIONS, "eval_data": str(world / "eval.jsonl"), **more}
    return api.calibrate(world / "model", world / "train.jsonl", out, **given)


@pytest.fixture(scope="module")
def found(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("found") / "cal"
    return calibrated(world, out, evaluator="world:enumerable-tiny", dials=[0.5, 1, 2]), out


def test_points_rise_in_kl_and_stand_for_their_betas(found: Any) -> None:
    result, out = found
    assert [p.dial for p in result.points] == [0.5, 1.0, 2.0]
    assert [p.beta for p in result.points] == pytest.approx([0.6, 0.3, 0.15])
    kls = [p.kl.estimate for p in result.points]
    assert 0 < kls[0] < kls[1] < kls[2]
    assert all(p.gain is not None for p in result.points)
    assert Calibration.model_validate_json((out / CALIBRATION).read_bytes()) == result
    assert result.answer.question == "how tight" and result.answer.seeds == 1
    assert result.cost == pytest.approx(1 + result.seconds["sample and score"] / result.seconds["train"])


def test_two_prompts_never_support_an_answer(found: Any) -> None:
    result, _ = found
    assert result.prompts == 2  # all the world has
    assert result.answer.verdict != "supported" or result.answer.interval is not None


def test_without_a_judge_nothing_is_recommended(world: Path, tmp_path: Path) -> None:
    result = calibrated(world, tmp_path / "cal", dials=[1], max_steps=2)
    assert result.answer.verdict == "needs a judge"
    assert result.recommended_dial is None and result.recommended_beta is None
    assert result.points[0].gain is None and result.points[0].kl.estimate > 0


def test_a_judge_is_asked_against_the_start_models_answer(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Pair] = []
    shares = {}

    def judged(pairs: Sequence[Pair], *_: object, **__: object) -> list[Verdict]:
        asked.extend(pairs)
        shares.update({pair.id: 1.0 if not shares else 0.75 for pair in pairs})
        return [
            Verdict(
                id=p.id, prompt=p.prompt, model_a="a", model_b="b", answer_a=p.a, answer_b=p.b, judge="j",
                a_first=shares[p.id], b_first=shares[p.id],
            )
            for p in pairs
        ]  # fmt: skip

    monkeypatch.setattr(judging, "judge_pairs", judged)
    # Two answers say nothing about degeneration, and a flagged dial has no gain.
    monkeypatch.setattr(calibrating, "degeneration", lambda *_: ())
    result = calibrated(world, tmp_path / "cal", dials=[1], judge="length", max_steps=2)
    assert result.judge == "length"
    assert len(asked) == len(shares) == result.prompts == 2  # the start model is never asked about
    assert [pair.b for pair in asked] == start_answers(world, [pair.prompt for pair in asked], NOISE)
    assert [pair.b for pair in asked] != start_answers(world, [pair.prompt for pair in asked], 0)
    gain = result.points[0].gain
    assert gain is not None and gain.estimate == pytest.approx(sum(shares.values()) / 2 - 0.5)


def start_answers(world: Path, prompts: list[Any], noise: int) -> list[str]:
    """The start model's answers to these prompts with the run's seed and this noise added."""
    tokenizer = load_tokenizer(str(world / "model"))
    stops = stop_ids(tokenizer, str(world / "model"))
    ids = [Renderer(tokenizer, stops).prompt_ids(prompt, (), {}) for prompt in prompts]
    found = measure(
        load_model(world / "model").model,
        prompts=prompts, prompt_ids=ids, tokenizer=tokenizer, stop_ids=stops,
        step=0, max_new_tokens=5, seed=TrainConfig.model_fields["seed"].default + noise,
    )  # fmt: skip
    return [sample["completion"] for sample in found[1]]


@pytest.fixture(scope="module")
def halved(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("halved") / "cal"
    return calibrated(world, out, dials=DIALS, halves=True, **LONGER), out


LONGER = {"max_steps": 81, "learning_rate": 1e-3}
DIALS = [0.5, 1.0]


def test_halves_cost_one_training_run_and_at_most_half_a_run_of_answers(halved: Any) -> None:
    result, out = halved
    runs = [read_run(out / "halves" / half) for half in ("first", "second")]
    assert [run.steps for run in runs] == [41, 41] and len(result.trained) == 2
    assert runs[0].data["used"] + runs[1].data["used"] == 300
    seconds = sum(run.timing["training"] + run.timing.get("reference", 0) for run in runs)
    assert result.seconds["train"] == pytest.approx(seconds)
    whole = (seconds + result.seconds["sample and score"]) / result.cost
    # Of two halves one update is too many, and the held-out rows, a fifteenth of all, are read twice.
    assert 0.9 * seconds < whole < seconds * 81 / 82
    assert 1 < result.cost <= LIMIT


def test_halves_show_a_curve_and_recommend_nothing(halved: Any) -> None:
    result, _ = halved
    assert result.answer.verdict == "needs a judge" and result.judge is None
    assert result.recommended_dial is None and result.recommended_beta is None
    assert result.cross_fitted is not None and not result.cross_fitted.proven
    assert all(p.gain is None for p in result.points)


def test_each_half_is_scored_by_the_other_and_by_hand(halved: Any, world: Path) -> None:
    result, out = halved
    config = build(TrainConfig, options(world, out) | LONGER, aliases=TRAIN_ALIASES)
    homes = {half: out / "halves" / half / "model" for half in ("first", "second")}
    turned = Dialler(config, homes, None, Silent())
    rows, held_out = turned.rows()
    assert held_out
    answers = turned.answers(DIALS, iter([rows]))
    name = "cross_fitted:0.3"
    tokenizer = load_tokenizer(str(world / "model"))
    renderer = Renderer(tokenizer, stop_ids(tokenizer, str(world / "model")))
    models = {key: AutoModelForCausalLM.from_pretrained(home) for key, home in homes.items()}
    models["start"] = AutoModelForCausalLM.from_pretrained(world / "model")

    def logprob(model: str, row: Preference, ids: list[int]) -> float:
        prompt = renderer.prompt_ids(row.prompt, row.tools, row.template_arguments)
        with torch.no_grad():
            logits = models[model](torch.tensor([[*prompt, *ids]])).logits[0].double().log_softmax(-1)
        return sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(ids))

    def reward(scorer: str, row: Preference, ids: list[int]) -> float:
        return 0.3 * (logprob(scorer, row, ids) - logprob("start", row, ids))

    other = {"first": "second", "second": "first"}
    for (half, _), samples in answers.dialled.items():
        for row, sample in zip(rows, samples, strict=True):
            # fp32 log-probs of at most 5 tokens of size 10: 1e-5 is ten roundings.
            assert sample["scores"][name] == pytest.approx(reward(other[half], row, sample["ids"]), abs=1e-5)
            assert abs(sample["scores"][name] - reward(half, row, sample["ids"])) > 1e-3
    beside = [
        (reward("first", row, s["ids"]) + reward("second", row, s["ids"])) / 2
        for row, s in zip(rows, answers.start, strict=True)
    ]
    assert [s["scores"][name] for s in answers.start] == pytest.approx(beside, abs=1e-5)
    for point in result.points:
        if point.cross_fitted is None:  # flagged: two answers are few
            continue
        tables = [[s["scores"][name] for s in answers.dialled[half, point.dial]] for half in homes]
        gain = sum(map(sum, tables)) / 4 - sum(beside) / 2
        assert point.cross_fitted.estimate == pytest.approx(gain, abs=1e-5)


def test_with_a_judge_halves_are_decided_by_the_judge(halved: Any, world: Path) -> None:
    result, out = halved
    judged = calibrated(world, out, dials=DIALS, halves=True, evaluator="world:enumerable-tiny", **LONGER)
    assert judged.answer.verdict != "needs a judge" and judged.judge == "gold_reward"
    assert [p.kl for p in judged.points] == [p.kl for p in result.points]
    assert [p.cross_fitted for p in judged.points] == [p.cross_fitted for p in result.points]


@given(st.integers(1, 900), st.floats(0, 100), st.lists(st.floats(0, 5), min_size=60, max_size=60))
def test_prompts_are_answered_while_the_time_lasts(rows: int, seconds: float, each: list[float]) -> None:
    now = [0.0]
    numbers: list[Any] = list(range(rows))
    given_out: list[Any] = []
    spent: list[float] = []
    for part in within(numbers, seconds, clock=lambda: now[0]):
        assert not spent or now[0] + max(spent) <= seconds
        given_out += part
        spent.append(each[len(spent)])
        now[0] += spent[-1]
    assert given_out == numbers[: len(given_out)] and len(given_out) <= 512
    assert len(given_out) >= min(rows, 20)
    if len(given_out) < min(rows, 512):
        assert now[0] + max(spent) > seconds
    if len(spent) > 1 and spent[-1] == max(spent[:-1]):  # what was foreseen held
        assert now[0] <= seconds


def test_an_odd_number_of_updates_is_not_counted_as_free() -> None:
    config = build(
        TrainConfig, {"model": "m", "data": "d", "output_dir": "o", "max_steps": 31}, aliases=TRAIN_ALIASES
    )
    assert updates_in_wholes(config) == pytest.approx(32 / 31)


def test_a_judge_without_verdicts_recommends_nothing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = LengthJudge.__call__

    def nothing(self: LengthJudge, questions: list[Question]) -> list[Opinion]:
        return [Opinion(None, "no answer") for _ in silent(self, questions)]

    monkeypatch.setattr(LengthJudge, "__call__", nothing)
    result = calibrated(world, tmp_path / "cal", dials=[1], judge="length", max_steps=2)
    assert result.answer.verdict == "needs a judge" and result.recommended_dial is None
    assert "length scored the answers to fewer than two prompts" in result.answer.sentence
    assert result.points[0].gain is None and result.points[0].kl.estimate > 0
    assert any("2 of 2 prompts have no verdict" in note for note in result.notes)


def test_a_finished_run_is_taken_over(found: Any, world: Path) -> None:
    result, out = found
    before = (out / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    again = calibrated(world, out, evaluator="world:enumerable-tiny", dials=[0.5, 1, 2])
    assert (out / "run" / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert [p.kl for p in again.points] == [p.kl for p in result.points]


def test_refusals_are_one_line_and_come_before_training(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for more, said in (
        ({"dials": [0, 1]}, "above 0"),
        ({"dials": [1, 1]}, "different values"),
        ({"dials": [1, 101]}, "at most 100"),
        ({"dials": [1, float("nan")]}, "above 0"),
        ({"prompts": 0}, "at least 1"),
        ({"prompts": -3}, "at least 1"),
        ({"reference": "none"}, "calibrate with reference self"),
        ({"judge": "length", "evaluator": "world:enumerable-tiny"}, "not both"),
        ({"halves": True, "loss_type": "ipo"}, "use loss_type sigmoid"),
        ({"halves": True, "data_half": "first"}, "leave it out"),
    ):
        with pytest.raises(UsageError, match=said):
            calibrated(world, tmp_path / "x", **more)
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        with pytest.raises(UsageError, match="without torchrun"):
            calibrated(world, tmp_path / "x")
    assert not (tmp_path / "x" / "run").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"notes\.txt"):
        calibrated(world, tmp_path / "full", dials=[1])
    with pytest.raises(
        DataError, match=r"a half of the pairs has 1\d\d, fewer than one update takes \(200\)"
    ):
        calibrated(world, tmp_path / "few", halves=True, train_batch_size=200)
    with pytest.raises(RunFolderError, match="halves"):
        calibrated(world, tmp_path / "few", dials=[1])


def test_without_held_out_rows_a_tenth_is_held_out(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "cal"
    few = {"dials": [1], "eval_data": None, "max_steps": 1}
    whole = {key: value for key, value in (OPTIONS | few).items() if key != "eval_data"}
    api.calibrate(world / "model", world / "train.jsonl", out, **whole)
    assert read_run(out / "run").config["eval_fraction"] == 0.1
    none = api.calibrate(
        world / "model", world / "train.jsonl", tmp_path / "none", **whole, eval_fraction=0, judge="length"
    )
    assert (tmp_path / "none" / "opinions.jsonl").is_file()
    assert any("no rows were held out" in note for note in none.notes)


def test_a_dial_that_is_no_number_is_refused_before_anything(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["calibrate", "--model", str(world / "model"), "--data", str(world / "train.jsonl")]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--output-dir", str(tmp_path / "cal"), "--dial", "1,two"])
    assert stopped.value.code == 2 and "--dial: '1,two'; give numbers" in capsys.readouterr().err
    assert not (tmp_path / "cal").exists()


def test_the_command_prints_its_document(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(world / "model"), "--data", str(world / "train.jsonl")]
    words += [f"--{k.replace('_', '-')}={v}" for k, v in {**OPTIONS, "max_steps": 2}.items()]
    with pytest.raises(SystemExit) as stopped:
        main(["calibrate", *words, "--output-dir", str(tmp_path / "cal"), "--dial", "1,2", "--json"])
    assert stopped.value.code in (0, None)
    document = json.loads(capsys.readouterr().out)
    assert [p["dial"] for p in document["points"]] == [1.0, 2.0] and document["judge"] is None


@pytest.mark.parametrize(
    ("said", "share"),
    [({}, 0.1), ({"eval_rows": 5}, 0.0), ({"eval_fraction": 0.3}, 0.3), ({"eval_dataset_name": "e"}, 0.0)],
)
def test_prompts_are_held_out_where_the_options_do_not_say_which(said: dict[str, Any], share: float) -> None:
    config = TrainConfig(model_name_or_path="m", dataset_name="d", output_dir="o", **said)
    assert calibrating._holding_out(config).eval_fraction == share
