"""Win rates and paired differences by hand; what has no verdict is counted and in no rate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.test_answers import row
from tether.analysis.stats import mean_interval
from tether.errors import DataError
from tether.judging.judges import EvaluatorJudge, Opinion, Question
from tether.judging.pairwise import Cache, Verdict, read_verdicts
from tether.tasks.compare import gap, judged, win_rate
from tether.tasks.sources import Asked

ASKED = [Asked(f"p{i}", f"prompt {i}", "ref") for i in range(4)]
ANSWERS = {
    one.id: row(one.id, text) for one, text in zip(ASKED, ("longer", "ref", "no", "longest"), strict=True)
}


class Length:
    name = "length"

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        return [float(len(completion)) for completion in completions]


class Broken(EvaluatorJudge):
    """Gives no verdict on prompt 3."""

    def __call__(self, questions: Sequence[Question]) -> list[Opinion]:
        return [
            Opinion(None, "broken") if q.prompt == "prompt 3" else opinion
            for q, opinion in zip(questions, super().__call__(questions), strict=True)
        ]


def test_a_win_rate_by_hand(tmp_path: Path) -> None:
    """Longer, equal, shorter, longer: 1, 1/2, 0, 1."""
    judge = EvaluatorJudge("length", Length())
    verdicts = judged(ANSWERS, ASKED, "dpo", 0.5, judge, Cache(), tmp_path)
    assert [verdict.share for verdict in verdicts] == [1.0, 0.5, 0.0, 1.0]
    found = win_rate("dpo", 0.5, verdicts, ANSWERS, ASKED, Length(), seed=3)
    expected = mean_interval([100, 50, 0, 100], bounds=(0, 100), seed=3)
    assert (found.win_rate.value, found.win_rate.low, found.win_rate.high) == (
        62.5,
        expected.low,
        expected.high,
    )
    assert (found.ties, found.prompts, found.failed, found.cut) == (25.0, 4, 0, 0.0)
    assert found.reward is not None and found.reward.value == (6 + 3 + 2 + 7) / 4
    assert found.reference_reward == 3.0 and found.chars == 4.5
    assert read_verdicts(tmp_path / "verdicts" / "dpo-t0.5.jsonl") == verdicts


def test_what_has_no_verdict_is_counted_and_in_no_rate(tmp_path: Path) -> None:
    verdicts = judged(ANSWERS, ASKED, "dpo", 1.0, Broken("length", Length()), Cache(), tmp_path)
    found = win_rate("dpo", 1.0, verdicts, ANSWERS, ASKED, None, seed=0)
    assert (found.prompts, found.failed, found.win_rate.value, found.reward) == (3, 1, 50.0, None)
    with pytest.raises(DataError, match="gave no verdict on 1 prompts"):
        win_rate("dpo", 1.0, verdicts[3:], ANSWERS, ASKED, None, seed=0)
    with pytest.raises(DataError, match="no answer to p1 \\(1 prompts\\)"):
        without = {name: one for name, one in ANSWERS.items() if name != "p1"}
        judged(without, ASKED, "dpo", 1.0, Broken("length", Length()), Cache(), tmp_path)


def verdict(prompt: str, share: float | None) -> Verdict:
    return Verdict(
        id=prompt,
        prompt=prompt,
        model_a="a",
        model_b="reference",
        answer_a="x",
        answer_b="y",
        judge="j",
        a_first=share,
        b_first=share,
    )


def test_a_difference_is_paired_by_prompt_whatever_the_order() -> None:
    """Shares 1, .5, 0 against 0, .5, none and 1 elsewhere: 100, 0 points on the two prompts both have."""
    verdicts = {
        "dpo": [verdict("a", 1.0), verdict("b", 0.5), verdict("c", 0.0)],
        "sft": [verdict("b", 0.5), verdict("c", None), verdict("a", 0.0), verdict("d", 1.0)],
    }
    found = gap("dpo", "sft", 0.0, verdicts, seed=0)
    assert found is not None
    assert (found.points.value, found.prompts) == (50.0, 2)
    same = {"dpo": [verdict(str(i), i % 2) for i in range(30)]}
    none = gap("dpo", "sft", 0.0, {**same, "sft": same["dpo"][::-1]}, seed=0)
    assert none is not None and none.points.value == 0.0 and not none.distinguishable
    better = {**same, "sft": [verdict(str(i), 0.0) for i in range(30)]}
    told = gap("dpo", "sft", 0.0, better, seed=0)
    assert told is not None and told.points.value == 50.0 and told.distinguishable
    assert gap("dpo", "sft", 0.0, {**same, "sft": [verdict("z", 1.0)]}, seed=0) is None
