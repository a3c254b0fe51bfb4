"""Ways of choosing beta, and what each would have cost. None of them ever sees the gold reward.

    judged          the rule of `tight` on a judge's scores of own samples on validation prompts
    cross-fitted    the same rule on the implicit reward of one fixed model trained on the other half of the
                    pairs than the policy it scores (see `study.crossed`)
    ranking         the loosest sound setting: highest policy ranking accuracy among settings without a
                    degeneration flag (RefDPO, arXiv 2407.13709, Table 2: it rises through the optimum)

Validation loss and implicit-reward accuracy are no candidates: neither finds the peak (RefDPO Table 2;
Rafailov et al., arXiv 2406.02900). A rule without a judge becomes the product's only once its regret was at
or below `REGRET` of the best gain in `WORLDS` of worlds, those not looked at before among them, and it
recommended nothing on shuffled labels; see `PROVEN`.
"""

from collections.abc import Mapping

from tether.records.findings import RuleFinding, ScorerChoice
from tether.study.board import Board
from tether.study.tight import how_tight, regret_of

JUDGED, CROSS_FITTED, RANKING = "judged", "cross-fitted", "ranking"
REGRET, WORLDS = 0.05, 0.9
"""A rule is proven where its regret stays at or below 5 % of the best gain in 90 % of worlds."""
PROVEN: frozenset[str] = frozenset()
"""Judge-free rules that kept that promise. None did in six worlds of five seeds (docs/results.md)."""


def judged(board: Board, arm: str, *, alpha: float = 0.05, seed: int = 0) -> RuleFinding:
    """Choose by the scores on the board."""
    found = how_tight(board, arm, alpha=alpha, seed=seed)
    return RuleFinding(
        rule=JUDGED,
        needs="a judge",
        choice=found.recommended,
        reason=found.answer.sentence,
        regret=found.regret,
        proven=True,
    )


def cross_fitted(
    boards: Mapping[float, Board], arm: str, *, cost: tuple[float, float], alpha: float = 0.05, seed: int = 0
) -> RuleFinding:
    """Choose by cross-fitted implicit rewards: a board per scorer's beta, the one that scores first.

    `cost`: training runs beyond the study's cells, and the processor seconds they took.
    """
    found = {beta: how_tight(board, arm, alpha=alpha, seed=seed) for beta, board in boards.items()}
    own = next(iter(found.values()))
    choices = [
        ScorerChoice(beta=beta, choice=tight.recommended, regret=tight.regret)
        for beta, tight in found.items()
    ]
    return RuleFinding(
        rule=CROSS_FITTED,
        needs="policies trained on halves of the pairs, and a fixed scorer for each",
        choice=own.recommended,
        reason=own.answer.sentence,
        regret=own.regret,
        proven=CROSS_FITTED in PROVEN,
        runs=cost[0],
        seconds=cost[1],
        sensitivity=tuple(choices),
    )


def ranking(board: Board, arm: str, policy_accuracy: Mapping[str, float]) -> RuleFinding:
    """Choose the sound setting whose own log-probs rank most held-out pairs right."""
    board = board.only(lambda setting: setting.arm == arm)
    rows = [row for row in board.rows(lambda _: True) if board.name(row) in policy_accuracy]
    needs, proven = "nothing but held-out pairs", RANKING in PROVEN
    if not rows:
        return RuleFinding(rule=RANKING, needs=needs, reason="No setting without a flag.", proven=proven)
    row = max(rows, key=lambda r: policy_accuracy[board.name(r)])
    reason = (
        f"Policy ranking accuracy {100 * policy_accuracy[board.name(row)]:.0f} %, the highest without a "
        "degeneration flag."
    )
    return RuleFinding(
        rule=RANKING,
        needs=needs,
        choice=board.name(row),
        reason=reason,
        regret=regret_of(board, row),
        proven=proven,
    )
