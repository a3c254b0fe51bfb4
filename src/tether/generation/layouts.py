"""Answers in the layouts of AlpacaEval, Arena-Hard and MT-Bench, for their judges.

    alpacaeval   model_outputs.json: a list of {instruction, output, generator, and dataset where known}
    arena-hard   model_answer/MODEL.jsonl (version 2): {uid, ans_id, model, messages, tstamp, metadata}
    mt-bench     model_answer/MODEL.jsonl: {question_id, answer_id, model_id, choices, tstamp}

The layout is made from ordinary files of completions beside it, OUT.turn-1.jsonl and so on, one per turn of
the questions; those are what a stopped run continues. The same completions give the same bytes: ids are
hashes, `tstamp` is when the first of those files was finished.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from tether.errors import DataError, RunFolderError
from tether.generation.completions import GenerateRecord, Row, meta_path, read_rows, summary
from tether.generation.prompts import Prompt
from tether.records.rows import Message, canonical_json

CODE = re.compile("```([^`]*)```")


class Answer(Protocol):
    """Writes (or continues) a file of completions."""

    def __call__(self, prompts: Sequence[Prompt], out: Path, num_samples: int) -> GenerateRecord:
        """Answer the prompts."""
        ...


def write_layout(
    layout: str,
    answer: Answer,
    prompts: Sequence[Prompt],
    out: Path,
    *,
    model: str,
    num_samples: int = 1,
    overwrite: bool = False,
) -> GenerateRecord:
    """Answer every turn of every prompt and write `out` in the layout; the record is over all turns.

    A text prompt is what a user says. `model` is the name written into the layout.

    Raises:
        DataError: a prompt that the layout cannot hold.
        RunFolderError: `out` is something else.

    """
    prompts = [_as_chat(prompt) for prompt in prompts]
    _check(layout, prompts)
    if out.exists() and not meta_path(turn_file(out, 1)).is_file() and not overwrite:
        raise RunFolderError(f"{out}: exists and was not made here; name another file, or --overwrite")
    said: dict[str, list[list[Row]]] = {prompt.id: [[] for _ in range(num_samples)] for prompt in prompts}
    records: list[GenerateRecord] = []
    every: list[Row] = []
    for turn in range(1, 2 + max(len(prompt.follow_ups) for prompt in prompts)):
        path = turn_file(out, turn)
        asked = prompts if turn == 1 else _next_turn(prompts, said, turn)
        records.append(answer(asked, path, num_samples if turn == 1 else 1))
        rows = read_rows(path)
        for row in rows:
            owner, sample = (row.id, row.sample) if turn == 1 else _owner(row.id)
            said[owner][sample].append(row)
        every += rows
    answered = [prompt for prompt in prompts if said[prompt.id][0]]
    text = LAYOUTS[layout](answered, said, model, turn_file(out, 1).stat().st_mtime)
    draft = out.with_name(out.name + ".writing")
    draft.write_text(text, encoding="utf-8", errors="surrogatepass")
    draft.replace(out)
    return summary(
        every,
        out=out,
        model=records[0].model,
        prompts=len(answered),
        left_out=records[0].left_out,
        continued=sum(record.continued for record in records),
        written=round(sum((record.tokens_per_second or 0) * record.seconds for record in records)),
        seconds=sum(record.seconds for record in records),
    )


def turn_file(out: Path, turn: int) -> Path:
    """Return the file of completions a layout's turn (from 1) is made from."""
    return out.with_name(f"{out.name}.turn-{turn}.jsonl")


def _as_chat(prompt: Prompt) -> Prompt:
    if isinstance(prompt.content, str):
        return replace(prompt, content=({"role": "user", "content": prompt.content},))
    return prompt


def _check(layout: str, prompts: Sequence[Prompt]) -> None:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise DataError(f"{prompt.id}: two prompts have this id; a layout tells answers apart by it")
        seen.add(prompt.id)
        if prompt.follow_ups and layout != "mt-bench":
            raise DataError(f"{prompt.id}: has {1 + len(prompt.follow_ups)} turns; {layout} holds one")
        if layout == "alpacaeval" and [message["role"] for message in prompt.content_messages] != ["user"]:
            raise DataError(f"{prompt.id}: alpacaeval holds one instruction, and no system message or chat")
        if layout == "mt-bench" and not prompt.id.isdecimal():
            raise DataError(f"{prompt.id}: mt-bench needs whole numbers as question_id")


