"""A study folder with plausible numbers and no training behind them: for whatever reads studies.

A cell moves d = sqrt(KL) away from its start, further for smaller betas; its score is the start's plus
`gain(d) = d (alpha - beta_hat log d)` plus noise that prompts share between cells, so that paired statistics
have something to find. Token log-ratios fall with d, the end token's most.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tether.records.results import write_json, write_lines
from tether.records.study import (
    CELL,
    SUMMARY,
    CellMeasures,
    CellRecord,
    Factors,
    StudyRecord,
    cell_folder,
)
from tether.study.tables import HeldOut, Samples, Tokens, write_table

WORDS = ("please", "thank", "you", "sorry", "help", "now", "no", "the", "order", "late", "</s>")
END = len(WORDS) - 1


@dataclass(frozen=True)
class Shape:
    """How large the made-up study is, and what is true in it."""

    prompts: int = 40
    samples_per_prompt: int = 1
    alpha: float = 1.5
    beta_hat: float = 0.9
    prompt_sd: float = 0.6
    sample_sd: float = 0.5
    seed_sd: float = 0.05
    evaluator: str = "gold_reward"


def make_study(
    folder: Path,
    *,
    betas: Sequence[float] = (1.0, 0.3, 0.1, 0.03, 0.01),
    loss_types: Sequence[str] = ("sigmoid",),
    references: Sequence[str] = ("self",),
    seeds: Sequence[int] = (0, 1),
    failed: Sequence[str] = (),
    shape: Shape | None = None,
    draw: int = 0,
) -> StudyRecord:
    """Write the folder and return its record; cells named in `failed` have no measures."""
    shape = shape or Shape()
    rng = np.random.default_rng(draw)
    rows = [f"eval.jsonl:{i + 1}" for i in range(shape.prompts)]
    mood = rng.normal(0, shape.prompt_sd, shape.prompts)
    lengths = rng.integers(4, 12, (shape.prompts, 2))
    texts = [[_ids(rng, int(n)) for n in pair] for pair in lengths]
    start = [[_logps(rng, len(ids)) for ids in pair] for pair in texts]
    cells: list[CellRecord] = []
    for loss_type in loss_types:
        for reference in references:
            for beta in betas:
                for seed in seeds:
                    cells.append(_cell(loss_type, reference, beta, seed, failed, len(references), len(seeds)))
    _write_model(folder / "shared" / "start", rng, shape, rows, mood, texts, start, 0.0, None)
    for cell in cells:
        home = cell_folder(folder, cell.cell_id)
        home.mkdir(parents=True, exist_ok=True)
        write_json(home / CELL, cell)
        if cell.state == "finished":
            far = math.sqrt(0.35 / math.sqrt(cell.factors.beta or 1.0)) + rng.normal(0, shape.seed_sd)
            _write_model(home / "measures", rng, shape, rows, mood, texts, start, far, cell)
            write_lines(home / "metrics.jsonl", _learning(far))
    _write_dial(folder, rng, shape, rows, mood, cells)
    prompts = [{"row_id": row, "prompt": f"Where is order {i}?"} for i, row in enumerate(rows)]
    write_lines(folder / "shared" / "prompts.jsonl", prompts)
    write_lines(
        folder / "shared" / "completions.jsonl",
        (
            {"row_id": row, "prompt": p["prompt"], "role": role, "text": _text(ids)}
            for row, p, pair in zip(rows, prompts, texts, strict=True)
            for role, ids in zip(("chosen", "rejected"), pair, strict=True)
        ),
    )
    write_json(folder / "shared" / "vocabulary.json", {str(i): word for i, word in enumerate(WORDS)})
    record = StudyRecord(
        study_id="fixture",
        created="2026-11-21T08:00:00+00:00",
        tether_version="0.1.0",
        status="finished",
        config={"model_name_or_path": "base", "dataset_name": "train.jsonl"},
        cells=tuple(cells),
        shared={"references": 1},
        timing={"wall": 120.0},
        evaluators=(shape.evaluator,),
        world="sentiment",
        prompts=tuple(rows),
    )
    write_json(folder / "study.json", record)
    return record


def _cell(
    loss_type: str,
    reference: str,
    beta: float,
    seed: int,
    failed: Sequence[str],
    references: int,
    seeds: int,
) -> CellRecord:
    cell_id = f"{loss_type}" + (f"-{reference}" if references > 1 else "") + f"-beta{beta:g}"
    cell_id += f"-seed{seed}" if seeds > 1 else ""
    factors = Factors(
        loss_type=loss_type, beta=beta, reference=reference, learning_rate=1e-4, seed=seed, data_fraction=1.0
    )
    if cell_id in failed:
        return CellRecord(
            cell_id=cell_id, factors=factors, state="failed", attempts=2, error="step 3: the gradient is NaN"
        )
    return CellRecord(
        cell_id=cell_id,
        factors=factors,
        state="finished",
        attempts=1,
        seconds={"train": 12.0, "measure": 3.0},
    )


def _learning(far: float) -> list[dict[str, Any]]:
    """Return held-out metrics over five evaluations, as `tether train` logs them."""
    return [
        {
            "step": 20 * k,
            "epoch": k / 4,
            "phase": "eval",
            "eval_loss": 0.693 - 0.05 * far * k / 4,
            "eval_rewards/accuracies": 0.5 + 0.3 * k / 4,
            "eval_logratios/chosen": -0.15 * far * k / 4,
            "eval_logratios/rejected": -0.45 * far * k / 4,
        }
        for k in range(5)
    ]


def _ids(rng: np.random.Generator, length: int) -> list[int]:
    return [*(int(i) for i in rng.integers(0, END, length - 1)), END]


def _logps(rng: np.random.Generator, length: int) -> np.ndarray:
    return -rng.gamma(2.0, 0.6, length)


def _text(ids: Sequence[int]) -> str:
    return " ".join(WORDS[i] for i in ids if i != END)


def _write_model(
    home: Path,
    rng: np.random.Generator,
    shape: Shape,
    rows: list[str],
    mood: np.ndarray,
    texts: list[list[list[int]]],
    start: list[list[np.ndarray]],
    far: float,
    cell: CellRecord | None,
) -> None:
    has_reference = cell is None or cell.factors.reference != "none"
    columns: dict[str, list[Any]] = {
        name: [] for name in ("row", "role", "position", "token", "policy", "start")
    }
    held: dict[str, list[Any]] = {name: [] for name in ("row", "role", "tokens", "policy", "start")}
    for row, pair, base in zip(rows, texts, start, strict=True):
        for role, ids, logps in zip(("chosen", "rejected"), pair, base, strict=True):
            drop = 0.15 if role == "chosen" else 0.45
            shift = -far * rng.gamma(1.0, drop, len(ids))
            shift[-1] *= 3.0
            policy = (logps + shift).astype(np.float32).astype(np.float64)
            columns["row"] += [row] * len(ids)
            columns["role"] += [role] * len(ids)
            columns["position"] += range(len(ids))
            columns["token"] += ids
            columns["policy"] += policy.tolist()
            columns["start"] += logps.tolist()
            for name, value in zip(
                held, (row, role, len(ids), float(policy.sum()), float(logps.sum())), strict=True
            ):
                held[name].append(value)
    ratio = np.array(columns["policy"]) - np.array(columns["start"])
    unknown = np.full(len(ratio), np.nan)
    write_table(
        home / "tokens.parquet",
        Tokens(
            row_id=columns["row"],
            role=columns["role"],
            position=np.array(columns["position"]),
            token_id=np.array(columns["token"]),
            policy_logp=np.array(columns["policy"]),
            start_logp=np.array(columns["start"]),
            reference_logp=np.array(columns["start"]) if has_reference else unknown,
            is_end=np.array(columns["token"]) == END,
        ),
    )
    policy, begin = np.array(held["policy"]), np.array(held["start"])
    write_table(
        home / "held_out.parquet",
        HeldOut(
            row_id=held["row"],
            role=held["role"],
            tokens=np.array(held["tokens"]),
            policy_logp=policy,
            start_logp=begin,
            reference_logp=begin if has_reference else np.full(len(begin), np.nan),
        ),
    )
    samples = _samples(rng, shape, rows, mood, far)
    write_table(home / "samples.parquet", samples)
    chosen, rejected = (policy - begin)[::2], (policy - begin)[1::2]
    write_json(home / SUMMARY, _summary(shape, samples, chosen, rejected, policy, ratio, cell))


def _samples(
    rng: np.random.Generator, shape: Shape, rows: list[str], mood: np.ndarray, far: float
) -> Samples:
    n, k = len(rows), shape.samples_per_prompt
    ids = [_ids(rng, int(rng.integers(4, 12))) for _ in range(n * k)]
    tokens = np.array([len(i) for i in ids])
    kl = rng.gamma(8.0, far**2 / 8.0, n * k) if far > 0 else np.zeros(n * k)
    policy = -rng.gamma(4.0, 2.0, n * k)
    gain = far * (shape.alpha - shape.beta_hat * math.log(far)) if far > 0 else 0.0
    score = gain + np.repeat(mood, k) + rng.normal(0, shape.sample_sd, n * k)
    ended = rng.random(n * k) > 0.05
    start = policy - kl - (rng.normal(0, 0.3, n * k) if far > 0 else 0.0)
    return Samples(
        row_id=[row for row in rows for _ in range(k)],
        sample=np.tile(np.arange(k), n),
        text=[_text(i) for i in ids],
        token_ids=ids,
        tokens=tokens,
        ended=ended,
        cut=~ended,
        policy_logp=policy,
        start_logp=start,
        reference_logp=start,
        kl_start=kl,
        kl_reference=kl,
        entropy=np.full(n * k, 1.2),
        scores={shape.evaluator: score},
    )


def _write_dial(
    folder: Path,
    rng: np.random.Generator,
    shape: Shape,
    rows: list[str],
    mood: np.ndarray,
    cells: Sequence[CellRecord],
) -> None:
    done = [cell for cell in cells if cell.state == "finished"]
    if not done:
        return
    middle = done[len(done) // 2]
    far = math.sqrt(0.35 / math.sqrt(middle.factors.beta or 1.0))
    for value in (0.5, 1.0, 2.0, 4.0):
        samples = _samples(rng, shape, rows, mood, far * value**0.7)
        write_table(folder / "shared" / "dial" / middle.cell_id / f"d-{value:g}.parquet", samples)


def _summary(
    shape: Shape,
    samples: Samples,
    chosen: np.ndarray,
    rejected: np.ndarray,
    policy: np.ndarray,
    ratio: np.ndarray,
    cell: CellRecord | None,
) -> CellMeasures:
    def error(values: np.ndarray) -> float:
        return float(values.std(ddof=1) / math.sqrt(len(values)))

    score = samples.scores[shape.evaluator]
    margin = (cell.factors.beta or 1.0) * (chosen - rejected) if cell else None
    loss = None if margin is None else np.log1p(np.exp(-margin))
    return CellMeasures(
        pairs=len(chosen),
        prompts=len(set(samples.row_id)),
        samples=len(samples.row_id),
        loss=None if loss is None else float(loss.mean()),
        loss_se=None if loss is None else error(loss),
        implicit_accuracy=None if cell is None else float((chosen > rejected).mean()),
        policy_accuracy=float((policy[::2] > policy[1::2]).mean()),
        chosen_log_ratio=float(chosen.mean()),
        chosen_log_ratio_se=error(chosen),
        rejected_log_ratio=float(rejected.mean()),
        rejected_log_ratio_se=error(rejected),
        large_share=float((np.abs(ratio) > 10).mean()),
        kl=float(samples.kl_start.mean()),
        kl_se=error(samples.kl_start),
        kl_per_token=float(samples.kl_start.sum() / samples.tokens.sum()),
        entropy=float(samples.entropy.mean()),
        tokens=float(samples.tokens.mean()),
        tokens_se=error(samples.tokens.astype(np.float64)),
        end_rate=float(samples.ended.mean()),
        cut_share=float(samples.cut.mean()),
        repetition=0.02,
        distinct=0.6,
        large_share_samples=0.0,
        scores={shape.evaluator: float(score.mean())},
        scores_se={shape.evaluator: error(score)},
    )
