"""The texts behind ready-made annotations, as verdicts: what a page shows side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tether.judging.annotations import share_of
from tether.judging.outputs import read_rows
from tether.records.comparison import Verdict

UNNAMED = "annotations"
"""The judge of rows that name no annotator."""


def annotated_verdicts(files: Sequence[Path]) -> list[Verdict]:
    """Return the rows of AlpacaEval's JSON files as verdicts, those on one prompt together; none of Parquet.

    A is the model, B the baseline. The files do not say which was shown first: the share stands in `a_first`
    of one order, and nothing may be read from its place. `read_annotations` has checked the rows.
    """
    by_prompt: dict[str, list[Verdict]] = {}
    for path in files:
        if path.suffix == ".parquet":
            continue
        for number, row in enumerate(read_rows(path)):
            verdict = _verdict(f"{path} row {number}", row)
            by_prompt.setdefault(verdict.id, []).append(verdict)
    return [verdict for verdicts in by_prompt.values() for verdict in verdicts]


def _verdict(where: str, row: dict[str, Any]) -> Verdict:
    prompt, share = str(row["instruction"]), share_of(where, row["preference"])
    return Verdict(
        id=prompt,
        prompt=prompt,
        model_a=str(row["generator_2"]),
        model_b=str(row.get("generator_1") or "baseline"),
        answer_a=str(row["output_2"]),
        answer_b=str(row["output_1"]),
        judge=str(row.get("annotator") or UNNAMED),
        a_first=None if share != share else share,
        b_first=None,
        orders=1,
    )
