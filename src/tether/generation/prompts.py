"""Prompts from files: rows that hold only a prompt, rows of any preference format, or lines of text."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tether.data.fields import Columns, RowProblem, as_messages, build
from tether.data.foreign import read_alpaca
from tether.data.formats import detect
from tether.data.raw import BadRow, RawRow, byte_lines, decode_utf8, open_bytes
from tether.data.sources import expand, iter_raw, labels
from tether.errors import DataError
from tether.records.rows import Content, Message, Origin, Preference, canonical_json

NAMES = ("id", "prompt_id", "question_id", "uid")
"""Columns that may name a row, the first that is there."""
ABOUT = ("dataset", "datasplit")
SHOWN = 3
"""Rows named in the message when rows are refused."""


@dataclass(frozen=True)
class Prompt:
    """One prompt to answer."""

    id: str
    """The row's own `id`, `prompt_id`, `question_id` or `uid`, else `file:line`."""
    content: Content
    tools: tuple[dict[str, Any], ...] = ()
    template_arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    follow_ups: tuple[str, ...] = ()
    """What the user says in later turns (MT-Bench), whatever the answers."""
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What a benchmark's row says of itself: dataset, datasplit."""

    @property
    def content_messages(self) -> tuple[Message, ...]:
        """The content of a chat."""
        return () if isinstance(self.content, str) else self.content

    @property
    def key(self) -> str:
        """Text that is equal for equal prompts; samples are seeded by it."""
        return canonical_json([self.content, self.tools, dict(self.template_arguments)])


def read_prompts(spec: str | Path) -> list[Prompt]:
    """Read every prompt a file, folder or glob holds, in order.

    A row's answers are left aside: what counts is the prompt of a preference or SFT row, the turns before a
    chat's last answer. Of a `.txt` file every line that is not blank is a prompt, without its line break.

    Raises:
        DataError: a file that cannot be read, no prompts at all, or rows without one: how many and the first.

    """
    prompts: list[Prompt] = []
    problems: list[str] = []
    for raw in _rows(spec):
        try:
            prompts.append(_prompt(raw))
        except RowProblem as problem:
            problems.append(f"{raw.origin}: {problem}")
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DataError(
            f"{spec}: {len(problems)} of {len(problems) + len(prompts)} rows cannot be answered: "
            f"{'; '.join(problems[:SHOWN])}{more}"
        )
    if not prompts:
        raise DataError(f"{spec}: holds no prompts")
    return prompts


def _rows(spec: str | Path) -> Iterator[RawRow]:
    path = Path(spec).expanduser()
    if path.name.lower().removesuffix(".gz").endswith(".txt") and path.is_file():
        yield from _text_lines(path)
        return
    files = expand(spec)
    for file, label in zip(files, labels(files), strict=True):
        yield from iter_raw(file, label)


def _text_lines(path: Path) -> Iterator[RawRow]:
    row = 0
    with open_bytes(path) as stream:
        try:
            for number, (line, too_long) in enumerate(byte_lines(stream), start=1):
                text = decode_utf8(line).removesuffix("\n").removesuffix("\r")
                if too_long:
                    raise DataError(f"{path.name}:{number}: the line is too long to be a prompt")
                if text.strip():
                    yield RawRow(Origin(path.name, row, number), {"prompt": text})
                    row += 1
        except BadRow as problem:
            raise DataError(f"{path.name}: after {row} prompts: {problem}") from problem


def _prompt(raw: RawRow) -> Prompt:
    if raw.value is None:
        raise RowProblem("row", raw.problem or "is unreadable", raw.kind)
    given = next((raw.value[name] for name in NAMES if raw.value.get(name) is not None), None)
    name = str(given) if isinstance(given, str | int) and not isinstance(given, bool) else str(raw.origin)
    about = {key: raw.value[key] for key in ABOUT if isinstance(raw.value.get(key), str)}
    if "turns" in raw.value and "prompt" not in raw.value:
        first, *rest = _said_in_turn(raw.value["turns"])
        return Prompt(name, ({"role": "user", "content": first},), follow_ups=tuple(rest), about=about)
    row = _row(raw.origin, raw.value)
    return Prompt(name, row.prompt, row.tools, row.template_arguments, about=about)


def _said_in_turn(turns: Any) -> list[str]:
    """Return what the user says in each turn: texts, or objects with `content`."""
    parts = (
        [turn.get("content") if isinstance(turn, dict) else turn for turn in turns]
        if isinstance(turns, list)
        else []
    )
    said = [part for part in parts if isinstance(part, str)]
    if not said or len(said) != len(parts):
        raise RowProblem("turns", "is no list of texts", "missing_field")
    return said


def _row(origin: Origin, value: dict[str, Any]) -> Preference:
    columns = Columns(value)
    chat = next((name for name in ("messages", "conversations") if name in columns), None)
    if chat and "chosen" not in columns and "rejected" not in columns:
        return build(origin, columns, _turns(columns, chat), ())
    try:
        known = detect([value])
    except DataError:
        known = None
    if known is not None:
        return known.read(origin, columns)
    if "instruction" in columns and "prompt" not in columns:
        # Alpaca rows that wait for their output, as AlpacaEval gives them.
        return read_alpaca(origin, Columns({**value, "output": ""}))
    return build(origin, columns, columns.content("prompt"), ())


def _turns(columns: Columns, name: str) -> tuple[Message, ...]:
    turns = as_messages(columns.need(name), name)
    system = columns.optional_text("system") if name == "conversations" else None
    if system:
        turns = ({"role": "system", "content": system}, *turns)
    if turns and turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    if not turns:
        raise RowProblem(name, "hold no turn to answer", "missing_field")
    return turns
