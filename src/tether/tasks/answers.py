"""Answers to the test prompts: every policy at every temperature, and the best of N of the start model.

answers/POLICY-t0.5.jsonl   rows of `tether generate`; of the start model N per prompt, the first one its own
answers/best-of-N-t0.5.jsonl, best-of-N-true-t0.5.jsonl   the picked rows
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tether.config.generate import GenerateConfig
from tether.config.task import TaskConfig
from tether.config.train import TrainConfig
from tether.generation.completions import Row
from tether.generation.sample import Progress, generate
from tether.records.protocols import Evaluator
from tether.records.results import read_lines, write_lines
from tether.records.rows import Completion, Origin, Preference
from tether.training.score import score_rows

Answers = dict[str, Row]
"""The answer to each prompt, by its id."""


def answers_path(out: Path, policy: str, temperature: float) -> Path:
    """Return the file of a policy's answers."""
    return out / "answers" / f"{policy}-t{temperature:g}.jsonl"


def write_answers(
    config: TaskConfig,
    model: str,
    policy: str,
    prompts: Path,
    out: Path,
    temperature: float,
    *,
    samples: int = 1,
    progress: Progress | None = None,
) -> None:
    """Answer every test prompt at one temperature; a file cut short is continued."""
    path = answers_path(out, policy, temperature)
    path.parent.mkdir(exist_ok=True)
    generate(
        GenerateConfig(
            model=model,
            prompts=str(prompts),
            out=str(path),
            temperature=temperature,
            # All samples of one prompt are alike at temperature 0.
            num_samples=samples if temperature > 0 else 1,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.batch_size,
            seed=config.seed,
        ),
        progress,
    )


def read_answers(out: Path, policy: str, temperature: float) -> Answers:
    """Return a policy's own answers: the first sample of each prompt."""
    return {row.id: row for row in samples(out, policy, temperature) if row.sample == 0}


def samples(out: Path, policy: str, temperature: float) -> list[Row]:
    """Return every sample of a policy at a temperature."""
    return [Row.model_validate(row) for row in read_lines(answers_path(out, policy, temperature))]


def write_best(
    out: Path, policy: str, temperature: float, rows: Sequence[Row], scores: Sequence[float]
) -> None:
    """Write, for each prompt, the sample with the highest score; the first of equals."""
    best: dict[str, tuple[float, Row]] = {}
    for row, score in zip(rows, scores, strict=True):
        if row.id not in best or score > best[row.id][0]:
            best[row.id] = (score, row)
    path = answers_path(out, policy, temperature)
    write_lines(path, (row.model_copy(update={"sample": 0, "model": policy}) for _, row in best.values()))


def true_scores(rows: Sequence[Row], reward: Evaluator) -> list[float]:
    """Return the task's reward of each answer."""
    return reward([row.prompt for row in rows], [row.completion for row in rows])


def implicit_rewards(rows: Sequence[Row], policy: str, start: str, beta: float) -> list[float]:
    """Return what a DPO model has learnt: beta (log policy - log start) of each answer, in nats times beta.

    2305.18290 eq. 5 without its partition term, which is one number per prompt and changes no ranking. End
    tokens count where the answer came to its own end.
    """
    data = [_row(index, row) for index, row in enumerate(rows)]
    tables = [_scored(model, data) for model in (policy, start)]
    return [beta * (first - second) for first, second in zip(*tables, strict=True)]


def _row(index: int, row: Row) -> Preference:
    answer = Completion(
        "completion", row.completion if isinstance(row.prompt, str) else _said(row), cut=not row.ended
    )
    return Preference(Origin("answers", index), row.prompt, (answer,))


def _said(row: Row) -> tuple[dict[str, Any], ...]:
    return ({"role": "assistant", "content": row.completion},)


def _scored(model: str, rows: list[Preference]) -> list[float]:
    options = TrainConfig(model_name_or_path=model, dataset_name="(answers)", output_dir="(none)")
    scorer, table = score_rows(model, options, rows)
    return [table.scores[group.completions[0].key].total for group in scorer.groups]
