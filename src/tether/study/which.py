"""Which reference? The same loss held to other models, each at its own best strength, beside `self`.

A strong reference at a large beta pulls the policy to its own margins whatever the labels say. Settings
trained on shuffled labels (`labels: shuffled`) show how much of the gain that is.
"""

from collections.abc import Mapping

import numpy as np

from tether.analysis.selection import simultaneous_differences
from tether.records.findings import (
    Answer,
    Comparison,
    ReferenceDistance,
    Setting,
    ShuffleControl,
)
from tether.study.arms import Side, compare, few_tried
from tether.study.board import Array, Board
from tether.study.estimates import of_difference
from tether.study.needed import DPO, is_dpo
from tether.study.words import interval_text, seeds_text

CLAIM = "Some other reference is better than the start model as reference."
OTHERS = "any other reference"


def is_other(setting: Setting) -> bool:
    """Whether a setting is DPO's loss held to another reference than the start model."""
    return setting.loss_type == DPO[0] and setting.reference not in ("none", "self")


def asked(board: Board) -> bool:
    """Whether the study has DPO with `self` and with another reference, each with a sound setting."""
    return bool(board.rows(is_dpo)) and bool(board.rows(is_other))


def which_reference(
    board: Board, shuffled: list[ShuffleControl], *, alpha: float, seed: int = 0
) -> tuple[Answer, list[Comparison]]:
    """Answer which reference; the first comparison is the one the verdict is about."""
    own = Side("self", tuple(board.rows(is_dpo)))
    pairs = [(Side(OTHERS, tuple(board.rows(is_other))), own)]
    for reference in dict.fromkeys(s.reference for s in board.settings if is_other(s)):
        rows = board.rows(lambda s, r=reference: is_other(s) and s.reference == r)
        if rows:
            pairs.append((Side(reference, tuple(rows)), own))
    found = compare(board, pairs, alpha=alpha, seed=seed)
    head, better = found[0], [c for c in found[1:] if c.verdict == "supported"]
    gap = interval_text(head.difference)
    by_name = {setting.name: setting for setting in board.settings}
    sides = (
        f"models held to {_held(by_name[head.first_setting])} and to {_held(by_name[head.second_setting])}"
    )
    sentence = {
        "supported": f"{', '.join(c.first for c in better) or 'Another one'}: between {sides}, "
        f"the other reference gains {gap}.",
        "contradicted": f"The start model: every other reference is worse; {sides} differ by {gap}.",
    }.get(head.verdict, f"Not distinguishable: {sides} differ by {gap}.")
    answer = Answer(
        question="which reference",
        claim=CLAIM,
        verdict=head.verdict,
        sentence=sentence,
        notes=tuple([*few_tried(pairs), *_seeds(board), *_copied(shuffled)]),
        n=board.n,
        seeds=len(board.seeds),
        interval=head.difference,
    )
    return answer, found


def _held(setting: Setting) -> str:
    """Say what a setting is held to, and how tightly."""
    words = {"self": "the start model", "prior": "the prior (RefDPO's likelihood)"}
    strength = setting.name.removeprefix(setting.arm).strip()
    short = setting.arm.rpartition(", reference ")[2].partition(", ")[0]
    held = words.get(setting.reference, f"the model {short.removeprefix('model:')}")
    return f"{held} at {strength}" if strength else held


def shuffle_controls(board: Board, *, alpha: float, seed: int = 0) -> list[ShuffleControl]:
    """Return every setting that was also trained on shuffled labels, beside itself on the given ones."""
    by_setting: dict[tuple[object, ...], dict[str, int]] = {}
    for index, setting in enumerate(board.settings):
        key = (
            setting.loss_type,
            setting.reference,
            setting.beta,
            setting.learning_rate,
            setting.data_fraction,
        )
        by_setting.setdefault(key, {})[setting.labels] = index + 1
    both = [(rows["given"], rows["shuffled"]) for rows in by_setting.values() if len(rows) == 2]
    if not both:
        return []
    given_rows, mixed_rows = ([rows[side] for rows in both] for side in (0, 1))
    found = simultaneous_differences(
        board.gains,
        [*given_rows, *mixed_rows],
        [*mixed_rows, *([0] * len(both))],
        level=1 - alpha,
        draws=board.draws,
        seed=seed,
    )
    gains = board.gains.mean(axis=(1, 2))
    return [
        ShuffleControl(
            setting=board.name(given),
            gain=float(gains[given]),
            shuffled_gain=float(gains[mixed]),
            share=float(gains[mixed] / gains[given]) if gains[given] > 0 else None,
            difference=of_difference(found, k, board.n),
            shuffled=of_difference(found, len(both) + k, board.n),
        )
        for k, (given, mixed) in enumerate(both)
    ]


def distances(ratios: Mapping[str, Array]) -> list[ReferenceDistance]:
    """Return how far each reference is from the start model; `ratios` are log-ratios per token of texts."""
    return [
        ReferenceDistance(reference=name, kind="text log-ratio", per_token=float(np.abs(values).mean()))
        for name, values in ratios.items()
        if values.size and bool(np.isfinite(values).all())
    ]


def _seeds(board: Board) -> list[str]:
    if board.several_seeds:
        return []
    return [f"{seeds_text(1).capitalize()}: this is about these trained models, not about the references."]


def _copied(shuffled: list[ShuffleControl]) -> list[str]:
    if not shuffled:
        return [
            "No setting was trained on shuffled labels, so learning from preferences is not told apart here "
            "from copying a reference's margin."
        ]
    return [_told(control) for control in shuffled]


def _told(control: ShuffleControl) -> str:
    """Say what shuffled labels gained; a share of it is copied only where it is a gain at all."""
    gained = f"On shuffled labels {control.setting} gains {interval_text(control.shuffled)}"
    if control.shuffled.low is None or control.shuffled.low <= 0:
        return f"{gained}: no gain that can be told from nothing."
    share = f" ({100 * control.share:.0f} %)" if control.share is not None else ""
    return f"{gained} of {control.gain:.3g}{share}: that part is not learnt from the preferences."
