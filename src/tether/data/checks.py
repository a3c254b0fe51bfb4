"""The preflight: files to rows, every bad row named in one pass, nothing left out uncounted."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tether.data.formats import Format, RowProblem, detect, parse, reads_as, unused_columns
from tether.data.inputs import Input, Spec, inputs
from tether.data.prompts import HUMAN, prompt_text
from tether.data.raw import RawRow
from tether.data.report import DataReport, FileReport, Ledger, length_numbers
from tether.data.sources import labels
from tether.data.tasks import Task, Ties, fit_task, is_tied, unpair, without_tied
from tether.errors import DataError
from tether.records.rows import Completion, Content, Preference, text_key

SAMPLE = 1000
"""Rows of a file that vote on its format."""


@dataclass(frozen=True)
class Loaded:
    """Rows that can be used, and the report on all that were read."""

    rows: list[Preference]
    eval_rows: list[Preference]
    report: DataReport
    max_listed: int = 20

    def require_rows(self) -> None:
        """Refuse data of which nothing is left.

        Raises:
            DataError: no training row, or held-out files were named and none of their rows can be used.

        """
        report = self.report
        if not self.rows:
            raise DataError(self._nothing("train", report.read))
        if not self.eval_rows and any(file.split == "eval" for file in report.files):
            raise DataError(self._nothing("eval", report.eval_read))

    def _nothing(self, split: str, read: int) -> str:
        files = ", ".join(file.path for file in self.report.files if file.split == split)
        if not read:
            return f"{files}: holds no rows"
        reasons = [f for f in self.report.findings if f.severity == "dropped"]
        shown = "; ".join(
            f"{f.count} {f.kind} ({', '.join(self._listed(f.rows, f.details))})"
            for f in sorted(reasons, key=lambda f: -f.count)[:3]
        )
        return f"{files}: none of {read} rows can be used: {shown}"

    def _listed(self, rows: Sequence[str], details: Sequence[str]) -> list[str]:
        few = min(3, self.max_listed)
        pairs = itertools.zip_longest(rows[:few], details[:few], fillvalue="")
        return [f"{row}: {detail}" if detail else row for row, detail in pairs] + (
            ["..."] if len(rows) > few else []
        )


def load(
    spec: Spec,
    *,
    eval_spec: Spec | None = None,
    task: Task = "any",
    ties: Ties = "drop",
    max_listed: int = 20,
) -> Loaded:
    """Read, check and count rows.

    `task` is what the rows are for: `preference` needs pairs (of a ranking it takes the best and the worst),
    `sft` needs one answer (of a pair it takes the better one), `unpaired` needs answers marked desirable or
    not (a pair gives one of each), `list` needs rankings (a pair is one of two), `any` keeps rows as they
    are. `ties` says what happens to pairs with equal scores.

    Raises:
        DataError: nothing is there, a whole file is refused, or its columns fit no known format.

    """
    ledger = Ledger()
    train, held_out = inputs(spec, "train"), [] if eval_spec is None else inputs(eval_spec, "eval")
    both = [*train, *held_out]
    names = labels([source.path for source in both if source.path is not None])
    files: list[FileReport] = []
    rows: dict[str, list[Preference]] = {"train": [], "eval": []}
    reader = _Reader(ledger, task, ties)
    for source in both:
        name = names.pop(0) if source.path is not None else source.name
        kept, report = reader.read(source, name)
        rows[source.split] += kept
        files.append(report)
    for kept in rows.values():
        _repeats(kept, ledger)
    _overlap(rows["train"], rows["eval"], ledger)
    report = DataReport(
        task=task,
        files=tuple(files),
        read=sum(file.read for file in files if file.split == "train"),
        used=sum(file.used for file in files if file.split == "train"),
        eval_read=sum(file.read for file in files if file.split == "eval"),
        eval_used=sum(file.used for file in files if file.split == "eval"),
        findings=ledger.findings(),
        numbers=length_numbers(rows["train"]),
    )
    return Loaded(rows["train"], rows["eval"], report, max_listed)


@dataclass(frozen=True)
class _Reader:
    """Reads inputs into rows and notes what it leaves out."""

    ledger: Ledger
    task: Task
    ties: Ties

    def read(self, source: Input, name: str) -> tuple[list[Preference], FileReport]:
        raws = source.raw_rows(name)
        sample = list(itertools.islice(raws, SAMPLE))
        values = [raw.value for raw in sample if raw.value is not None]
        try:
            format_ = detect(values) if values else None
        except DataError as error:
            raise DataError(f"{source.path or name}: {error}") from None
        read = used = 0
        kept: list[Preference] = []
        for raw in itertools.chain(sample, raws):
            read += 1
            row = self._row(format_, raw)
            if row is not None:
                row = source.mark(row)
                used += 1
                kept += unpair(row) if self.task == "unpaired" else [row]
        if not read:
            self.ledger.add("empty_file", name)
        return kept, FileReport(
            path=str(source.path or name),
            sha256=source.digest(),
            split=source.split,
            format=format_.name if format_ else "none",
            read=read,
            used=used,
            ignored_columns=tuple(unused_columns(format_, values)) if format_ else (),
        )

    def _row(self, format_: Format | None, raw: RawRow) -> Preference | None:
        """Return the row if it can be used; note why where it cannot."""
        row_id = str(raw.origin)
        if raw.value is None or format_ is None:
            self.ledger.add(raw.kind, row_id, raw.problem or "")
            return None
        try:
            used, note = fit_task(parse(format_, raw), self.task)
            must_be_usable(used)
        except RowProblem as problem:
            self.ledger.add(problem.kind, row_id, str(problem))
            return None
        if note:
            self.ledger.add(note, row_id)
        own = reads_as(format_, raw.value)
        if own is not format_:
            self.ledger.add("mixed_formats", row_id, own.name)
        used = self._tie(used)
        if used is not None:
            note_oddities(used, self.ledger)
            if self.task == "unpaired" and used.role("chosen") is not None:
                self.ledger.add("pair_split", row_id)
        return used

    def _tie(self, row: Preference) -> Preference | None:
        if self.ties == "keep" or not is_tied(row):
            return row
        if self.ties == "soft" and row.role("chosen") is not None:
            self.ledger.add("ties_kept", row.row_id)
            return replace(row, probability=0.5)
        if row.completions[0].role == "rank-0" and (kept := without_tied(row)) is not None:
            left = len(row.completions) - len(kept.completions)
            self.ledger.add("tied_answers", row.row_id, f"{left} of {len(row.completions)} answers")
            return kept
        self.ledger.add("tied", row.row_id)
        return None


def must_be_usable(row: Preference) -> None:
    """Refuse a row that no objective can train on.

    Raises:
        RowProblem: empty prompt, empty or identical answers, an answer that does not end with the assistant.

    """
    if not row.prompt:
        raise RowProblem("prompt", "is empty", "empty_prompt")
    for completion in row.completions:
        content = completion.content
        if not said(content):
            raise RowProblem(completion.role, "is empty", "empty_completion")
        if isinstance(content, tuple) and content[-1]["role"] != "assistant":
            raise RowProblem(
                completion.role, f"ends with a {content[-1]['role']} message", "no_final_assistant"
            )
    contents = [completion.content for completion in row.completions]
    for first, second in itertools.combinations(range(len(contents)), 2):
        if contents[first] == contents[second]:
            names = (row.completions[first].role, row.completions[second].role)
            raise RowProblem(names[0], f"and {names[1]} are the same", "identical")


def said(content: Content) -> str:
    """Return what the assistant says in a completion: text, and tool calls as JSON."""
    if isinstance(content, str):
        return content
    parts: list[str] = []
    for message in content:
        if message["role"] == "assistant":
            calls = message.get("tool_calls")
            parts.append((message.get("content") or "") + (json.dumps(calls) if calls else ""))
    return "".join(parts)


def note_oddities(row: Preference, ledger: Ledger) -> None:
    """Note what is strange about a usable row."""
    row_id = row.row_id
    chosen, rejected = row.role("chosen"), row.role("rejected")
    if chosen and rejected:
        _note_pair(row, chosen, rejected, ledger)
    if isinstance(row.prompt, tuple) and row.prompt[-1]["role"] == "assistant":
        ledger.add("prompt_ends_with_assistant", row_id)
    if any(not said(completion.content).strip() for completion in row.completions):
        ledger.add("whitespace_only", row_id)
    if any(isinstance(c.content, str) and HUMAN in c.content for c in row.completions):
        ledger.add("later_turns", row_id)
    for name, plain in (("weight", 1.0), ("margin", 0.0)):
        value = getattr(row, name)
        if value != plain:
            ledger.add(name, row_id, f"{value:g}")
    if row.probability != 1.0 and not is_tied(row):
        ledger.add("probability", row_id, f"{row.probability:g}")


def _note_pair(row: Preference, chosen: Completion, rejected: Completion, ledger: Ledger) -> None:
    if chosen.score is not None and rejected.score is not None and chosen.score < rejected.score:
        ledger.add("score_against", row.row_id, f"{chosen.score:g} < {rejected.score:g}")
    if (
        isinstance(row.prompt, str)
        and row.prompt.strip()
        and all(isinstance(c.content, str) and c.content.startswith(row.prompt) for c in row.completions)
    ):
        ledger.add("repeated_prompt", row.row_id)


def row_key(row: Preference) -> tuple[str, ...]:
    """Return what a row says, role by role: equal for rows that are copies of each other."""
    return tuple(
        f"{c.role}:{text_key(row.prompt, c.content, row.tools, row.template_arguments)}"
        for c in row.completions
    )


OPPOSITE = {
    "chosen": "rejected",
    "rejected": "chosen",
    "desirable": "undesirable",
    "undesirable": "desirable",
}


def _opposite(key: tuple[str, ...]) -> tuple[str, ...]:
    """Return the key of the row that says the contrary."""
    turned = [(OPPOSITE.get(role, role), text) for role, text in (part.split(":") for part in key)]
    return tuple(f"{role}:{text}" for role, text in sorted(turned, key=lambda part: part[0]))


def _repeats(rows: Sequence[Preference], ledger: Ledger) -> None:
    """Note duplicates and contradictions among rows."""
    first: dict[tuple[str, ...], str] = {}
    keys = [row_key(row) for row in rows]
    for row, key in zip(rows, keys, strict=True):
        if key in first:
            ledger.add("duplicate", row.row_id, f"as {first[key]}")
        else:
            first[key] = row.row_id
    for row, key in zip(rows, keys, strict=True):
        contrary = _opposite(key)
        if contrary != key and contrary in first:
            ledger.add("contradictory", row.row_id, f"against {first[contrary]}")


def _overlap(train: Sequence[Preference], held_out: Sequence[Preference], ledger: Ledger) -> None:
    """Note held-out rows that training sees."""
    if not held_out:
        return
    keys = {row_key(row): row.row_id for row in train}
    prompts = {prompt_text(row.prompt): row.row_id for row in train}
    for row in held_out:
        same_row, same_prompt = keys.get(row_key(row)), prompts.get(prompt_text(row.prompt))
        if same_row is not None:
            ledger.add("overlap_row", row.row_id, f"as {same_row}")
        elif same_prompt is not None:
            ledger.add("overlap_prompt", row.row_id, f"as {same_prompt}")
