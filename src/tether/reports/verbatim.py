"""Text of data and models shown as it is: escaped, invisible characters made visible, words compared."""

import difflib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from tether.records.rows import Content, Message

SHOWN = 6000
"""Characters of one text that a page shows; the rest is counted beside it and stays in the file."""
COMPARED = 1500
"""Longest answer, in words and marks, whose words are compared."""
ALIKE = 0.3
"""Share of words two answers must have in common before differences are marked; below it all is different."""
PIECES = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True)
class Turn:
    """One chat message, or the whole prompt where it was plain text (`role` is then empty)."""

    role: str
    text: Markup


def visible_controls(text: str) -> str:
    """Replace every character a reader cannot see, or that reorders text, by its code point in brackets."""
    return "".join(f"[U+{ord(c):04X}]" if hidden(c) else c for c in text)


def hidden(character: str) -> bool:
    """Tell whether a character is a control, a format or bidi mark, a surrogate or a line separator."""
    if character in "\n\t":
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def verbatim(text: str, shown: int = SHOWN, file: str = "samples.jsonl") -> Markup:
    """Return text as safe HTML: escaped, hidden characters as labelled marks, a cut named with its size."""
    return Markup("").join(_marked(text[:shown])) + _rest(text, shown, file)


def compared(before: str, after: str) -> tuple[Markup, Markup]:
    """Return two answers as safe HTML with the words only one of them has marked (`del`, `ins`).

    Nothing is marked where they share less than `ALIKE` of their words, or where one is longer than
    `COMPARED` pieces.
    """
    old, new = PIECES.findall(before[:SHOWN]), PIECES.findall(after[:SHOWN])
    if max(len(old), len(new)) > COMPARED:
        return verbatim(before), verbatim(after)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    blocks = [block for block in matcher.get_matching_blocks() if _words(old[block.a : block.a + block.size])]
    shared = sum(_words(old[block.a : block.a + block.size]) for block in blocks)
    if 2 * shared < ALIKE * (_words(old) + _words(new)):
        return verbatim(before), verbatim(after)
    left = _with_marks(old, [(block.a, block.size) for block in blocks], "del")
    right = _with_marks(new, [(block.b, block.size) for block in blocks], "ins")
    return left + _rest(before, SHOWN), right + _rest(after, SHOWN)


def turns(prompt: Content) -> list[Turn]:
    """Return a prompt as chat turns; whatever is not plain text (images, tool calls) is shown as JSON."""
    if isinstance(prompt, str):
        return [Turn("", verbatim(prompt))]
    return [Turn(str(message.get("role", "")), verbatim(_said(message))) for message in prompt]


def _said(message: Message) -> str:
    content = message.get("content")
    parts = [content] if isinstance(content, str) else []
    other = {
        key: value
        for key, value in message.items()
        if key != "role" and not (key == "content" and isinstance(content, str))
    }
    if other:
        parts.append(json.dumps(other, ensure_ascii=False, default=str))
    return "\n".join(parts)


def _words(pieces: Sequence[str]) -> int:
    return sum(not piece.isspace() for piece in pieces)


def _with_marks(pieces: Sequence[str], same: Sequence[tuple[int, int]], tag: str) -> Markup:
    """Wrap what lies between the shared blocks; spaces at the edges stay outside."""
    parts: list[Markup] = []
    position = 0
    for start, size in [*same, (len(pieces), 0)]:
        changed = "".join(pieces[position:start])
        core = changed.strip()
        if core:
            lead, trail = changed[: changed.index(core)], changed[changed.index(core) + len(core) :]
            parts += [
                verbatim(lead),
                Markup(f"<{tag}>"),
                verbatim(core),
                Markup(f"</{tag}>"),
                verbatim(trail),
            ]
        else:
            parts.append(verbatim(changed))
        parts.append(verbatim("".join(pieces[start : start + size])))
        position = start + size
    return Markup("").join(parts)


def _marked(text: str) -> Iterator[Markup]:
    run: list[str] = []
    for character in text:
        if not hidden(character):
            run.append(character)
            continue
        yield escape("".join(run))
        run.clear()
        name = unicodedata.name(character, "CONTROL")
        yield Markup('<span class="ctl" title="{}">U+{:04X}</span>').format(name, ord(character))
    yield escape("".join(run))


def _rest(text: str, shown: int, file: str = "samples.jsonl") -> Markup:
    left = len(text) - shown
    if left <= 0:
        return Markup("")
    return Markup('<span class="cut">{:,} more characters in {}</span>').format(left, file)
