"""What a study saves against separate runs: `python tools/study_cost.py --out DIR [--cells 8] [--peft]`.

The same cells twice, one process at a time on the same threads: N separate `tether train`, each reading
its rows, loading its model and scoring its own reference; and one `tether study` with one worker. Processor
time is what is compared (a busy machine moves wall clock, hardly processor time); start-up, measured by
itself, is taken off both sides and reported apart. One pass over the rows in every cell.

By arithmetic a full update costs three forward passes and a LoRA update two, and scoring the reference one:
N separate runs cost 4 N (3 N with LoRA), the study 3 N + 1 (2 N + 1).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tether.worlds import load_world

BETAS = (3.0, 1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both sides and print what they cost."""
    options = _parser().parse_args(arguments)
    model, data, held_out = files(options)
    common = [
        "--model", str(model), "--data", str(data), "--eval-data", str(held_out), "--num-train-epochs", "1",
        "--train-batch-size", str(options.batch), "--learning-rate", "1e-4", "--save-strategy", "no",
        "--logging-steps", "1000", "--seed", "0", "--kl-max-new-tokens", "1", "--quiet",
        *(["--use-peft"] if options.peft else []),
    ]  # fmt: skip
    betas = BETAS[: options.cells]
    start = min(cost([sys.executable, "-c", "import tether.study.worker"], options)["cpu"] for _ in range(2))
    separate, study = {"cpu": 0.0, "wall": 0.0}, {"cpu": 0.0, "wall": 0.0}

    def apart(some: Sequence[float]) -> None:
        for beta in some:
            run = ["train", *common, "--beta", str(beta), "--output-dir", str(options.out / f"run-{beta:g}")]
            add(separate, cost(tether(*run, "--measure-prompts", "0", "--split-seed", "0"), options))

    words = [
        "study", *common, "--beta", ",".join(map(str, betas)), "--output-dir", str(options.out / "study"),
        "--measured-prompts", "1", "--workers", "1", "--threads", str(options.threads),
    ]  # fmt: skip
    # The study in the middle: a machine that slows down or speeds up meanwhile meets both sides alike.
    apart(betas[: len(betas) // 2])
    add(study, cost(tether(*words), options))
    apart(betas[len(betas) // 2 :])
    print(table(options, start, separate, study))
    return 0


def table(options: Any, start: float, separate: dict[str, float], study: dict[str, float]) -> str:
    """Return the comparison, in words and numbers."""
    cells = options.cells
    share = start * cells / separate["cpu"]
    # The study starts two processes: its own and one worker.
    net = (study["cpu"] - 2 * start) / (separate["cpu"] - cells * start)
    forward, unit = (2, "LoRA") if options.peft else (3, "full tuning")
    bound = (forward * cells + 1) / ((forward + 1) * cells)
    record = json.loads((options.out / "study" / "study.json").read_text(encoding="utf-8"))
    measuring = sum(cell["seconds"]["measure"] for cell in record["cells"])
    lines = [
        f"{cells} cells, {unit}, {options.threads} threads, {options.pairs} pairs",
        f"separate runs   {separate['cpu']:8.1f} s processor   {separate['wall']:8.1f} s wall",
        f"study           {study['cpu']:8.1f} s processor   {study['wall']:8.1f} s wall",
        f"start-up        {start:8.1f} s each, {share:.1%} of the separate runs",
        f"measuring cells {measuring:8.1f} s, part of the study alone",
        f"references      {record['shared']['made'].get('references', 0)} scored in the study, {cells} apart",
        f"ratio           {net:.1%} without start-up (by arithmetic {bound:.1%})",
        f"ratio           {study['cpu'] / separate['cpu']:.1%} processor, "
        f"{study['wall'] / separate['wall']:.1%} wall, everything counted",
    ]
    return "\n".join(lines)


def files(options: Any) -> tuple[Path, Path, Path]:
    """Return a model, rows to train on and held-out rows: those given, or a world's."""
    if options.model is not None:
        return options.model, options.data, options.eval_data
    world = load_world("sentiment").make(options.out / "world", pairs=options.pairs, eval_pairs=24, prompts=8)
    made = options.out / "base"
    if not made.is_dir():
        words = ["tools/small_model.py", "--data", str(world.train), "--out", str(made)]
        subprocess.run(
            [sys.executable, *words, "--hidden", str(options.hidden)], check=True, env=environment(options)
        )
    return made, world.train, world.eval


def tether(*words: str) -> list[str]:
    """Return a tether command of this checkout."""
    return [sys.executable, "-m", "tether", *words]


def environment(options: Any) -> dict[str, str]:
    """Return the environment of every process: the same threads, this checkout."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": path}


def cost(words: list[str], options: Any) -> dict[str, float]:
    """Run a command; return its processor and wall seconds, children included."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, check=True, env=environment(options))
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"cpu": cpu, "wall": ended - began}


def add(total: dict[str, float], part: dict[str, float]) -> None:
    """Add one process's cost."""
    for name, value in part.items():
        total[name] += value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="What a study saves against separate runs.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=8, choices=range(2, len(BETAS) + 1))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--peft", action="store_true")
    for name in ("--model", "--data", "--eval-data"):
        parser.add_argument(name, type=Path, help="with the other two: instead of a made world")
    return parser


if __name__ == "__main__":
    sys.exit(main())
