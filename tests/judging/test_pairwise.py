import json
from pathlib import Path

import pytest

from tether.errors import DataError, ResourceError
from tether.judging.judges import LengthJudge, Opinion, Question
from tether.judging.outputs import pair_outputs, read_outputs
from tether.judging.pairwise import Cache, Pair, judge_pairs, read_verdicts
from tether.records.results import write_lines


class Counting:
    """Prefers the answer shown first by 0.7, and fails on demand."""

    name = identity = "counting"
    free, at_once = True, 64

    def __init__(self, fail: set[str] = frozenset()) -> None:
        self.asked: list[Question] = []
        self.fail = fail

    def __call__(self, questions):
        self.asked += questions
        return [Opinion(None, "no") if q.first in self.fail else Opinion(0.7) for q in questions]


PAIRS = [Pair(f"p{i}", f"prompt {i}", f"a{i}", f"b{i}") for i in range(5)]


def test_both_orders_are_asked_and_a_taste_for_the_first_cancels() -> None:
    judge = Counting()
    verdicts = judge_pairs(PAIRS, judge, ("m", "n"))
    assert len(judge.asked) == 10
    assert all(v.a_first == 0.7 and v.b_first == pytest.approx(0.3) for v in verdicts)
    assert all(v.share == pytest.approx(0.5) and v.inconsistent for v in verdicts)


def test_a_failure_is_no_tie_and_no_loss() -> None:
    verdicts = judge_pairs(PAIRS, Counting({"b2"}), ("m", "n"))
    assert [v.share is None for v in verdicts] == [False, False, True, False, False]
    assert verdicts[2].errors == ("no",)
    assert verdicts[2].a_first == 0.7 and verdicts[2].b_first is None


def test_the_cache_answers_what_it_knows_and_keeps_no_failure(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    judge_pairs(PAIRS, Counting({"b2"}), ("m", "n"), cache=Cache(path))
    again = Counting()
    judge_pairs(PAIRS, again, ("m", "n"), cache=Cache(path))
    assert [q.first for q in again.asked] == ["b2"]
    other = Counting()
    other.identity = "another judge"
    judge_pairs(PAIRS, other, ("m", "n"), cache=Cache(path))
    assert len(other.asked) == 10


def test_a_line_cut_by_a_kill_is_asked_again_and_spoils_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    judge_pairs(PAIRS, Counting(), ("m", "n"), cache=Cache(path))
    path.write_bytes(path.read_bytes()[:-7])
    for asked in (1, 0):
        judge = Counting()
        judge_pairs(PAIRS, judge, ("m", "n"), cache=Cache(path))
        assert len(judge.asked) == asked


def test_the_same_question_is_asked_once() -> None:
    judge = Counting()
    judge_pairs([PAIRS[0], PAIRS[0], Pair("same", "q", "x", "x")], judge, ("m", "n"))
    assert len(judge.asked) == 3


def test_verdicts_survive_their_file(tmp_path: Path) -> None:
    chat = Pair("c", ({"role": "user", "content": "hé \ud800"},), "x", "yy")
    verdicts = judge_pairs([*PAIRS, chat], LengthJudge(), ("m", "n"))
    write_lines(tmp_path / "v.jsonl", verdicts)
    assert read_verdicts(tmp_path / "v.jsonl") == verdicts
    (tmp_path / "w.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(DataError, match=r"w\.jsonl:1"):
        read_verdicts(tmp_path / "w.jsonl")


def test_answers_are_paired_by_prompt_and_sample_whatever_their_order(tmp_path: Path) -> None:
    rows = [{"prompt": p, "completion": f"{p}{s}", "sample": s, "model": "m"} for p in "xyz" for s in (0, 1)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    other = [{"instruction": p, "output": f"{p}!", "generator": "n"} for p in "zyq"]
    (tmp_path / "b.json").write_text(json.dumps(other))
    a, b = read_outputs(tmp_path / "a.jsonl"), read_outputs(tmp_path / "b.json")
    paired = pair_outputs(a, b)
    assert (a.name, b.name) == ("m", "n")
    assert [(p.a, p.b) for p in paired.pairs] == [("y0", "y!"), ("z0", "z!")]
    assert (paired.only_a, paired.only_b) == (4, 1)
    rows.append(rows[0])
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(DataError, match="row 7: this prompt is answered twice"):
        read_outputs(tmp_path / "a.jsonl")


def test_a_server_that_answers_nothing_ends_the_asking_and_keeps_what_it_said(tmp_path: Path) -> None:
    class Dying(Counting):
        free, at_once = False, 5

        def __call__(self, questions):
            if self.asked:
                return [Opinion(None, "timeout after 5 attempts") for _ in questions]
            return super().__call__(questions)

    pairs = [Pair(f"p{i}", f"prompt {i}", f"a{i}", f"b{i}") for i in range(20)]
    with pytest.raises(ResourceError, match="10 questions in a row without an answer"):
        judge_pairs(pairs, Dying(), ("m", "n"), cache=Cache(tmp_path / "c.jsonl"))
    assert Cache(tmp_path / "c.jsonl").size == 10
