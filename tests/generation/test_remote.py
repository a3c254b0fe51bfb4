"""A server that fails as real ones do still gives one complete, ordered file, and is asked nothing twice."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("openai", reason="the server extra is not installed")

from tests.servers import Stub, asked, completion, serving
from tether.cli.main import main
from tether.config.generate import GenerateConfig, speaker_of, split_server
from tether.errors import DataError, ModelError, ResourceError, RunFolderError, UsageError
from tether.generation.client import Server
from tether.generation.engines import Sampling
from tether.generation.hosted import Hosted
from tether.generation.prompts import Prompt
from tether.generation.remote import ask_file

KEY = "sk-very-secret"


def echo(body: dict[str, Any]) -> dict[str, Any]:
    """Say the prompt and the request's seed, so that every answer is its own."""
    text = f"{asked(body)}|{body.get('seed')}"
    if "prompt" in body:
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": "stop"}
        return {"choices": [choice], "usage": {"completion_tokens": 5}}
    reply = completion(None, text)
    reply["choices"][0]["finish_reason"] = "stop"
    reply["usage"]["completion_tokens"] = 3
    return reply


def chat(number: int) -> Prompt:
    return Prompt(f"row-{number}", ({"role": "user", "content": f"question {number}"},))


def server(url: str, name: str = "m", **options: Any) -> Hosted:
    return Hosted(Server(url, **({"wait": 0.0, "sleep": lambda _: None, "timeout": 5.0} | options)), name)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_sample_of_every_prompt_is_asked_once_and_the_file_is_in_order(tmp_path: Path) -> None:
    stub, out = Stub(echo), tmp_path / "o.jsonl"
    prompts = [*(chat(n) for n in range(6)), Prompt("text", "Once upon")]
    with serving(stub) as url:
        record = ask_file(server(url), prompts, out, Sampling(seed=3), num_samples=3, workers=4)
    rows = rows_of(out)
    assert [(row["id"], row["sample"]) for row in rows] == [(p.id, n) for p in prompts for n in range(3)]
    assert len(stub.requests) == len({row["completion"] for row in rows}) == 21
    assert {row["model"] for row in rows} == {"m"}
    assert all(row["ended"] and row["stopped_by"] == "stop_token" for row in rows)
    assert {row["completion"].split("|")[0] for row in rows if row["id"] == "text"} == {"Once upon"}
    paths = [request["path"] for request in stub.requests]
    assert paths.count("/v1/completions") == 3 and paths.count("/v1/chat/completions") == 18
    assert (record.rows, record.prompts, record.continued) == (21, 7, 0)
    assert record.tokens == pytest.approx((18 * 3 + 3 * 5) / 21)
    body = next(r["body"] for r in stub.requests if "messages" in r["body"])
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (1.0, 1.0, 128)
    assert {"top_k", "min_p", "stop"}.isdisjoint(body)


def test_the_same_seed_asks_with_the_same_seeds_and_another_with_others(tmp_path: Path) -> None:
    seeds: list[list[int]] = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        stub = Stub(echo)
        with serving(stub) as url:
            ask_file(server(url), [chat(0), chat(1)], tmp_path / name, Sampling(seed=seed), num_samples=2)
        seeds.append(sorted(request["body"]["seed"] for request in stub.requests))
    assert seeds[0] == seeds[1] != seeds[2]
    assert all(0 <= seed < 2**31 for seed in seeds[0]) and len(set(seeds[0])) == 4


def test_what_is_asked_for_is_sent(tmp_path: Path) -> None:
    stub = Stub(echo)
    tool = {"type": "function", "function": {"name": "f"}}
    prompt = Prompt("a", ({"role": "user", "content": "x"},), (tool,), {"enable_thinking": False})
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, stop=("END",), max_new_tokens=9)
    with serving(stub) as url:
        ask_file(server(url), [prompt], tmp_path / "o", sampling)
    body = stub.requests[0]["body"]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.5, 0.9, 9)
    assert (body["top_k"], body["min_p"], body["stop"]) == (7, 0.1, ["END"])
    assert body["tools"] == [tool] and body["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    "fault", ["429", "500", "503", "timeout", "truncated", "wrong shape", "not json", "cut"]
)
def test_a_passing_fault_is_tried_again_and_leaves_no_trace(fault: str, tmp_path: Path) -> None:
    stub, out = Stub(echo), tmp_path / "o.jsonl"
    stub.faults = [fault, None, fault]
    with serving(stub) as url:
        asking = server(url, timeout=0.4 if fault == "timeout" else 5.0)
        record = ask_file(asking, [chat(n) for n in range(4)], out, Sampling(), workers=1)
    assert (record.rows, asking.retries, len(stub.requests)) == (4, 2, 6)


def test_an_answer_that_drips_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    stub = Stub(echo)
    stub.faults = ["slow"]
    with serving(stub) as url:
        ask_file(server(url, timeout=0.4), [chat(0)], tmp_path / "o", Sampling())
    assert len(stub.requests) == 2


