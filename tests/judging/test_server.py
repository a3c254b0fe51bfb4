import re
import time
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the judge extra is not installed")

from tests.servers import Stub, asked, completion, serving
from tether.errors import UsageError
from tether.judging.client import Server
from tether.judging.judges import Question
from tether.judging.pairwise import Cache, Pair, judge_pairs
from tether.judging.server import ServerJudge

QUESTION = Question("2 + 2?", "4", "5")


def _first_is_four(body: dict) -> dict:
    found = re.search(r"=== answer A \w+ ===\n(.*)\n===", asked(body))
    good = found is not None and found.group(1) == "4"
    return completion({"A": 0.8, "B": 0.1, "C": 0.1} if good else {"A": 0.1, " B": 0.7}, "A" if good else "B")


def _judge(url: str, **options) -> ServerJudge:
    return ServerJudge(Server(url, **{"wait": 0.0, "sleep": lambda _: None, **options}), "m")


def test_probabilities_of_the_two_letters_are_the_verdict() -> None:
    with serving(Stub(_first_is_four)) as url:
        (opinion,) = _judge(url)([QUESTION])
        (turned,) = _judge(url)([Question("2 + 2?", "5", "4")])
    assert opinion.share == pytest.approx(0.8 / 0.9)
    assert turned.share == pytest.approx(0.1 / 0.8)


def test_without_probabilities_the_letter_is_parsed_and_nothing_is_guessed() -> None:
    for text, share in (("B", 0.0), (" a.", 1.0), ("Answer A", 1.0), ("Both are fine", None), ("", None)):
        with serving(Stub(lambda _, text=text: completion(None, text))) as url:
            (opinion,) = _judge(url)([QUESTION])
        assert opinion.share == share
        assert ("unparsed" in opinion.error) == (share is None)


@pytest.mark.parametrize("fault", ["timeout", "slow", "cut", "429", "500", "503", "truncated", "not json"])
def test_a_passing_fault_is_tried_again(fault: str) -> None:
    stub = Stub(_first_is_four)
    stub.faults = [fault, fault]
    with serving(stub) as url:
        judge = _judge(url, timeout=0.3, workers=1)
        (opinion,) = judge([QUESTION])
    assert opinion.share == pytest.approx(0.8 / 0.9)
    assert judge.usage.retries == 2


def test_tries_are_bounded_and_the_failure_is_told() -> None:
    stub = Stub(_first_is_four)
    stub.faults = ["500"] * 50
    with serving(stub) as url:
        (opinion,) = _judge(url, attempts=3)([QUESTION])
    assert opinion.share is None
    assert opinion.error == "HTTP 500 after 3 attempts"
    assert len(stub.requests) == 3


def test_an_answer_that_only_drips_ends_at_the_deadline() -> None:
    stub = Stub(_first_is_four)
    stub.faults = ["slow"] * 9
    with serving(stub) as url:
        began = time.monotonic()
        (opinion,) = _judge(url, timeout=0.3, attempts=2)([QUESTION])
    assert opinion.error == "timeout after 2 attempts"
    assert time.monotonic() - began < 5  # the reply takes 20 s to drip; no pause in it is longer than 0.05 s


def test_tokens_that_are_no_letter_are_counted_as_unparsed() -> None:
    stub = Stub(_first_is_four)
    stub.faults = ["wrong tokens"]
    with serving(stub) as url:
        (opinion,) = _judge(url)([QUESTION])
    assert opinion.share is None
    assert opinion.error == "unparsed: 'The'"


def test_a_server_may_say_how_long_to_wait() -> None:
    waits: list[float] = []
    stub = Stub(_first_is_four)
    stub.faults, stub.retry_after = ["429", "503"], "7"
    with serving(stub) as url:
        _judge(url, wait=0.01, sleep=waits.append)([QUESTION])
    assert waits == [7, 7]


