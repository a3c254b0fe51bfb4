"""What each way of choosing beta would have chosen, seed by seed: as a user with one seed would.

    judged         one verdict per answer against one of the start model's drawn apart from it, won with
                   probability sigmoid(reward difference): a judge as noisy as the labels
    cross-fitted   the implicit reward of the other half's scorer, for every scorer
    ranking        highest policy ranking accuracy without a degeneration flag

None sees the true reward but through that judge; regret is told apart, on the page.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from tether import api
from tether.records.findings import RuleFinding
from tether.records.results import read_lines, write_lines
from tether.study import rules
from tether.study.board import Board
from tether.study.collect import GOLD, Study, board_of, read_folder, setting_findings
from tether.study.questions import crossed_boards
from tether.study.tight import how_tight
from tether.worlds import WORLDS

ARM, WON = "DPO", "won"


Rewards = Float64[np.ndarray, " n"]


def opponents(world: str, place: Path, study: str, *, max_new_tokens: int) -> Rewards:
    """Return the reward of one answer of the start model for each of its samples, drawn apart from them.

    A study's models share their noise, and answers with the same noise give another number than a win rate.
    """
    found = read_folder(place / study)
    samples = found.start_samples
    rows = list(dict.fromkeys(samples.row_id))
    asked = [{"id": row, "prompt": json.loads(found.prompt_of[row])} for row in rows]
    write_lines(place / "asked.jsonl", asked)
    api.generate(
        place / "world" / "model",
        place / "asked.jsonl",
        place / "opponents.jsonl",
        num_samples=len(samples.row_id) // len(rows),
        max_new_tokens=max_new_tokens,
        overwrite=True,
    )
    prompts = {row["id"]: row["prompt"] for row in asked}
    reward = WORLDS[world].reward
    drawn = read_lines(place / "opponents.jsonl")
    return np.array([reward(prompts[row["id"]], row["completion"]) for row in drawn])


def choices(folder: Path, against: Rewards) -> list[dict[str, Any]]:
    """Return one line per seed and rule: the beta it chose (null: none) and the one that looked best.

    `against` are the rewards of the start model's answers that the judge sees beside the others.
    """
    study = read_folder(folder)
    found: list[dict[str, Any]] = []
    for seed in sorted({cell.seed for cell in study.cells}):
        own = replace(study, cells=tuple(cell for cell in study.cells if cell.seed == seed))
        boards: dict[tuple[str, float | None], Board | None] = {
            (rules.JUDGED, None): board_of(with_verdicts(own, against), WON),
            **{(rules.CROSS_FITTED, beta): board for beta, board in crossed_boards(own).items()},
        }
        for (rule, scorer), board in boards.items():
            if board is not None:
                tight = how_tight(board, ARM)
                line = _line(own, tight.recommended, tight.best_looking)
                found.append({"seed": seed, "rule": rule, "scorer": scorer, **line})
        ranked = by_ranking(own, board_of(own, GOLD))
        if ranked is not None:
            line = _line(own, ranked.choice, ranked.choice)
            found.append({"seed": seed, "rule": rules.RANKING, "scorer": None, **line})
    return found


def by_ranking(study: Study, board: Board | None) -> RuleFinding | None:
    """Return what the ranking rule chooses; the board only says which settings are sound."""
    accuracies = {
        s.setting.name: s.numbers.get("policy_accuracy") for s in setting_findings(study) if s.cells
    }
    known: Mapping[str, float] = {name: value for name, value in accuracies.items() if value is not None}
    return None if board is None or not known else rules.ranking(board, ARM, known)


def with_verdicts(study: Study, against: Rewards) -> Study:
    """Add a column of one verdict per answer beside an opponent of reward `against`.

    The judge's luck is another for every seed, or five seeds would share one.
    """
    seeds = sorted({cell.seed for cell in study.cells})
    draw = random.Random(f"verdicts {study.record.study_id} {seeds}")

    def judged(scores: Any) -> Any:
        chance = 1.0 / (1.0 + np.exp(against - scores))
        return np.array([float(draw.random() < p) for p in chance])

    cells = [
        replace(
            cell,
            samples=replace(
                cell.samples, scores={**cell.samples.scores, WON: judged(cell.samples.scores[GOLD])}
            ),
        )
        for cell in study.cells
    ]
    return replace(study, cells=tuple(cells))


def _line(study: Study, chosen: str | None, looking: str | None) -> dict[str, Any]:
    betas = {setting.name: setting.beta for setting in study.settings}
    return {"choice": betas.get(chosen or ""), "best_looking": betas.get(looking or "")}
