"""From files to groups: what a task and its options make of rows, and what is counted."""

import json
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import tiny_model
from tests.tokens.variants import CHATML, assistant, chat_tokenizer, renderer, user
from tether.config.train import TrainConfig
from tether.errors import DataError, Interrupted
from tether.records.rows import Completion, Origin, Preference
from tether.tokens.collate import collate
from tether.training.prepare import left_out, prepare, read, task_of
from tether.training.run import train
from tether.training.steps import Engine, update_gradient
from tether.training.track import Silent

Make = Callable[..., TrainConfig]
CHAT = chat_tokenizer(CHATML)
TALK = [user("hi"), assistant("yes"), user("and?"), assistant("that")]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(("turns", "expected"), [("last", ["that"]), ("all", ["yes", "that"])])
def test_supervised_chats_score_the_last_or_every_assistant_turn(
    turns: str, expected: list[str], make_config: Make, tmp_path: Path
) -> None:
    config = make_config(
        dataset_name=write(tmp_path / "talk.jsonl", [{"messages": TALK}]),
        loss_type="sft",
        score_turns=turns,
    )
    using = renderer(CHAT, "<|im_end|>", score_turns=config.score_turns)
    prepared = prepare(config, read(config, None, None, task=task_of(config)), using, task=task_of(config))
    (group,) = prepared.train.groups
    (completion,) = group.completions
    marks = completion.scored or (True,) * len(completion.ids)
    said = CHAT.decode([token for token, mark in zip(completion.ids, marks, strict=True) if mark])
    assert said == "".join(f"{text}<|im_end|>" for text in expected)
    whole = CHAT.apply_chat_template(TALK, tokenize=False)
    assert CHAT.decode(group.prompt_ids + completion.ids) == whole.rstrip("\n")


def test_rows_left_out_are_the_dropped_ones_also_where_pairs_are_taken_apart(
    make_config: Make, tmp_path: Path
) -> None:
    rows = [{"prompt": f"q{i}", "chosen": " yes", "rejected": " no"} for i in range(4)]
    rows.append({"prompt": "q", "chosen": " same", "rejected": " same"})
    config = make_config(dataset_name=write(tmp_path / "pairs.jsonl", rows), loss_type="kto")
    prepared = prepare(
        config,
        read(config, None, None, task="unpaired"),
        renderer(CHAT),
        task="unpaired",
        mismatched=True,
    )
    text = left_out(prepared)
    assert text.startswith("rows: 5 read, 8 to train on (4 pairs taken apart), 0 held out, 1 left out")
    assert all([c.role for c in group.completions][1:] == ["kl"] for group in prepared.train.groups)


def test_max_samples_takes_the_first_rows_of_each_source_and_lists_the_others(
    make_config: Make, tmp_path: Path
) -> None:
    made = [{"prompt": f"{i}?", "chosen": " yes", "rejected": f" no {i}"} for i in range(6)]
    spoilt = [{**made[0], "chosen": ""}, *made[1:]]
    names = [write(tmp_path / f"{n}.jsonl", rows) for n, rows in (("a", spoilt), ("b", made), ("c", made))]
    config = make_config(dataset_name=names[:2], eval_dataset_name=names[2], max_samples=2)
    prepared = prepare(config, read(config, None, None, task="preference"), renderer(CHAT), task="preference")
    assert [row.row_id for row in prepared.train.rows] == ["a.jsonl:2", "a.jsonl:3", "b.jsonl:1", "b.jsonl:2"]
    assert [row.row_id for row in prepared.held_out.rows] == ["c.jsonl:1", "c.jsonl:2"]
    found = {f["kind"]: f["rows"] for f in prepared.preflight["findings"]}
    assert list(found["train_max_samples"]) == [
        *(f"a.jsonl:{n}" for n in (4, 5, 6)),
        *(f"b.jsonl:{n}" for n in (3, 4, 5, 6)),
    ]
    assert len(found["eval_max_samples"]) == 4


