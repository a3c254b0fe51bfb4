"""What each way of choosing beta would have chosen, seed by seed: as a user with one seed would.

    judged         one verdict per answer against the start model's, won with probability
                   sigmoid(reward difference): a judge as noisy as the labels
    cross-fitted   the implicit reward of the other half's scorer, for every scorer
    ranking        highest policy ranking accuracy without a degeneration flag

None sees the true reward but through that judge; regret is told apart, on the page.
"""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tether.records.findings import RuleFinding
from tether.study import rules
from tether.study.board import Board
from tether.study.collect import GOLD, Study, board_of, read_folder, setting_findings
from tether.study.questions import crossed_boards
from tether.study.tight import how_tight

ARM, WON = "DPO", "won"


def choices(folder: Path) -> list[dict[str, Any]]:
    """Return one line per seed and rule: the beta it chose (null: none) and the one that looked best."""
    study = read_folder(folder)
    found: list[dict[str, Any]] = []
    for seed in sorted({cell.seed for cell in study.cells}):
        own = replace(study, cells=tuple(cell for cell in study.cells if cell.seed == seed))
        boards: dict[tuple[str, float | None], Board | None] = {
            (rules.JUDGED, None): board_of(with_verdicts(own), WON),
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


def with_verdicts(study: Study) -> Study:
    """Add a column of one verdict per answer against the start model's on the same prompt and draw."""
    draw = random.Random(f"verdicts {study.record.study_id}")
    against = study.start_samples.scores[GOLD]

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