def test_tries_are_bounded_failures_are_told_and_a_restart_asks_only_those(tmp_path: Path) -> None:
    stub, out = Stub(echo), tmp_path / "o.jsonl"
    stub.faults = [None, None, *["500"] * 3]
    prompts = [chat(n) for n in range(8)]
    with serving(stub) as url:
        asking = server(url, attempts=3)
        with pytest.raises(
            ResourceError, match=r"1 of 8 completions are missing \(1 failed; row-2: HTTP 500"
        ):
            ask_file(asking, prompts, out, Sampling(), workers=1)
        assert len(rows_of(out)) == 7
        before = len(stub.requests)
        record = ask_file(asking, prompts, out, Sampling(), workers=1)
        assert len(stub.requests) == before + 1
    assert record.continued == 7
    assert [row["id"] for row in rows_of(out)] == [prompt.id for prompt in prompts]


def test_a_server_that_is_gone_is_not_asked_for_ever(tmp_path: Path) -> None:
    asking = server("http://127.0.0.1:9/v1", attempts=2)
    with pytest.raises(
        ResourceError, match=r"100 of 100 completions are missing .*no connection .* after 2 attempts"
    ):
        ask_file(asking, [chat(n) for n in range(100)], tmp_path / "o", Sampling(), workers=2)
    assert asking.retries < 60, "the threads run a little ahead of who reads them"


@pytest.mark.parametrize(
    ("fault", "words"), [("401", "key in OPENAI_API_KEY"), ("404", "a model 'm'"), ("403", "HTTP 403")]
)
def test_a_refusal_that_would_meet_every_request_stops_at_once(
    fault: str, words: str, tmp_path: Path
) -> None:
    stub = Stub(echo)
    stub.faults = [fault] * 50
    with serving(stub) as url, pytest.raises(ModelError, match=words):
        ask_file(server(url), [chat(n) for n in range(50)], tmp_path / "o", Sampling(), workers=2)
    assert len(stub.requests) <= 6


def test_a_prompt_that_is_refused_does_not_stop_the_others(tmp_path: Path) -> None:
    stub = Stub(echo)
    stub.faults = ["400"]
    with serving(stub) as url, pytest.raises(ResourceError, match=r"1 of 3 .* HTTP 400 \(injected\)"):
        ask_file(server(url), [chat(n) for n in range(3)], tmp_path / "o", Sampling(), workers=1)
    assert (len(stub.requests), len(rows_of(tmp_path / "o"))) == (3, 2)


def test_a_field_the_server_does_not_know_is_renamed_or_left_out(tmp_path: Path) -> None:
    stub = Stub(echo)
    stub.refuse = ("max_tokens", "seed")
    with serving(stub) as url:
        ask_file(server(url), [chat(n) for n in range(3)], tmp_path / "o", Sampling(), workers=1)
    assert len(stub.requests) == 5
    assert stub.requests[-1]["body"]["max_completion_tokens"] == 128


def test_waiting_doubles_and_a_server_may_ask_for_more(tmp_path: Path) -> None:
    waits: list[float] = []
    stub = Stub(echo)
    stub.faults = ["429"] * 4
    with serving(stub) as url:
        ask_file(server(url, wait=1.0, sleep=waits.append), [chat(0)], tmp_path / "o", Sampling())
        assert all(0.5 * 2**i <= wait <= 2**i for i, wait in enumerate(waits)) and len(waits) == 4
        waits.clear()
        stub.faults, stub.retry_after = ["429", "429"], "17"
        ask_file(server(url, wait=1.0, sleep=waits.append), [chat(0)], tmp_path / "p", Sampling())
    assert waits == [17.0, 17.0]


def test_a_temperature_that_was_asked_for_is_never_left_out(tmp_path: Path) -> None:
    stub = Stub(echo)
    stub.refuse = ("temperature",)
    with serving(stub) as url:
        asking = server(url)
        ask_file(asking, [chat(0)], tmp_path / "o", Sampling())
        assert "temperature" not in stub.requests[-1]["body"]
        with pytest.raises(ResourceError, match="Unsupported parameter: 'temperature'"):
            ask_file(asking, [chat(0)], tmp_path / "p", Sampling(temperature=0.5))


def _ends(reason: str, text: str | None = "one END two", **more: Any) -> Callable[[Any], dict[str, Any]]:
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}} | more
    return lambda body: {"choices": [choice]}


