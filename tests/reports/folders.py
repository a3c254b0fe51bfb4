"""A run folder as training leaves it, invented but consistent: numbers come from one small model of a run."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from tether.records.results import Answer, Finding, Measurement, RunRecord, Sample, write_json, write_lines

STEPS, EVERY, PROMPTS, PAIRS, BETA = 120, 20, 64, 200, 0.1
ERRORS = {
    "loss": 0.014,
    "rewards/chosen": 0.05,
    "rewards/rejected": 0.07,
    "rewards/margins": 0.06,
    "rewards/accuracies": 0.032,
    "logratios/chosen": 0.01,
    "logratios/rejected": 0.02,
}
"""Standard errors of the held-out means."""
OPENINGS = (
    "My parcel never arrived.",
    "The lamp I bought is broken.",
    "I was charged twice.",
    "Can I change my order?",
)
BEFORE = (
    "We have received the message. The order will be checked by the team. Goodbye.",
    "This is not our fault. Please read the rules and wait for the next letter.",
    "Hello. We will look at the payment. It can take some days.",
)
AFTER = (
    "Thank you for telling us. The order will be checked by the team today. We are happy to help.",
    "We are sorry for the trouble. Please send us a picture and we will replace it at once.",
    "Hello, and thank you. We will look at the payment today. It can take some days, and we will write.",
)


def metrics(rng: np.random.Generator, *, evaluated: bool = True) -> list[dict[str, Any]]:
    """Return training and evaluation lines in which both rewards fall."""
    lines: list[dict[str, Any]] = []
    for step in range(0, STEPS + 1, 2):
        done = 1 - math.exp(-step / 50)
        chosen, rejected = -0.42 * done / 0.909, -1.35 * done / 0.909
        values = {
            "loss": math.log1p(math.exp(-(chosen - rejected))),
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": 0.5 + 0.24 * done,
            "logratios/chosen": chosen / BETA / 25,
            "logratios/rejected": rejected / BETA / 26,
        }
        if step and step % 2 == 0:
            noise = {name: value + float(rng.normal(0, 0.04)) for name, value in values.items()}
            head = {"step": step, "epoch": step / 60, "phase": "train", "num_tokens": step * 1700}
            lines.append(head | noise | {"grad_norm": 1.2, "learning_rate": 1e-5})
        if evaluated and step % EVERY == 0:
            lines.append(
                {"step": step, "epoch": step / 60, "phase": "eval"}
                | {f"eval_{name}": value for name, value in values.items()}
                | {f"eval_{name}_se": ERRORS[name] * min(1.0, step) for name in values}
            )
    return lines


def samples(rng: np.random.Generator, gain: float = 0.7) -> list[Sample]:
    """Return the same prompts answered before and after, with scores."""
    rows: list[Sample] = []
    for index in range(PROMPTS):
        before = round(float(rng.normal(0.3, 0.5)), 3)
        text = f"{OPENINGS[index % 4]} The order number is {1000 + 7 * index}."
        rows.append(
            Sample(
                prompt=({"role": "user", "content": text},),
                before=BEFORE[index % 3],
                after=BEFORE[index % 3] if index % 11 == 5 else AFTER[index % 3],
                score_before=before,
                score_after=before if index % 11 == 5 else round(before + float(rng.normal(gain, 0.6)), 3),
            )
        )
    return rows


def measurements(rows: list[Sample]) -> tuple[Measurement, ...]:
    """Return measurements whose ends agree with the samples' scores."""
    before = sum(row.score_before or 0 for row in rows) / max(1, len(rows))
    after = sum(row.score_after or 0 for row in rows) / max(1, len(rows))
    found: list[Measurement] = []
    for step in range(0, STEPS + 1, EVERY):
        done = (1 - math.exp(-step / 50)) / (1 - math.exp(-STEPS / 50))
        found.append(
            Measurement(
                step=step,
                prompts=PROMPTS,
                samples=PROMPTS * 2,
                kl_start=3.2 * done**1.6,
                kl_start_se=0.2 * done,
                kl_reference=3.2 * done**1.6,
                kl_reference_se=0.2 * done,
                entropy=1.31 - 0.3 * done,
                tokens=18.2 + 4.6 * done,
                end_rate=0.99,
                cut_share=0.008 if step == STEPS else 0.0,
                scores={"gold_reward": before + (after - before) * done},
                scores_se={"gold_reward": 0.065},
            )
        )
    return tuple(found)


def file(part: str, byte: str, read: int, used: int) -> dict[str, Any]:
    """Describe one data file as run.json does."""
    known = {"path": f"world/{part}.jsonl", "sha256": byte * 32, "split": part, "format": "preference"}
    return known | {"read": read, "used": used}


