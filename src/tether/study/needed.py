"""Do you need a reference? DPO beside objectives without one and others, each at its own best strength.

The verdict is about the best DPO setting against the best setting of any arm that uses no model as reference;
all sides had the same rows, order and number of updates.
"""

from tether.records.findings import Answer, Comparison, Setting
from tether.reports.tables import number
from tether.study.arms import Side, compare, few_tried
from tether.study.board import Board
from tether.study.words import interval_text, seeds_text

CLAIM = "The best setting with the start model as reference (DPO) is better than the best one without."
DPO = ("sigmoid", "self")
WITHOUT = "without a reference"


def is_dpo(setting: Setting) -> bool:
    """Whether a setting is DPO with the start model as its reference."""
    return (setting.loss_type, setting.reference) == DPO


def asked(board: Board) -> bool:
    """Whether the study has DPO and at least one arm without a reference, each with a sound setting."""
    return bool(board.rows(is_dpo)) and bool(board.rows(_without))


def reference_needed(board: Board, *, alpha: float, seed: int = 0) -> tuple[Answer, list[Comparison]]:
    """Answer whether a reference is needed; the first comparison is the one the verdict is about."""
    dpo = Side("DPO", tuple(board.rows(is_dpo)))
    pairs = [(dpo, Side(WITHOUT, tuple(board.rows(_without))))]
    for arm in board.arms():
        rows = board.rows(lambda setting, arm=arm: setting.arm == arm and not is_dpo(setting))
        setting = next(s for s in board.settings if s.arm == arm)
        if rows and (setting.reference in ("none", "prior") or setting.loss_type != DPO[0]):
            pairs.append((dpo, Side(arm, tuple(rows))))
    found = compare(board, pairs, alpha=alpha, seed=seed)
    head = found[0]
    gap = interval_text(head.difference)
    sides = f"DPO at its best ({head.first_setting}) and the best without a reference ({head.second_setting})"
    sentence = {
        "supported": f"Yes, on this model and data: between {sides} the gain of the reference is {gap}.",
        "contradicted": f"No: the best without a reference is better; {sides} differ by {gap}.",
    }.get(head.verdict, f"Not distinguishable: {sides} differ by {gap}.")
    notes = [*few_tried(pairs), *_seeds(board), *_cost(board, head)]
    answer = Answer(
        question="reference needed",
        claim=CLAIM,
        verdict=head.verdict,
        sentence=sentence,
        notes=tuple(notes),
        n=board.n,
        seeds=len(board.seeds),
        interval=head.difference,
    )
    return answer, found


def _without(setting: Setting) -> bool:
    return setting.reference == "none"


def _seeds(board: Board) -> list[str]:
    if board.several_seeds:
        return []
    return [f"{seeds_text(1).capitalize()}: this is about these trained models, not about the objectives."]


def _cost(board: Board, head: Comparison) -> list[str]:
    arms = {setting.name: setting.arm for setting in board.settings}
    other = arms[head.second_setting]
    parts = [f"at {number(point.kl, 1)} nats {interval_text(point.difference)}" for point in head.equal_kl]
    if not parts:
        return [f"DPO and {other} reach no KL in common: they are not compared at equal KL."]
    return [f"At equal KL the reference gains beside {other}: {'; '.join(parts)}."]