@pytest.mark.parametrize(
    ("reply", "stop", "stopped_by", "text"),
    [
        (_ends("length"), (), "limit", "one END two"),
        (_ends("stop"), (), "stop_token", "one END two"),
        (_ends("stop"), ("END",), "stop", "one "),
        (_ends("stop", stop_reason="END"), ("END",), "stop_string", "one "),
        (_ends("stop", stop_reason=None), ("END",), "stop_token", "one "),
        (_ends("stop", matched_stop="END"), ("END",), "stop_string", "one "),
    ],
)
def test_endings_are_what_the_server_says(
    reply: Any, stop: tuple[str, ...], stopped_by: str, text: str, tmp_path: Path
) -> None:
    with serving(Stub(reply)) as url:
        record = ask_file(server(url), [chat(0)], tmp_path / "o", Sampling(stop=stop))
    (row,) = rows_of(tmp_path / "o")
    assert (row["stopped_by"], row["completion"], row["tokens"]) == (stopped_by, text, None)
    assert record.tokens is None and row["ended"] == (stopped_by != "limit")


@pytest.mark.parametrize("reply", [_ends("tool_calls"), _ends("content_filter"), _ends("stop", None)])
def test_what_is_no_completion_is_a_failure_not_an_empty_answer(reply: Any, tmp_path: Path) -> None:
    with serving(Stub(reply)) as url, pytest.raises(ResourceError, match=r"1 of 1 .*(ended with|no text)"):
        ask_file(server(url), [chat(0)], tmp_path / "o", Sampling())
    assert rows_of(tmp_path / "o") == []


def test_the_key_is_sent_and_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    (tmp_path / "p.txt").write_text("Hello\n")
    stub = Stub(echo)
    with serving(stub) as url:
        words = ["generate", "--server", f"{url}#m", "--api-key-env", "MY_KEY", "--prompts"]
        words += [str(tmp_path / "p.txt"), "--out", str(tmp_path / "o.jsonl")]
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        stub.faults = ["400"]
        stub.refuse = ()
        with pytest.raises(SystemExit) as ended:
            main([*words[:-1], str(tmp_path / "p.jsonl")])
        assert ended.value.code == 4
    assert stub.requests[0]["authorization"] == f"Bearer {KEY}"
    said = capsys.readouterr()
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert KEY not in written + said.out + said.err


def test_a_key_that_the_server_repeats_is_not_repeated_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "injected")
    stub = Stub(echo)
    stub.faults = ["400"]
    with serving(stub) as url, pytest.raises(ResourceError, match=r"HTTP 400 \(\*\*\*\)"):
        ask_file(server(url), [chat(0)], tmp_path / "o", Sampling())


def test_a_file_of_another_server_model_or_prompt_is_not_continued(tmp_path: Path) -> None:
    out = tmp_path / "o"
    with serving(Stub(echo)) as url:
        ask_file(server(url), [chat(0)], out, Sampling())
        with pytest.raises(RunFolderError, match=r"model.name was 'm' and is 'other' now"):
            ask_file(server(url, "other"), [chat(0)], out, Sampling())
        with pytest.raises(RunFolderError, match=r"prompts.count was 1"):
            ask_file(server(url), [chat(0), chat(1)], out, Sampling())
        with pytest.raises(DataError, match="two prompts have the id 'row-0'"):
            ask_file(server(url), [chat(0), chat(0)], tmp_path / "p", Sampling())


def test_addresses_are_read_and_keys_in_them_refused() -> None:
    assert split_server("http://h:1#org/m") == ("http://h:1/v1", "org/m")
    assert split_server("https://h/api/v2/") == ("https://h/api/v2/", "")
    for bad in ("h:1", "ftp://h", "http://", "http://h:port/v1", ""):
        with pytest.raises(ValueError, match="is no address"):
            split_server(bad)
    for secret in (f"https://u:{KEY}@h/v1", f"https://h/v1?key={KEY}"):
        with pytest.raises(ValueError, match="put the key into an environment") as caught:
            split_server(secret)
        assert KEY not in str(caught.value)
    assert speaker_of("m", "http://h/v1") == ("http://h/v1", "m")
    assert speaker_of("folder", None) == (None, "folder")
    for model, address in ((None, None), (None, "http://h/v1"), ("a", "http://h/v1#b")):
        with pytest.raises(ValueError, match=r"model|server"):
            speaker_of(model, address)


def test_a_secret_in_an_address_is_not_repeated_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["generate", "--server", f"https://u:{KEY}@h/v1#m", "--prompts", "p", "--out", "o"])
    assert ended.value.code == 2
    assert KEY not in capsys.readouterr().err


@pytest.mark.parametrize("option", [{"dial": 2.0, "reference": "b"}, {"batch_size": 4}, {"device": "cpu"}])
def test_options_about_a_model_run_here_are_refused_with_a_server(option: dict[str, Any]) -> None:
    given = {"prompts": "p", "out": "o", "server": "http://h/v1#m"} | option
    with pytest.raises(ValueError, match="is about a model run here"):
        GenerateConfig.model_validate(given)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import tether.generation.sample as module

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name="openai")

    monkeypatch.setattr(module, "importlib", SimpleNamespace(import_module=missing))
    with pytest.raises(UsageError, match=r"pip install 'tether\[server\]'"):
        module.hosted_model(GenerateConfig(model="m", prompts="p", out="o"), "http://h/v1", "m")
