"""Rows whose prompt ends with a mark that some files put at the beginning of the answers instead.

CarperAI/openai_summarize_comparisons: summaries begin with `TL;DR:`, prompts end with the post;
CarperAI/openai_summarize_tldr: prompts end with `TL;DR:`. A model trained on one layout and asked in the
other would say the mark twice.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.data.inputs import inputs
from tether.errors import DataError
from tether.records.results import write_lines

ANSWERS = ("chosen", "rejected", "completion")


def marked(row: Mapping[str, Any], mark: str) -> dict[str, Any] | None:
    """Return the row with the mark at the end of its prompt, on its own line; None where it is nowhere."""
    prompt, answers = row.get("prompt"), {name: row[name] for name in ANSWERS if name in row}
    if not isinstance(prompt, str) or not all(isinstance(text, str) for text in answers.values()):
        return None
    if prompt.rstrip().endswith(mark):
        return dict(row)
    found = {name: text.lstrip() for name, text in answers.items()}
    if not found or not all(text.startswith(mark) for text in found.values()):
        return None
    moved = {name: text.removeprefix(mark) for name, text in found.items()}
    return {**row, "prompt": f"{prompt.rstrip()}\n{mark}", **moved}


def write_marked(specs: Sequence[str], mark: str, path: Path, part: str) -> dict[str, int]:
    """Write the rows of these files with the mark in their prompts; return how many, and how many had none.

    Raises:
        DataError: no row has the mark.

    """
    rows: list[dict[str, Any]] = []
    left_out = 0
    for source in inputs(specs, "train"):
        for raw in source.raw_rows(source.name):
            row = None if raw.value is None else marked(raw.value, mark)
            if row is None:
                left_out += 1
            else:
                rows.append(row)
    if not rows:
        raise DataError(
            f"{', '.join(specs)}: {mark!r} stands neither at the end of a prompt nor at the beginning of "
            f"both answers in any of {left_out} rows; see `mark` in the config"
        )
    write_lines(path, rows)
    return {part: len(rows), f"{part}_without_{mark}": left_out}