def record(rows: list[Sample], **changes: Any) -> RunRecord:
    """Return a finished run; `changes` replace fields."""
    fields: dict[str, Any] = {
        "status": "finished",
        "run_id": "2026-03-01-a1b2c3",
        "created": "2026-03-01T10:20:30+00:00",
        "tether_version": "0.1.0",
        "config": {"model_name_or_path": "models/replies-base", "beta": BETA, "seed": 42},
        "model": {
            "path": "models/replies-base", "architecture": "LlamaForCausalLM", "parameters": 948_224,
            "trainable_parameters": 948_224, "dtype": "float32", "identity": {"weights": "9f2c61d0b7aa"},
        },
        "data": {
            "train": "5d60b152606f4a35",
            "eval": "8e41dc776c0ec6c5",
            "files": [file("train", "ab", 1000, 988), file("eval", "cd", PAIRS, PAIRS)],
            "read": 1000,
            "used": 988,
            "eval_used": PAIRS,
        },
        "reference": {
            "kind": "self", "description": "the model as it is at step 0", "rows": 2376,
            "identity": {
                "scored": {"weights": "9f2c61d0b7aa", "tokenizer": "51be09", "max_length": 256},
                "computed": {"dtype": "float32", "attention": "sdpa", "layout": "shared", "device": "cpu"},
            },
            "verified": "8 rows scored again, largest difference 2.1e-06 nats",
        },
        "objective": {
            "name": "sigmoid", "equation": "-log sigma(beta * (log-ratio chosen - log-ratio rejected))",
            "source": "Rafailov et al. 2023, arXiv 2305.18290, eq. 7", "beta": BETA, "zero_margin": 0.6931,
        },
        "step0": {"loss": 0.6931, "margin_max": 0.0, "bound": 1e-6, "verified": "margins are 0"},
        "layout": {"name": "shared", "requested": "auto", "max_tokens_per_microbatch": 8192},
        "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0"},
        "hardware": {"device": "cpu", "cores": 2, "memory_gb": 16},
        "steps": STEPS,
        "epochs": 2.0,
        "results": {"eval_loss": 0.33},
        "measurements": measurements(rows),
        "events": ({"step": 14, "text": "out of memory: the token budget was halved to 8192"},),
        "timing": {"load": 1.2, "score_reference": 6.5, "train": 96.0, "measure": 18.1},
        "world": {"name": "replies", "seed": 0},
    }  # fmt: skip
    return RunRecord(**(fields | changes))


def preflight() -> dict[str, Any]:
    """Return what `tether check` leaves."""
    findings = [
        Finding(
            kind="identical", severity="dropped", count=12,
            rows=tuple(f"train.jsonl:{n}" for n in range(3, 15)),
            text="Chosen and rejected are the same text; such a pair teaches nothing and was left out.",
        ),
        Finding(
            kind="length_difference", severity="warning", count=988,
            text="Chosen answers are 1.3 times as long as rejected ones: the model may learn length.",
        ),
        Finding(
            kind="duplicated", severity="note", count=4, rows=("train.jsonl:7", "train.jsonl:90"),
            text="The same pair occurs more than once; all were kept.",
        ),
    ]  # fmt: skip
    return {
        "files": [file("train", "ab", 1000, 988), file("eval", "cd", PAIRS, PAIRS)],
        "read": 1000,
        "used": 988,
        "eval_read": PAIRS,
        "eval_used": PAIRS,
        "findings": [finding.model_dump(mode="json") for finding in findings],
        "numbers": {"chosen_characters": 84.1, "rejected_characters": 66.0},
    }


def answers(rows: list[Sample], step: int) -> list[Answer]:
    """Return what the model of a step answered: as before at first, as after from the middle on."""
    found: list[Answer] = []
    for row in rows:
        late = step >= STEPS / 2
        text, score = (row.after, row.score_after) if late else (row.before, row.score_before)
        scores = {} if score is None else {"gold_reward": score}
        found.append(Answer(prompt=row.prompt, completion=text, tokens=20, ended=True, scores=scores))
    return found


def make_run(folder: Path, *, rows: list[Sample] | None = None, **changes: Any) -> Path:
    """Write a whole run folder and return it; `changes` replace fields of run.json."""
    rng = np.random.default_rng(7)
    rows = samples(rng) if rows is None else rows
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    written = record(rows, **changes)
    write_json(folder / "run.json", written)
    lines = metrics(rng)
    for measured in written.measurements:
        document = measured.model_dump(mode="json")
        scores, errors = document.pop("scores"), document.pop("scores_se")
        flat = {f"scores/{name}": value for name, value in scores.items()}
        flat |= {f"scores_se/{name}": value for name, value in errors.items()}
        lines.append({"epoch": measured.step / 60, "phase": "measure"} | document | flat)
    write_lines(folder / "metrics.jsonl", lines)
    write_lines(folder / "samples.jsonl", rows)
    (folder / "samples").mkdir()
    for measured in written.measurements:
        write_lines(folder / "samples" / f"step-{measured.step}.jsonl", answers(rows, measured.step))
    (folder / "preflight.json").write_text(json.dumps(preflight()), encoding="utf-8")
    (folder / "config.yaml").write_text(
        "model_name_or_path: models/replies-base\nbeta: 0.1\n", encoding="utf-8"
    )
    return folder
