"""Writes findings.json, the page and its pictures, and pages of single rows. No torch."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tether.errors import RunFolderError
from tether.records.findings import FINDINGS
from tether.records.results import read_lines, write_json
from tether.records.rows import Content
from tether.records.study import SHARED
from tether.reports.study_examples import Answered, Asked
from tether.reports.study_figures import main_arm
from tether.reports.study_page import write_example_page, write_study_page
from tether.reports.token_pictures import Picture
from tether.study.collect import Cell, Study, read_folder
from tether.study.questions import findings_of
from tether.study.tables import Samples, Tokens
from tether.study.token_level import ratios, read_tokens, token_text

PROMPTS = 24
"""Most prompts of the explorer."""
PICTURES = 3
"""Held-out rows shown token by token, chosen and rejected each."""
EXAMPLES = "examples"
"""Folder of pages of single rows."""
TOKENS = 90
"""Most tokens of one such answer."""


def write_study_report(folder: Path) -> Path:
    """Write `findings.json`, `report.html` and `plots/` of a study folder; return the page.

    Raises:
        RunFolderError: no study here, nothing measured yet, or a damaged file.

    """
    study = read_folder(folder)
    found = findings_of(study)
    write_json(folder / FINDINGS, found)
    arm = main_arm(found)
    cells = [study.of(setting)[0] for setting in study.settings if setting.arm == arm and study.of(setting)]
    cells.sort(key=lambda cell: -(cell.setting.beta or 0.0))
    prompts = {
        str(row["row_id"]): content(row["prompt"]) for row in read_lines(folder / SHARED / "prompts.jsonl")
    }
    config = folder / "study.yaml"
    return write_study_page(
        folder,
        found,
        asked=asked(study, cells, prompts),
        asked_total=len(prompts),
        pictures=pictures(study, cells),
        config_text=config.read_text(encoding="utf-8") if config.is_file() else "",
    )


def content(value: object) -> Content:
    """Return a prompt as rows hold it, from its JSON."""
    if isinstance(value, list):
        return tuple(dict(message) for message in value)
    return str(value)


def asked(study: Study, cells: list[Cell], prompts: dict[str, Content]) -> list[Asked]:
    """Return the first prompts with the first sample of the start model and of every cell."""
    judge = study.judge or study.gold
    models = [("start", study.start_samples), *((cell.setting.name, cell.samples) for cell in cells)]
    places = [_first_samples(samples) for _, samples in models]
    found: list[Asked] = []
    for row_id, prompt in list(prompts.items())[:PROMPTS]:
        answers = [
            _answered(name, samples, place[row_id], judge)
            for (name, samples), place in zip(models, places, strict=True)
            if row_id in place
        ]
        if answers:
            found.append(Asked(prompt, tuple(answers)))
    return found


def pictures(
    study: Study, cells: Sequence[Cell], rows: Sequence[str] | None = None, limit: int | None = TOKENS
) -> list[Picture]:
    """Return held-out answers token by token under every cell: of these rows, or of the first ones."""
    texts = [
        (str(row["row_id"]), str(row["role"]), content(row["prompt"]))
        for row in read_lines(study.folder / SHARED / "completions.jsonl")
    ]
    if rows is None:
        rows = list(dict.fromkeys(row_id for row_id, _, _ in texts))[:PICTURES]
    tables = [(cell.setting.name, read_tokens(cell)) for cell in cells]
    found: list[Picture] = []
    for row_id, role, prompt in texts:
        if row_id not in rows:
            continue
        strips: list[tuple[str, tuple[tuple[str, float], ...]]] = []
        length = 0
        for name, table in tables:
            own = [i for i, r in enumerate(table.row_id) if r == row_id and table.role[i] == role]
            length = max(length, len(own))
            strips.append((name, _strip(study, table, own[:limit])))
        if length:
            left = 0 if limit is None else max(0, length - limit)
            found.append(Picture(prompt, role, tuple(strips), left, row_id))
    return found


def _strip(study: Study, table: Tokens, places: list[int]) -> tuple[tuple[str, float], ...]:
    """Return the text and the log-ratio of the tokens at these places of a table."""
    index = np.array(places, dtype=np.int64)
    pairs = zip(table.token_id[index].tolist(), ratios(table)[index].tolist(), strict=True)
    return tuple((token_text(study, int(token)), float(ratio)) for token, ratio in pairs)


def write_example(folder: Path, row_id: str) -> Path:
    """Write `examples/ROW.html` of a study folder: one held-out row, token by token, every setting.

    Raises:
        RunFolderError: no study here, or no such row is held out.

    """
    study = read_folder(folder)
    cells = [study.of(setting)[0] for setting in study.settings if study.of(setting)]
    found = pictures(study, cells, [row_id], limit=None)
    if not found:
        source = folder / SHARED / "completions.jsonl"
        known = list(dict.fromkeys(str(row["row_id"]) for row in read_lines(source)))
        near = difflib.get_close_matches(row_id, known, 1) or known[:1]
        hint = f"; for example {near[0]}" if near else ""
        raise RunFolderError(f"{row_id}: no such row is held out; {source} lists all {len(known)}{hint}")
    path = folder / EXAMPLES / (re.sub(r"[^A-Za-z0-9._-]", "_", row_id) + ".html")
    path.parent.mkdir(exist_ok=True)
    return write_example_page(path, study.record.study_id, found)


def _first_samples(samples: Samples) -> dict[str, int]:
    found: dict[str, int] = {}
    for index, row_id in enumerate(samples.row_id):
        found.setdefault(row_id, index)
    return found


def _answered(name: str, samples: Samples, index: int, judge: str | None) -> Answered:
    score = samples.scores[judge][index] if judge is not None and judge in samples.scores else None
    return Answered(
        setting=name,
        text=samples.text[index],
        score=None if score is None or not np.isfinite(score) else float(score),
        kl=float(samples.kl_start[index]),
        tokens=int(samples.tokens[index]),
        cut=bool(samples.cut[index]),
    )