@pytest.mark.parametrize("count", [1, 2, 3, 7, 29])
def test_eval_rows_holds_out_so_many_rows(count: int, make_config: Make, tmp_path: Path) -> None:
    made = [{"prompt": f"{i}?", "chosen": " yes", "rejected": f" no {i}"} for i in range(30)]
    config = make_config(dataset_name=write(tmp_path / "a.jsonl", made), eval_rows=count)
    loaded = read(config, None, None, task="preference")
    assert len(prepare(config, loaded, renderer(CHAT), task="preference").held_out.rows) == count
    share = make_config(dataset_name=config.dataset_name, eval_fraction=count / 30)
    if count in (3, 7):  # what a share of the same size holds out
        same = prepare(share, loaded, renderer(CHAT), task="preference")
        assert same.names == prepare(config, loaded, renderer(CHAT), task="preference").names
    with pytest.raises(DataError, match="eval_rows is 30, but there are 30 rows"):
        prepare(make_config(eval_rows=30), loaded, renderer(CHAT), task="preference")


@pytest.mark.parametrize("loss_type", ["aot", "simpo", "sft"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_an_update_of_several_turns_does_not_depend_on_how_it_is_cut(
    layout: str, loss_type: str, make_config: Make
) -> None:
    using = renderer(CHAT, "<|im_end|>", score_turns="all")
    rows = [
        Preference(
            Origin("rows", i),
            (user(f"hi {i}"),),
            (
                Completion("chosen", (assistant("yes"), user("and?" * i), assistant("that" * i))),
                Completion("rejected", (assistant("no" * i),)),
            ),
        )
        for i in range(1, 6)
    ]
    batch = collate(using.encode_all(rows))
    assert batch.scored is not None and not bool(batch.scored.all())
    model = tiny_model("llama", vocab_size=len(CHAT))
    config = make_config(loss_type=loss_type, reference="none")

    def gradient(layout: str, budget: int) -> tuple[torch.Tensor, float]:
        model.zero_grad(set_to_none=True)
        engine = Engine(model, config, layout, 64, nullcontext)  # type: ignore[arg-type]
        scored = update_gradient(engine, batch, None, budget)
        policy, loss = scored.inputs.policy, scored.loss
        assert policy.counts.tolist() == batch.scored_lengths.tolist()
        assert policy.tokens is not None and len(policy.tokens) == int(batch.scored_lengths.sum())
        if loss_type == "sft":  # the mean over the chosen side's scored tokens, and no others
            chosen = batch.with_role("chosen")
            mean = float(policy.sums[chosen].sum() / batch.scored_lengths[chosen].sum())
            assert loss == pytest.approx(-mean, rel=1e-5)
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), loss

    oracle, expected = gradient("padded", 100_000)
    cut, loss = gradient(layout, 60)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert float((cut - oracle).norm() / oracle.norm()) <= 1e-5


def test_a_mix_with_weights_trains_and_a_stopped_run_goes_on_with_the_same_rows(
    make_config: Make, tmp_path: Path
) -> None:
    def rows(name: str, count: int) -> str:
        made = [{"prompt": f"{name} {i}?", "chosen": " yes", "rejected": f" no {i}"} for i in range(count)]
        return write(tmp_path / f"{name}.jsonl", made)

    options: dict[str, Any] = {
        "dataset_name": [{"path": rows("a", 6), "weight": 1}, {"path": rows("b", 8), "weight": 0.25}],
        "train_batch_size": 2,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "save_steps": 1,
    }
    whole = train(make_config(**options, output_dir=str(tmp_path / "whole")))
    assert whole.steps == 2 * (6 + 2) // 2
    stopped = make_config(**options, output_dir=str(tmp_path / "stopped"))
    asked = StopAfter(5)
    with pytest.raises(Interrupted):
        train(stopped, watcher=asked)
    train(stopped)
    names = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "stopped")]
    first, second = (load_file(name) for name in names)
    assert all(torch.equal(first[key], second[key]) for key in first)


class StopAfter(Silent):
    """Ask for a stop, as Ctrl-C does, after an update."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, step: int, total: int, loss: float) -> None:
        if step == self.at:
            signal.raise_signal(signal.SIGINT)
