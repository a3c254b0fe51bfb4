"""`python -m bench`: tether beside TRL.

Exit status: 0 measured, 1 failed, 4 the machine is not quiet, 5 a ratio fell clearly below the stored one.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.measure import Disagreement, Result, Setting, measure, prepare
from bench.report import document, fallen, ratios, read_baseline, save_baseline, short_of, table
from bench.stages import Stages, as_table, stages
from bench.turns import ROOT, ChildFailed, NotQuiet, Turns
from bench.workloads import CUDA, FULL, QUICK, TRIAL, Workload

RESULTS = ROOT / "bench" / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments name; return the exit status."""
    options = _parser().parse_args(arguments)
    chosen = _chosen(options)
    name = time.strftime("%Y%m%d-%H%M%S")
    work = options.out / f"{name}-work"
    setting = Setting(work, options.device, options.device == "cuda", options.repeats)
    turns = Turns(work / "runs", threads=options.threads, busy_ok=options.busy_ok, say=_say)
    results: list[Result] = []
    parts: Stages = {}
    status = 0
    began = time.perf_counter()
    try:
        for workload in chosen:
            results.append(measure(workload, setting, turns))
            _say(table(results[-1]) + "\n")
            if options.save_baseline:
                save_baseline(options.device, ratios(results[-1:]))
        files = prepare(chosen[0], setting)
        parts = stages(files.model, files.ours, device=options.device, bf16=setting.bf16)
        _say(as_table(parts))
    except (Disagreement, ChildFailed, NotQuiet) as error:
        _say(f"bench: {error}")
        status = 4 if isinstance(error, NotQuiet) else 1
    finally:
        turns.close()
    if results:
        found = document(results, _machine(options, turns), {"workload": chosen[0].name, "parts": parts})
        text = "\n\n".join([*map(table, results), *([as_table(parts)] if parts else [])])
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        (options.out / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
        _say(f"\n{time.perf_counter() - began:.0f} s; saved {options.out / name}.json and .txt")
    if status == 0 and not options.keep:
        shutil.rmtree(work)
    verdict = _verdict(options, results)
    return status or verdict


def _verdict(options: argparse.Namespace, results: list[Result]) -> int:
    for line in short_of(results):
        _say(f"short of the target: {line}")
    if options.save_baseline:
        return 0
    worse = [] if options.busy_ok else fallen(results, read_baseline(options.device))
    for line in worse:
        _say(line)
    return 5 if worse else 0


def _chosen(options: argparse.Namespace) -> Sequence[Workload]:
    known = CUDA if options.device == "cuda" else TRIAL if options.trial else FULL if options.full else QUICK
    if not options.only:
        return known
    names = [workload.name for workload in known]
    unknown = sorted(set(options.only) - set(names))
    if unknown:
        raise SystemExit(f"bench: no workload {', '.join(unknown)}; there are {', '.join(names)}")
    return [workload for workload in known if workload.name in options.only]


def _machine(options: argparse.Namespace, turns: Turns) -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "device": options.device,
        "rejected_runs": turns.rejected,
        "busy_ok": options.busy_ok,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "peft", "trl", "tether")},
        },
    }


def _say(text: str) -> None:
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="everything; an hour and more")
    parser.add_argument("--trial", action="store_true", help="tiny models: shows that the benchmark works")
    parser.add_argument("--only", nargs="+", default=[], help="names of workloads")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cpu in fp32, cuda in bf16 [cpu]"
    )
    parser.add_argument("--repeats", type=int, help="A B pairs per column; unset: what the workload says")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="threads of either program [cores]"
    )
    parser.add_argument(
        "--busy-ok", action="store_true", help="accept runs on a busy machine; proves nothing"
    )
    parser.add_argument(
        "--save-baseline", action="store_true", help="store the ratios in bench/baseline.json"
    )
    parser.add_argument("--keep", action="store_true", help="keep models, rows and run folders")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results [bench/results]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
