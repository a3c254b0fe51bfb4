"""`tether judge` as a user runs it."""

import json
import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the judge extra is not installed")

from tests.servers import Stub, asked, completion, serving
from tether.cli.judge import judge
from tether.cli.main import main
from tether.errors import Interrupted, RunFolderError
from tether.judging.options import Asking, Prices
from tether.judging.pairwise import read_verdicts

ONCE, ONE_AT_A_TIME = Asking(workers=1, attempts=1), Asking(workers=1)
SECRET = "sk-tether-test-0123456789"


def _answers(path: Path, name: str, texts: list[str]) -> Path:
    file = path / f"{name}.jsonl"
    rows = [{"prompt": f"prompt {i}", "completion": t, "model": name} for i, t in enumerate(texts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return (
        _answers(tmp_path, "a", [f"a long answer {i}" for i in range(6)]),
        _answers(tmp_path, "b", [f"short {i}" for i in range(6)]),
    )


def test_verdicts_in_both_orders_are_written_and_told(two, tmp_path: Path, capsys) -> None:
    out = tmp_path / "v.jsonl"
    assert judge(*two, judge="length", out=out, json=True) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["pairs"], record["judged"], record["failed"], record["asked"]) == (6, 6, 0, 12)
    assert (record["a"], record["b"], record["cost"]) == ("a", "b", None)
    verdicts = read_verdicts(out)
    assert [v.a_first for v in verdicts] == [v.b_first for v in verdicts] == [1.0] * 6


def test_the_plan_asks_no_server_and_tells_tokens_and_cost(two, tmp_path: Path, capsys) -> None:
    stub = Stub(lambda _: completion({"A": 1.0}))
    with serving(stub) as url:
        spec = f"server:{url}#m"
        judge(*two, judge=spec, out=tmp_path / "v.jsonl", plan=True, prices=Prices(10.0, 30.0), json=True)
        plan = json.loads(capsys.readouterr().out)
        judge(*two, judge=spec, out=tmp_path / "v.jsonl", plan=True)
        assert "no prices given" in capsys.readouterr().out
    assert stub.requests == []
    assert (plan["questions"], plan["known"], plan["to_ask"]) == (12, 0, 12)
    assert plan["completion_tokens"] == 12
    assert 12 * 150 < plan["prompt_tokens"] < 12 * 400
    assert plan["cost"] == pytest.approx((10 * plan["prompt_tokens"] + 30 * 12) / 1e6)
    assert plan["seconds"] is None
    assert not (tmp_path / "v.jsonl").exists()


def test_a_judge_on_this_machine_is_timed_and_what_it_said_is_kept(two, tmp_path: Path, capsys) -> None:
    out = tmp_path / "v.jsonl"
    judge(*two, judge="length", out=out, plan=True, json=True)
    assert json.loads(capsys.readouterr().out)["seconds"] > 0
    judge(*two, judge="length", out=out, json=True)
    assert json.loads(capsys.readouterr().out)["asked"] == 0


def test_a_restart_asks_only_what_is_missing_and_failures_are_shown(two, tmp_path: Path, capsys) -> None:
    stub = Stub(lambda _: completion({"A": 0.9, "B": 0.1}))
    stub.faults = ["401", "wrong tokens", None, "truncated", None]
    out = tmp_path / "v.jsonl"
    with serving(stub) as url:
        spec = f"server:{url}#m"
        judge(*two, judge=spec, out=out, asking=ONCE, prices=Prices(1e6, 0.0))
        first = capsys.readouterr()
        asked_first = len(stub.requests)
        judge(*two, judge=spec, out=out, asking=ONCE, json=True)
    record = json.loads(capsys.readouterr().out)
    assert "12 questions to ask, 0 known" in first.err
    assert "2, in no rate" in first.out and "HTTP 401 after 1 attempts" in first.out
    assert "unparsed" in first.out
    assert (asked_first, len(stub.requests)) == (12, 15)
    assert (record["asked"], record["known"], record["failed"]) == (3, 9, 0)


def test_the_key_is_sent_and_written_nowhere(two, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", SECRET)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    stub = Stub(lambda _: completion({"A": 0.9, "B": 0.1}))
    stub.faults = ["401", "500", "truncated", "wrong tokens"]
    out = tmp_path / "results" / "v.jsonl"
    out.parent.mkdir()
    with serving(stub) as url:
        spec = f"server:{url}#m"
        options = {"judge": spec, "out": out, "asking": Asking("MY_JUDGE_KEY", workers=1)}
        judge(*two, **options, plan=True)
        judge(*two, **options)
        judge(*two, **options, json=True)
    assert {request["authorization"] for request in stub.requests} == {f"Bearer {SECRET}"}
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.name for file in written} >= {"v.jsonl", "v.cache.jsonl"}
    assert not [file for file in written if SECRET.encode() in file.read_bytes()]


def test_verdicts_on_something_else_are_not_written_over(two, tmp_path: Path) -> None:
    out = tmp_path / "v.jsonl"
    judge(*two, judge="length", out=out, quiet=True)
    with pytest.raises(RunFolderError, match="by length"):
        judge(*two, judge="random", out=out, quiet=True)
    judge(*two, judge="random", out=out, quiet=True, overwrite=True)
    other = tmp_path / "notes.txt"
    other.write_text("")
    with pytest.raises(RunFolderError, match="not a file of verdicts"):
        judge(*two, judge="length", out=other, quiet=True)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_keeps_what_was_asked(
    two, tmp_path: Path, request: pytest.FixtureRequest, number: int, status: int
) -> None:
    stop_at = 5

    def reply(body: dict) -> dict:
        assert asked(body)
        if len(stub.requests) == stop_at:
            os.kill(os.getpid(), number)
        return completion({"A": 0.9, "B": 0.1})

    stub = Stub(reply)
    out = tmp_path / "v.jsonl"
    # A shell starts background jobs deaf to Ctrl-C; this test is not about that.
    before_it = signal.signal(number, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(number, before_it))
    with serving(stub) as url:
        spec = f"server:{url}#m"
        with pytest.raises(Interrupted) as error:
            judge(*two, judge=spec, out=out, asking=ONE_AT_A_TIME, quiet=True)
        assert error.value.exit_code == status
        kept = len((tmp_path / "v.cache.jsonl").read_text().splitlines())
        assert 2 <= kept <= stop_at
        before = len(stub.requests)
        judge(*two, judge=spec, out=out, asking=ONE_AT_A_TIME, quiet=True)
    assert len(stub.requests) == before + 12 - kept
    assert len(read_verdicts(out)) == 6


def test_it_is_a_command_and_errors_are_one_line(two, tmp_path: Path, capsys) -> None:
    out = str(tmp_path / "v.jsonl")
    with pytest.raises(SystemExit) as ended:
        main(["judge", str(two[0]), str(two[1]), "--judge", "oracle", "--out", out])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as ended:
        words = ["--judge", "random", "--judge-seed", "3", "--price-in", "2", "--workers", "4", "--quiet"]
        main(["judge", str(two[0]), str(two[1]), "--out", out, *words])
    assert ended.value.code == 0
    assert {verdict.judge for verdict in read_verdicts(Path(out))} == {"random:3"}
