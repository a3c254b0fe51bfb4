"""What makes a measurement count: the clock, the guard, equal losses and tokens, the stored ratios."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import machine, report, turns
from bench.__main__ import main
from bench.floor import Shape, work
from bench.jobs import Job, Outcome, read_job, write
from bench.machine import Rates
from bench.marks import Marks, process_age
from bench.measure import Column, Disagreement, Result, agree
from bench.ours import arguments
from bench.stages import as_table, stages
from bench.study import arguments as study_arguments
from bench.study import joined
from bench.worker import Worked, files, read
from bench.workloads import COLUMNS, CUDA, FULL, GROUPED, PATCHED, QUICK, SHIPPED, Workload
from tests.tiny import save_model, tiny_model
from tether.cli.study import help_page as study_help
from tether.cli.train import help_page

OUTCOME = Outcome(
    2.0, 1.0, 4.0, [0.69, 0.65], 100, 40, 500.0, 600.0, {"gradient": 1.5, "optimizer": 0.2}, 2.5
)
WORKLOAD = Workload("hh", "HH-like", "hh", 16, must={SHIPPED: 7.0})
JOB = Job("tether", "model", "rows.jsonl", "out", 20)


def result(ratios: dict[str, list[float]]) -> Result:
    columns = {
        name: Column([OUTCOME] * len(values), [replace(OUTCOME, seconds=2 * v) for v in values], values)
        for name, values in ratios.items()
    }
    shape = Shape(32, 64, 2, 4, 2, 384)
    memory = {name: 100.0 for name in ("ours", "ours, whole update at once", "ours, least", "TRL, least")}
    memory |= {f"TRL {name}": 400.0 for name in COLUMNS}
    return Result(
        WORKLOAD, "made up", 16, 100, columns, Rates(1e9, 1e9, 1e9), work(shape, [(9, [4])]), [1.5], memory
    )


def test_the_clock_runs_from_the_first_forward_to_the_last_step() -> None:
    marks = Marks(2)
    try:
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        outcome = marks.outcome()
    finally:
        marks.close()
    assert 0 < outcome.seconds < outcome.total_seconds
    assert 0 < outcome.setup_seconds < process_age()
    assert outcome.processor_seconds > 0
    assert outcome.stages["optimizer"] <= outcome.seconds
    assert 0 < outcome.peak_mib <= outcome.process_peak_mib


def test_a_run_with_another_number_of_updates_does_not_count() -> None:
    marks = Marks(3)
    marks.close()
    with pytest.raises(RuntimeError, match="0 optimizer steps were made, 3 announced"):
        marks.outcome()


def guarded(monkeypatch: pytest.MonkeyPatch, rates: list[float], runs: int = 2) -> list[float | None]:
    """Return the rates of the runs that counted; every probe must be used."""
    left = iter([*[900.0] * turns.WARMING, *rates])
    monkeypatch.setattr(turns, "square_rate", lambda device, bf16: next(left))
    monkeypatch.setattr(turns.Turns, "_child", lambda self, job: (job, OUTCOME))
    said: list[str] = []
    runner = turns.Turns(Path(), threads=1, busy_ok=False, say=said.append)
    found = [run.rate for run in runner.round([JOB] * runs)]
    assert next(left, None) is None
    assert runner.rejected == len(said)
    return found


def test_a_run_on_a_slowed_machine_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert guarded(monkeypatch, [100, 90, 100]) == [90, 90]
    # The probe between two runs is after one and before the other; both are made again.
    assert guarded(monkeypatch, [100, 100, 80, 100, 100, 100, 100], runs=3) == [100, 100, 100]
    # One probe too slow at the end: only the last run is made again, between probes of its own.
    assert guarded(monkeypatch, [100, 100, 100, 89, 100, 91], runs=3) == [100, 100, 91]


def test_a_round_is_held_to_the_pace_that_the_machine_keeps_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Faster before the round than in it: the burst does not count. Slower from the middle on: the median
    # moves, and what was rejected by the old pace counts by the new one.
    assert guarded(monkeypatch, [50, 50, 50]) == [50, 50]
    assert guarded(monkeypatch, [100, 100, 50, 50, 50]) == [100, 50]


def test_a_machine_that_stays_busy_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    falling = [100.0 * 0.8**n for n in range(3 + 3 * 3)]
    with pytest.raises(turns.NotQuiet, match="4 times in a row"):
        guarded(monkeypatch, falling)
    monkeypatch.setattr(turns, "square_rate", lambda device, bf16: pytest.fail("nobody asked"))
    runner = turns.Turns(Path(), threads=1, busy_ok=True, say=print)
    assert [run.rate for run in runner.round([JOB, JOB])] == [None, None]


def test_every_run_is_a_process_of_its_own_and_a_failed_one_shows_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "CHILDREN", {"tether": "tests.bench.child"})
    runner = turns.Turns(tmp_path, threads=1, busy_ok=True, say=print)
    try:
        first, second = (run.outcome for run in runner.round([JOB, replace(JOB, beta=0.3)]))
        # The loss is what the child saw: its own process, the process that imported, how often it was called.
        assert first.losses[0] != second.losses[0]
        assert first.losses[1] == second.losses[1] != os.getpid()
        assert first.losses[2:] == [1, 0.1] and second.losses[2:] == [1, 0.3]
        with pytest.raises(turns.ChildFailed, match=r"(?s)tether ended with 1:.*ValueError: beta is 0"):
            runner.round([replace(JOB, beta=0.0)])
        with pytest.raises(turns.ChildFailed, match="tether ended with 7"):
            runner.round([replace(JOB, beta=7.0)])
        assert runner.round([JOB])[0].outcome.losses[2:] == [1, 0.1]
    finally:
        runner.close()


def test_memory_is_measured_however_fast_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "square_rate", lambda device, bf16: pytest.fail("nothing to clock"))
    monkeypatch.setattr(turns.Turns, "_child", lambda self, job: (job, OUTCOME))
    runner = turns.Turns(Path(), threads=1, busy_ok=False, say=print)
    assert runner.unclocked(JOB) is OUTCOME


def test_programs_that_disagree_are_not_compared() -> None:
    agree(WORKLOAD, SHIPPED, OUTCOME, replace(OUTCOME, losses=[0.69, 0.65001]))
    with pytest.raises(Disagreement, match="loss of update 2"):
        agree(WORKLOAD, SHIPPED, OUTCOME, replace(OUTCOME, losses=[0.69, 0.65003]))
    agree(WORKLOAD, GROUPED, OUTCOME, replace(OUTCOME, losses=[0.69, 0.7]))
    for column in COLUMNS:
        with pytest.raises(Disagreement, match="100 tokens, 40 of completions here; 101 and 40 there"):
            agree(WORKLOAD, column, OUTCOME, replace(OUTCOME, tokens=101))
    still = replace(OUTCOME, losses=[0.693, 0.692])
    with pytest.raises(Disagreement, match="moves by less"):
        agree(WORKLOAD, PATCHED, still, still)
    with pytest.raises(Disagreement, match="2 updates here, 1 there"):
        agree(WORKLOAD, SHIPPED, OUTCOME, replace(OUTCOME, losses=[0.69]))


def test_at_a_large_beta_a_loss_may_carry_more_rounding() -> None:
    study = replace(WORKLOAD, betas=(0.01, 0.1, 1.0))
    ours = replace(OUTCOME, losses=[0.69, 0.69, 0.65])
    agree(study, SHIPPED, ours, replace(OUTCOME, losses=[0.69, 0.69, 0.65019]))
    for losses in ([0.69, 0.69, 0.65021], [0.69, 0.69003, 0.65], [0.69003, 0.69, 0.65]):
        with pytest.raises(Disagreement, match="loss of update"):
            agree(study, SHIPPED, ours, replace(OUTCOME, losses=losses))


def test_a_ratio_fell_when_every_repeat_is_clearly_below_the_stored_one(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    report.save_baseline("cpu", report.ratios([result({SHIPPED: [8.0, 9.0, 10.0]})]), path)
    report.save_baseline("cuda", {"hh: as shipped": 3.0}, path)
    stored = report.read_baseline("cpu", path)
    assert stored == {"hh: as shipped": 9.0}
    assert report.fallen([result({SHIPPED: [7.0, 7.5, 8.2]})], stored) == []
    (line,) = report.fallen([result({SHIPPED: [7.0, 7.5, 8.0]})], stored)
    assert "7.50 (7.00 to 8.00), stored 9.00" in line
    assert report.short_of([result({SHIPPED: [6.0, 6.5, 8.0]})]) == ["hh, as shipped: 6.50, the target is 7"]


def worked(cells: list[str], losses: list[float], first: float, last: float) -> Worked:
    outcome = replace(OUTCOME, losses=losses, seconds=last - first, peak_mib=300.0)
    return Worked(cells, first, last, outcome)


def test_a_study_is_timed_over_all_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [
        SimpleNamespace(cell_id=f"b{beta:g}", factors=SimpleNamespace(beta=beta)) for beta in (0.01, 0.1, 1.0)
    ]
    monkeypatch.setattr("bench.study.read_study", lambda folder: SimpleNamespace(cells=cells))
    job = replace(JOB, count=16, betas=(0.01, 0.1, 1.0))
    one = worked(["b1", "b0.01"], [0.5, 0.4, 0.69, 0.68], 10.0, 22.0)
    other = worked(["b0.1"], [0.6, 0.5], 11.0, 18.0)
    found = joined(job, [one, other], age=20.0, now=25.0)
    assert found.seconds == 12.0 and found.setup_seconds == 5.0 and found.total_seconds == 20.0
    assert found.losses == [0.69, 0.68, 0.6, 0.5, 0.5, 0.4]
    assert found.tokens == 200 and found.peak_mib == 600.0 and found.processor_seconds == 5.0
    assert found.stages == {"gradient": 3.0, "optimizer": 0.4}
    with pytest.raises(RuntimeError, match="not every beta"):
        joined(job, [one], age=20.0, now=25.0)


def test_a_worker_notes_what_it_trained_and_when(tmp_path: Path) -> None:
    path = tmp_path / "worker-1.json"
    before = worked(["b1"], [0.5], 10.0, 22.0)
    path.write_text(json.dumps(asdict(before)))
    assert files(tmp_path / "out") == [path]
    assert read(path) == before


def test_what_was_measured_is_kept_when_the_machine_grows_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = tmp_path / "baseline.json"

    def measure(workload: Workload, *_: object) -> Result:
        if workload.name != "hh":
            raise turns.NotQuiet("too busy")
        return result({SHIPPED: [6.0]})

    def save(device: str, values: dict[str, float]) -> None:
        report.save_baseline(device, values, stored)

    monkeypatch.setattr("bench.__main__.measure", measure)
    monkeypatch.setattr("bench.__main__.save_baseline", save)
    monkeypatch.setattr("bench.__main__.version", lambda name: "0")  # the peer is not installed here
    assert main(["--out", str(tmp_path), "--save-baseline"]) == 4
    (saved,) = tmp_path.glob("2*.json")
    assert json.loads(saved.read_text())["ratios"] == {"hh: as shipped": 6.0}
    assert report.read_baseline("cpu", stored) == {"hh: as shipped": 6.0}
    assert saved.with_suffix(".txt").read_text().startswith("HH-like")
    said = capsys.readouterr().out
    assert "bench: too busy" in said and "hh, as shipped: 6.00, the target is 7" in said


def test_tables_fit_80_columns() -> None:
    text = report.table(result({name: [9.12, 10.5, 8.0] for name in COLUMNS}))
    assert max(map(len, text.splitlines())) <= 80
    assert "9.12 (8.00 to 10.50)" in text
    assert "default 0.25" in text
    assert "processor time: as shipped 1.00, head patched 1.00, patched + grouped 1.00" in text


def test_a_job_survives_its_file_and_every_option_exists(tmp_path: Path) -> None:
    job = replace(JOB, budget=512, checkpointing=True, bf16=True)
    write(tmp_path / "job.json", job)
    assert read_job(tmp_path / "job.json") == job
    assert job.updates == 3
    study = replace(job, program="tether-study", betas=(0.1, 1.0), held_out="held_out.jsonl")
    write(tmp_path / "job.json", study)
    assert read_job(tmp_path / "job.json") == study
    for words, page in ((arguments(job), help_page()), (study_arguments(study), help_page() + study_help())):
        options = [word for word in words if word.startswith("--")]
        assert [o for o in options if o not in page and o not in ("--model", "--data")] == []


def test_workloads_have_names_of_their_own() -> None:
    for known in (QUICK, FULL, CUDA):
        assert len({workload.name for workload in known}) == len(known)
        assert all(set(workload.must) <= set(COLUMNS) for workload in known)
    assert {workload.name for workload in QUICK} == {"hh", "uf", "lora"}


def test_every_stage_of_an_update_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.stages.LEAST_SECONDS", 0.0)
    save_model(tmp_path / "model", tiny_model("llama"))
    line = '{"prompt": "Human: how? Assistant:", "chosen": " Bake it hot.", "rejected": " No, I will not."}\n'
    (tmp_path / "rows.jsonl").write_text(line * 4)
    found = stages(tmp_path / "model", tmp_path / "rows.jsonl", pairs=4)
    assert {"tokenise", "collate", "gradient: attention", "gradient: head", "optimizer"} <= set(found)
    assert all(value > 0 for value in found.values())
    assert "gradient, whole" in as_table(found)


def test_a_rate_is_all_work_over_all_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 1.5, 4.0, 4.0])  # start, then after the first, second and third product
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    found = machine.rate(8, 8, 8, device="cpu", bf16=False, seconds=3.0)
    assert found == pytest.approx(2 * 8**3 * 3 / 4.0)
