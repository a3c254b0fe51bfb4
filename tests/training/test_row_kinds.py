"""Rows that are not pairs, end to end: each raises the true reward, and nothing of them is left uncounted."""

import json
import math
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_ground_truth import Chain, Tuned
from tether.errors import DataError, UsageError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain("enumerable-tiny", tmp_path_factory.mktemp("tiny"), 300)


def pairs(chain: Chain) -> list[dict[str, Any]]:
    return [json.loads(line) for line in chain.files.train.read_text().splitlines()]


def reward(chain: Chain, row: Mapping[str, Any], answer: str) -> float:
    return chain.world.reward(tuple(row["prompt"]), row[answer][0]["content"])


def tune(chain: Chain, rows: Iterable[Mapping[str, Any]], name: str, **options: Any) -> Tuned:
    path = chain.folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"dataset_name": str(path), "output_dir": str(chain.folder / name), "max_steps": 16, **options}
    return chain.tune(0.1, **{"measure_prompts": 0, "learning_rate": 2e-3, **options})


def raised(chain: Chain, tuned: Tuned) -> float:
    """Return by how much the exact gold reward rose."""
    return tuned[1].reward - chain.world.exact(chain.start, chain.start).reward


def thumbs(chain: Chain) -> list[dict[str, Any]]:
    return [
        {"prompt": row["prompt"], "completion": row[answer], "label": answer == "chosen"}
        for row in pairs(chain)
        for answer in ("chosen", "rejected")
    ]


def rankings(chain: Chain, size: int, count: int) -> list[dict[str, Any]]:
    """Return `count` rankings of `size` answers to one prompt, drawn by Plackett-Luce on the gold reward."""
    rng = random.Random(5)
    known: dict[str, dict[str, float]] = {}
    for row in pairs(chain):
        for answer in ("chosen", "rejected"):
            answers = known.setdefault(json.dumps(row["prompt"]), {})
            answers[row[answer][0]["content"]] = reward(chain, row, answer)
    made: list[dict[str, Any]] = []
    for index in range(count):
        prompt = sorted(known)[index % len(known)]
        picked = rng.sample(sorted(known[prompt]), size)
        # The order of r + Gumbel noise is a draw from Plackett-Luce.
        noisy = {text: known[prompt][text] - math.log(-math.log(rng.random())) for text in picked}
        order = sorted(picked, key=lambda text: -noisy[text])
        made.append(
            {
                "context": json.loads(prompt),
                "completions": [
                    {"rank": rank, "completion": [{"role": "assistant", "content": text}]}
                    for rank, text in enumerate(order)
                ],
            }
        )
    return made


def test_thumbs_raise_the_true_reward(tiny: Chain) -> None:
    tuned = tune(tiny, thumbs(tiny), "kto", loss_type=("kto",), train_batch_size=64)
    assert raised(tiny, tuned) > 0.15
    assert tuned[0].data["used"] == tuned[0].data["read"] == 600


def test_kto_takes_pairs_apart_and_says_so(tiny: Chain) -> None:
    tuned = tune(tiny, pairs(tiny), "kto-pairs", loss_type=("kto",), max_steps=1)
    counts = {f["kind"]: f["count"] for f in tuned[0].data["findings"]}
    assert counts["pair_split"] == 300 and tuned[0].data["used"] == 600
    preflight = json.loads((Path(tuned[0].config["output_dir"]) / "preflight.json").read_text())
    assert preflight["used"] == 300


def test_rankings_raise_the_true_reward(tiny: Chain) -> None:
    tuned = tune(tiny, rankings(tiny, 4, 200), "lists", loss_type=("plackett_luce",))
    assert raised(tiny, tuned) > 0.15
    assert tuned[0].step0["loss"] == pytest.approx(math.log(24), rel=1e-5)


def test_a_pair_is_a_ranking_of_two(tiny: Chain) -> None:
    """The same rows, order and seed: Plackett-Luce on pairs gives the numbers of sigmoid."""
    results = [
        tune(tiny, pairs(tiny), name, loss_type=(name,), max_steps=4)[0].results["loss"]
        for name in ("plackett_luce", "sigmoid")
    ]
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def soft(chain: Chain) -> list[dict[str, Any]]:
    """Return pairs in random order whose only label is the probability that the first is better."""
    rng = random.Random(7)
    made: list[dict[str, Any]] = []
    for row in pairs(chain):
        first, second = ("chosen", "rejected") if rng.random() < 0.5 else ("rejected", "chosen")
        sure = 1 / (1 + math.exp(reward(chain, row, second) - reward(chain, row, first)))
        made.append(
            {"prompt": row["prompt"], "chosen": row[first], "rejected": row[second], "probability": sure}
        )
    return made


def test_soft_labels_raise_the_true_reward_where_the_columns_alone_teach_nothing(tiny: Chain) -> None:
    rows = soft(tiny)
    hard = [{key: value for key, value in row.items() if key != "probability"} for row in rows]
    learnt = raised(tiny, tune(tiny, rows, "soft"))
    assert learnt > 0.15
    assert raised(tiny, tune(tiny, hard, "hard")) < learnt / 2


def test_ties_are_left_out_or_kept_at_one_half(tiny: Chain) -> None:
    rows = [{**row, "score_chosen": 1, "score_rejected": int(i >= 20)} for i, row in enumerate(pairs(tiny))]
    # Rows 20 and later are tied.
    dropped = tune(tiny, rows, "ties-drop", max_steps=1)[0]
    assert dropped.data["used"] == 20
    kept = tune(tiny, rows, "ties-soft", ties="soft", max_steps=1)[0]
    assert kept.data["used"] == 300
    assert {f["kind"]: f["count"] for f in kept.data["findings"]}["ties_kept"] == 280


def test_an_objective_that_cannot_read_soft_labels_refuses_them_before_training(tiny: Chain) -> None:
    with pytest.raises(UsageError, match="plackett_luce cannot read rows with soft labels"):
        tune(tiny, soft(tiny), "refused", loss_type=("plackett_luce",))
    assert not (tiny.folder / "refused" / "run.json").exists()


def test_kto_without_a_second_prompt_is_refused(tiny: Chain) -> None:
    same = [row for row in thumbs(tiny) if row["prompt"] == thumbs(tiny)[0]["prompt"]]
    with pytest.raises(DataError, match="at least two prompts"):
        tune(tiny, same, "one-prompt", loss_type=("kto",))
