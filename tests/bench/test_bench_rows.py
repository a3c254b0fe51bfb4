"""Rows of the benchmark: the same every time, cut so that neither program has to cut."""

import itertools
import statistics
from typing import Any

import pytest

from bench import rows
from bench.measure import largest_updates
from tests.tiny import tiny_tokenizer


@pytest.fixture
def encode() -> rows.Encode:
    return rows.encoder(tiny_tokenizer(chat=False))


def made(count: int = 40) -> list[rows.Row]:
    return rows.made_up(rows.Lengths((5, 12), (6, 20), (4, 10)), count)


def test_made_up_rows_follow_the_lengths_they_are_asked_for() -> None:
    some = rows.made_up(rows.LENGTHS["hh"], 2000)
    words = sorted(len(row["chosen"].split()) for row in some)
    assert abs(statistics.median(words) - 31) <= 3  # standard error of the median is about 0.9
    assert abs(words[int(0.9 * len(words))] - 100) <= 15
    assert made() == made()


def test_fixed_lengths_do_not_vary() -> None:
    some = rows.made_up(rows.fixed(7, 3, 2), 20)
    counts = {tuple(len(row[name].split()) for name in ("chosen", "rejected")) for row in some}
    assert counts == {(3, 2)}


def test_every_fitted_row_fits_with_its_end_token_and_splits_at_the_prompt(encode: rows.Encode) -> None:
    limit = 60
    some = rows.fitted(made(), encode, 10, limit)
    for row in some:
        prompt = encode(row["prompt"])[0]
        for name in ("chosen", "rejected"):
            answer = encode(row[name])[0]
            assert len(prompt) + len(answer) + 1 <= limit
            assert encode(row["prompt"] + row[name])[0] == prompt + answer
    assert any(row not in made() for row in some), "nothing was cut, so nothing was shown"


def test_too_few_rows_are_refused(encode: rows.Encode) -> None:
    with pytest.raises(ValueError, match="rows fit in 20 tokens, 10 are needed"):
        rows.fitted(made(), encode, 10, 20)


def test_the_corpus_is_made_up_where_no_real_rows_are_at_hand(tmp_path: Any) -> None:
    some, source = rows.corpus("hh", folder=tmp_path)
    assert source.startswith("made up") and len(some) == rows.CORPUS_ROWS


@pytest.mark.data
def test_real_rows_are_plain_text_in_a_shuffled_order(real_data: Any) -> None:
    for kind, name in rows.FILES.items():
        some, source = rows.corpus(kind, folder=real_data)
        assert source == name
        assert all(row["prompt"].endswith("Assistant:") for row in some)
        assert all(row["chosen"].startswith(" ") for row in some)
        # AlpacaEval keeps about ten pairs of a prompt together; shuffled, neighbours differ.
        same = sum(a["prompt"] == b["prompt"] for a, b in itertools.pairwise(some))
        assert same < len(some) / 20


@pytest.mark.parametrize("answers", [4, 8])
def test_rankings_and_their_pairs_hold_the_same_answers(answers: int) -> None:
    pairs = made(16)
    rankings = list(rows.as_rankings(pairs, answers))
    again = [pair for row in rankings for pair in rows.as_pairs(row)]
    assert len(rankings) == 32 // answers
    assert [(p["chosen"], p["rejected"]) for p in again] == [(p["chosen"], p["rejected"]) for p in pairs]
    assert all(len(row["completions"]) == answers == len(set(row["scores"])) for row in rankings)


def test_memory_is_measured_on_the_updates_that_need_most() -> None:
    lengths = [(5, [1, 1]), (5, [1, 1]), (1, [9, 9]), (1, [9, 9]), (1, [20, 1]), (1, [1, 1]), (5, [1, 1])]
    # Real tokens by update of two: 14, 38, 25, 7; padded to the longest: 24, 40, 84, 12.
    assert largest_updates(lengths, 2) == [2, 3, 4, 5]
    assert largest_updates(lengths[:4], 2) == [2, 3]
    assert largest_updates(lengths, 100) == list(range(7))
