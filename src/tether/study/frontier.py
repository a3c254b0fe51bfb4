"""What was gained for what was spent: every cell, the dial, and the law R(d) = d (alpha - beta_hat log d)."""

import numpy as np

from tether.analysis.drift import fit_frontier
from tether.errors import DataError
from tether.records.findings import Law, OptimumPoint, Point
from tether.records.results import read_lines
from tether.records.study import SHARED
from tether.study.board import Array, Board
from tether.study.collect import Study

OPTIMUM = "optimum.jsonl"
"""Under shared/: the exact optimum of an enumerable world, one `OptimumPoint` a line."""


def points(study: Study, board: Board) -> list[Point]:
    """Return the start model, every compared cell, and every dialled model, on the board's prompts."""
    score, error = _mean(board.scores[0, 0])
    found = [Point(arm="start", setting="", cell="", kl=0.0, score=score, score_se=error)]
    for index, setting in enumerate(board.settings):
        for place, seed in enumerate(board.seeds):
            cell = next(c for c in study.of(setting) if c.seed == seed)
            kl, kl_se = _mean(board.kl[index + 1, place])
            score, score_se = _mean(board.scores[index + 1, place])
            found.append(
                Point(
                    arm=setting.arm,
                    setting=setting.name,
                    cell=cell.record.cell_id,
                    kl=kl,
                    kl_se=kl_se,
                    score=score,
                    score_se=score_se,
                    degenerate=bool(cell.numbers.degenerate),
                )
            )
    for dialled in sorted(board.dialled, key=lambda d: (d.cell, d.dial)):
        kl, kl_se = _mean(dialled.kl)
        score, score_se = _mean(dialled.scores)
        found.append(
            Point(
                arm=f"dial of {dialled.setting.name}",
                setting="",
                cell=dialled.cell,
                kl=kl,
                kl_se=kl_se,
                score=score,
                score_se=score_se,
                dial=dialled.dial,
            )
        )
    return found


def laws(board: Board) -> list[Law]:
    """Fit the law to the gains of every arm with at least three sound cells at different KL."""
    found: list[Law] = []
    for arm in board.arms():
        rows = board.rows(lambda setting, arm=arm: setting.arm == arm)
        gains, kl = board.gains[rows], board.kl[rows]
        errors = gains.std(axis=2, ddof=1).ravel() / np.sqrt(board.n)
        table = gains.reshape(-1, board.n)
        try:
            law = fit_frontier(kl.mean(axis=2).ravel(), table.mean(axis=1), errors, by_prompt=table)
        except DataError:
            continue
        found.append(
            Law(
                arm=arm,
                alpha=law.alpha,
                beta_hat=law.beta_hat,
                alpha_interval=law.alpha_interval,
                beta_hat_interval=law.beta_hat_interval,
                peak_kl=law.peak_kl,
                residual_sd=law.residual_sd,
                n=law.n,
                covariance=law.covariance,
                freedom=law.freedom,
            )
        )
    return found


def optimum_points(study: Study) -> list[OptimumPoint]:
    """Return the exact optimum where it was computed (see `study.optimum`)."""
    return [OptimumPoint.model_validate(line) for line in read_lines(study.folder / SHARED / OPTIMUM)]


def _mean(values: Array) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