def test_a_server_without_probabilities_is_asked_without_them_and_remembered() -> None:
    stub = Stub(lambda body: completion(None, "A"))
    stub.refuse = ("logprobs", "top_logprobs", "temperature", "max_tokens")
    with serving(stub) as url:
        judge = _judge(url, workers=1, attempts=1)
        opinions = judge([QUESTION, QUESTION])
    assert [opinion.share for opinion in opinions] == [1.0, 1.0]
    sent = [request["body"] for request in stub.requests]
    assert set(sent[-1]) == {"model", "messages", "max_completion_tokens"}
    assert len(sent) == 3 + 1 + 1  # three refusals in all, then each question once
    assert judge.usage.retries == 0


def test_a_key_in_the_address_is_refused_before_it_becomes_a_name() -> None:
    for url in ("http://user:sk-1@host/v1", "http://host/v1?key=sk-1", "host/v1", "file:///etc/passwd"):
        with pytest.raises(UsageError) as error:
            Server(url)
        assert "sk-1" not in str(error.value)


def test_the_tokens_a_server_counts_are_added_up() -> None:
    with serving(Stub(_first_is_four)) as url:
        judge = _judge(url, workers=4)
        judge([QUESTION] * 6)
    assert (judge.usage.requests, judge.usage.prompt_tokens, judge.usage.completion_tokens) == (6, 42, 6)


def test_a_refusal_is_not_tried_again() -> None:
    stub = Stub(_first_is_four)
    stub.faults = ["401"] * 5
    with serving(stub) as url:
        (opinion,) = _judge(url)([QUESTION])
    assert opinion.error == "HTTP 401 after 1 attempts"


def test_waiting_doubles() -> None:
    waits: list[float] = []
    stub = Stub(_first_is_four)
    stub.faults = ["429"] * 4
    with serving(stub) as url:
        _judge(url, wait=1.0, sleep=waits.append)([QUESTION])
    assert len(waits) == 4
    assert all(0.5 * 2**i <= wait <= 2**i for i, wait in enumerate(waits))


@pytest.mark.parametrize(
    "reply", [{"choices": []}, {"choices": [{"message": {}}]}, completion({"x": 1.0}, "??")]
)
def test_a_reply_of_another_shape_is_counted_as_unparsed(reply: dict) -> None:
    with serving(Stub(lambda _: reply)) as url:
        (opinion,) = _judge(url)([QUESTION])
    assert opinion.share is None
    assert "unparsed" in opinion.error


def test_no_server_is_an_opinion_too() -> None:
    (opinion,) = _judge("http://127.0.0.1:9/v1", attempts=2)([QUESTION])
    assert opinion.share is None
    assert "no connection" in opinion.error


def test_the_key_comes_from_the_environment_and_is_written_nowhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    stub = Stub(_first_is_four)
    with serving(stub) as url:
        judge = _judge(url)
        verdicts = judge_pairs(
            [Pair("p", "2 + 2?", "4", "5")], judge, ("a", "b"), cache=Cache(tmp_path / "c.jsonl")
        )
    assert stub.requests[0]["authorization"] == "Bearer sk-secret"
    written = (tmp_path / "c.jsonl").read_text() + verdicts[0].model_dump_json() + judge.identity
    assert "sk-secret" not in written


def test_a_restart_asks_only_what_failed(tmp_path: Path) -> None:
    pairs = [Pair(str(i), f"{i}?", "4", "5") for i in range(10)]
    stub = Stub(_first_is_four)
    stub.faults = ["401"] * 3
    cache = tmp_path / "cache.jsonl"
    with serving(stub) as url:
        judge = _judge(url, workers=1)
        first = judge_pairs(pairs, judge, ("a", "b"), cache=Cache(cache))
        assert sum(v.share is None for v in first) == 2  # three of twenty questions, in two pairs
        assert sum(len(v.errors) for v in first) == 3
        asked = len(stub.requests)
        second = judge_pairs(pairs, judge, ("a", "b"), cache=Cache(cache))
        assert len(stub.requests) == asked + 3
    assert all(v.share is not None for v in second)