def _next_turn(prompts: Sequence[Prompt], said: Mapping[str, list[list[Row]]], turn: int) -> list[Prompt]:
    """Return what is asked in this turn: the conversation of every sample so far, and the next question."""
    asked: list[Prompt] = []
    for prompt in prompts:
        if len(prompt.follow_ups) < turn - 1:
            continue
        for sample, rows in enumerate(said[prompt.id]):
            talk: list[Message] = list(prompt.content_messages)
            for row, question in zip(rows, prompt.follow_ups[: turn - 1], strict=True):
                talk += [
                    {"role": "assistant", "content": row.completion},
                    {"role": "user", "content": question},
                ]
            asked.append(replace(prompt, id=f"{prompt.id}#{sample}", content=tuple(talk), follow_ups=()))
    return asked


def _owner(name: str) -> tuple[str, int]:
    owner, _, sample = name.rpartition("#")
    return owner, int(sample)


Said = Mapping[str, list[list[Row]]]
"""Rows by prompt id, sample and turn."""


def _alpacaeval(prompts: Sequence[Prompt], said: Said, model: str, moment: float) -> str:
    rows: list[dict[str, Any]] = []
    for prompt in prompts:
        row = {
            "instruction": prompt.content_messages[0]["content"],
            "output": said[prompt.id][0][0].completion,
            "generator": model,
        }
        rows.append(
            row | {name: prompt.about[name] for name in ("dataset", "datasplit") if name in prompt.about}
        )
    return json.dumps(rows, ensure_ascii=False, indent=2) + "\n"


def _arena_hard(prompts: Sequence[Prompt], said: Said, model: str, moment: float) -> str:
    rows: list[dict[str, Any]] = []
    for prompt in prompts:
        row = said[prompt.id][0][0]
        messages = [*prompt.content_messages, {"role": "assistant", "content": {"answer": row.completion}}]
        counted = {} if row.tokens is None else {"token_len": row.tokens}
        rows.append(
            {
                "uid": prompt.id,
                "ans_id": _name(model, [row]),
                "model": model,
                "messages": messages,
                "tstamp": moment,
                "metadata": counted | markdown_counts(row.completion),
            }
        )
    return _lines(rows)


def _mt_bench(prompts: Sequence[Prompt], said: Said, model: str, moment: float) -> str:
    rows: list[dict[str, Any]] = []
    for prompt in sorted(prompts, key=lambda prompt: int(prompt.id)):
        samples = said[prompt.id]
        choices = [
            {"index": index, "turns": [row.completion for row in turns]}
            for index, turns in enumerate(samples)
        ]
        rows.append(
            {
                "question_id": int(prompt.id),
                "answer_id": _name(model, [row for turns in samples for row in turns]),
                "model_id": model,
                "choices": choices,
                "tstamp": moment,
            }
        )
    return _lines(rows)


LAYOUTS: dict[str, Callable[[Sequence[Prompt], Said, str, float], str]] = {
    "alpacaeval": _alpacaeval,
    "arena-hard": _arena_hard,
    "mt-bench": _mt_bench,
}


def markdown_counts(text: str) -> dict[str, dict[str, int]]:
    """Return headers, list items and bold runs outside code, as Arena-Hard's style control counts them."""
    for block in CODE.findall(text):
        text = text.replace(block, "")

    def count(pattern: str) -> int:
        return len(re.findall(pattern, text, re.MULTILINE))

    return {
        "header_count": {f"h{level}": count(rf"^#{{{level}}}\s") for level in range(1, 7)},
        "list_count": {"ordered": count(r"^\s*\d+\.\s"), "unordered": count(r"^\s*[-*+]\s")},
        "bold_count": {"**": count(r"\*\*[^*\n]+\*\*"), "__": count(r"__[^_\n]+__")},
    }


def _name(model: str, rows: Sequence[Row]) -> str:
    parts = canonical_json([model, [[row.id, row.sample, row.completion] for row in rows]])
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:22]


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
