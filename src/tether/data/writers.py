"""Rows to the formats of `data.formats`: `Preference` -> columns, the other way round of its readers.

A writer says what its format can say. What that leaves out is found by reading the columns back
(`data.convert`), so a writer never has to know what it loses.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tether.data.fields import RowProblem
from tether.data.prompts import as_prompt
from tether.data.shapes import (
    answers_of,
    as_chat,
    as_said,
    one_message,
    one_text,
    plain,
    sharegpt,
    single_question,
    spoken,
    turns_of,
)
from tether.records.rows import Preference

Kind = Literal["pair", "unpaired", "list", "single"]
Columns = dict[str, Any]

ALIASES = {
    "trl": "preference",
    "openai": "openai-preference",
    "kto": "unpaired",
    "llama-factory": "sharegpt-ranking",
    "axolotl": "messages-ranking",
    "hh": "hh-rlhf",
}
"""Names people use for a format, by the name in `data.formats`."""


@dataclass(frozen=True)
class Writer:
    """How rows of one kind are written in one format."""

    format: str
    kind: Kind
    write: Callable[[Preference], Columns]


def kind_of(row: Preference) -> Kind:
    """Return what sort of row this is."""
    role = row.completions[0].role
    if role in ("desirable", "undesirable"):
        return "unpaired"
    return "pair" if role == "chosen" else "list" if role == "rank-0" else "single"


def _scores(row: Preference, names: Sequence[str]) -> Columns:
    scores = [completion.score for completion in row.completions]
    return {} if None in scores else dict(zip(names, scores, strict=True))


def _template(row: Preference) -> Columns:
    """Return the columns for the chat template, where there are any."""
    found: Columns = {}
    if row.tools:
        found["tools"] = list(row.tools)
    if row.template_arguments:
        found["chat_template_kwargs"] = dict(row.template_arguments)
    return found


def _labels(row: Preference) -> Columns:
    """Return tether's own columns, where they say anything."""
    plain = {"weight": 1.0, "margin": 0.0, "probability": 1.0}
    return {name: getattr(row, name) for name, value in plain.items() if getattr(row, name) != value}


def _conversation(row: Preference) -> Columns:
    messages = list(as_prompt(row.prompt))
    system = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else None
    columns: Columns = {"conversations": sharegpt(messages, "prompt")}
    if system:
        columns["system"] = system
    if row.tools:
        columns["tools"] = json.dumps(list(row.tools), ensure_ascii=False)
    return columns


def _preference(row: Preference) -> Columns:
    chosen, rejected = answers_of(row)
    return {
        "prompt": plain(row.prompt),
        "chosen": plain(chosen.content),
        "rejected": plain(rejected.content),
        **_template(row),
        **_scores(row, ("score_chosen", "score_rejected")),
    }


def _refdpo(row: Preference) -> Columns:
    chosen, rejected = answers_of(row)
    if chosen.reference_logprob is None or rejected.reference_logprob is None:
        raise RowProblem("chosen_logprob", "is missing: the row has no log-probs of a reference")
    return {
        **_preference(row),
        "chosen_logprob": chosen.reference_logprob,
        "rejected_logprob": rejected.reference_logprob,
    }


def _own(row: Preference) -> Columns:
    """Everything a row can say, in the format of its kind."""
    logprobs = [completion.reference_logprob for completion in row.completions]
    kind = kind_of(row)
    if kind == "pair":
        columns = _preference(row) if None in logprobs else _refdpo(row)
    else:
        columns = {"unpaired": _unpaired, "list": _scored_list, "single": _completion}[kind](row)
    return {**columns, **_template(row), **_labels(row)}


def _joined(row: Preference) -> Columns:
    """Both answers with the prompt in front."""
    chosen, rejected = answers_of(row)
    if isinstance(row.prompt, str):
        return {"chosen": row.prompt + str(chosen.content), "rejected": row.prompt + str(rejected.content)}
    return {
        name: [*as_chat(row.prompt), *as_said(completion.content)]
        for name, completion in (("chosen", chosen), ("rejected", rejected))
    }


def _dialogue(row: Preference) -> Columns:
    if not isinstance(row.prompt, str):
        raise RowProblem("prompt", "is a chat, this format takes text with Human: and Assistant: turns")
    return _joined(row)


def _ultrafeedback(row: Preference) -> Columns:
    _, _, question = turns_of(row)
    scores = _scores(row, ("score_chosen", "score_rejected"))
    if not scores:
        raise RowProblem("score_chosen", "is missing: the row has no scores")
    return {"prompt": question, **_joined(row), **scores}


def _openai(row: Preference) -> Columns:
    chosen, rejected = answers_of(row)
    given: Columns = {"messages": as_chat(row.prompt)}
    if row.tools:
        given["tools"] = list(row.tools)
    return {
        "input": given,
        "preferred_output": as_said(chosen.content),
        "non_preferred_output": as_said(rejected.content),
    }


def _nemo(row: Preference) -> Columns:
    ranked = [
        {"rank": rank, "completion": as_said(completion.content)}
        for rank, completion in enumerate(row.completions)
    ]
    return {"context": as_chat(row.prompt), "completions": ranked}


def _nectar(row: Preference) -> Columns:
    answers = [
        {"answer": plain(completion.content), "rank": rank + 1}
        for rank, completion in enumerate(row.completions)
    ]
    return {"prompt": plain(row.prompt), "answers": answers}


def _ranks(row: Preference) -> list[float]:
    scores = [completion.score for completion in row.completions]
    known = [score for score in scores if score is not None]
    return known if len(known) == len(scores) else [float(-rank) for rank in range(len(scores))]


def _scored_list(row: Preference) -> Columns:
    contents = [plain(completion.content) for completion in row.completions]
    return {"prompt": plain(row.prompt), "completions": contents, "scores": _ranks(row)}


def _distilabel(row: Preference) -> Columns:
    question = single_question(row, "instruction")
    if "system" in question:
        raise RowProblem("prompt", "has a system message, this format has no place for it")
    texts = [one_text(completion.content, completion.role) for completion in row.completions]
    return {**question, "generations": texts, "ratings": _ranks(row)}


def _arena(row: Preference) -> Columns:
    both = _joined(row) if not isinstance(row.prompt, str) else None
    if both is None:
        chosen, rejected = answers_of(row)
        prompt = as_chat(row.prompt)
        both = {
            "chosen": prompt + as_said(chosen.content),
            "rejected": prompt + as_said(rejected.content),
        }
    winner = "tie" if row.probability == 0.5 else "model_a"
    return {"conversation_a": both["chosen"], "conversation_b": both["rejected"], "winner": winner}


def _arena_table(row: Preference) -> Columns:
    system, turns, question = turns_of(row)
    if system:
        raise RowProblem("prompt", "has a system message, this format has no place for it")
    chosen, rejected = (one_text(completion.content, completion.role) for completion in row.completions)
    before = [answer for _, answer in turns]
    tie = row.probability == 0.5
    return {
        "prompt": json.dumps([*(asked for asked, _ in turns), question], ensure_ascii=False),
        "response_a": json.dumps([*before, chosen], ensure_ascii=False),
        "response_b": json.dumps([*before, rejected], ensure_ascii=False),
        "winner_model_a": int(not tie),
        "winner_model_b": 0,
        "winner_tie": int(tie),
    }


def _answer_texts(row: Preference, names: tuple[str, str]) -> Columns:
    return {
        name: one_text(completion.content, completion.role)
        for name, completion in zip(names, answers_of(row), strict=True)
    }


def _argilla(row: Preference) -> Columns:
    answers = _answer_texts(row, ("chosen_response", "rejected_response"))
    return {**single_question(row, "instruction"), **answers}


def _asked(name: str) -> Callable[[Preference], Columns]:
    return lambda row: {**single_question(row, name), **_answer_texts(row, ("chosen", "rejected"))}


def _sharegpt_pair(row: Preference) -> Columns:
    chosen, rejected = answers_of(row)
    return {
        **_conversation(row),
        "chosen": spoken(one_message(chosen.content, "chosen"), "chosen"),
        "rejected": spoken(one_message(rejected.content, "rejected"), "rejected"),
    }


def _alpaca_prompt(row: Preference) -> Columns:
    system, turns, question = turns_of(row)
    columns: Columns = {"instruction": question, "input": ""}
    if system:
        columns["system"] = system
    if turns:
        columns["history"] = [list(turn) for turn in turns]
    return columns


def _alpaca_pair(row: Preference) -> Columns:
    return {**_alpaca_prompt(row), **_answer_texts(row, ("chosen", "rejected"))}


def _messages_pair(row: Preference) -> Columns:
    chosen, rejected = answers_of(row)
    return {
        "messages": as_chat(row.prompt),
        "chosen": one_message(chosen.content, "chosen"),
        "rejected": one_message(rejected.content, "rejected"),
    }


def _unpaired(row: Preference) -> Columns:
    (completion,) = row.completions
    return {
        "prompt": plain(row.prompt),
        "completion": plain(completion.content),
        "label": completion.role == "desirable",
        **_template(row),
    }


def _label(row: Preference) -> Columns:
    return {"label": row.completions[0].role == "desirable"}


def _asked_unpaired(name: str) -> Callable[[Preference], Columns]:
    return lambda row: {
        **single_question(row, name),
        "completion": one_text(row.completions[0].content, "completion"),
        **_label(row),
    }


def _chat_unpaired(name: str) -> Callable[[Preference], Columns]:
    return lambda row: {name: _messages(row)["messages"], **_label(row), **_template(row)}


def _completion(row: Preference) -> Columns:
    (completion,) = row.completions
    return {"prompt": plain(row.prompt), "completion": plain(completion.content), **_template(row)}


def _messages(row: Preference) -> Columns:
    (completion,) = row.completions
    return {"messages": [*as_chat(row.prompt), *as_said(completion.content)], **_template(row)}


def _sharegpt_single(row: Preference) -> Columns:
    columns = _conversation(row)
    answer = spoken(one_message(row.completions[0].content, "completion"), "completion")
    return {**columns, "conversations": [*columns["conversations"], answer]}


def _alpaca_single(row: Preference) -> Columns:
    return {**_alpaca_prompt(row), "output": one_text(row.completions[0].content, "completion")}


WRITERS: Mapping[str, Writer] = {
    writer.format: writer
    for writer in (
        Writer("openai-preference", "pair", _openai),
        Writer("nemo-rl", "list", _nemo),
        Writer("nectar", "list", _nectar),
        Writer("scored-list", "list", _scored_list),
        Writer("distilabel", "list", _distilabel),
        Writer("lmarena", "pair", _arena),
        Writer("lmarena-table", "pair", _arena_table),
        Writer("argilla", "pair", _argilla),
        Writer("sharegpt-ranking", "pair", _sharegpt_pair),
        Writer("alpaca-ranking", "pair", _alpaca_pair),
        Writer("refdpo", "pair", _refdpo),
        Writer("ultrafeedback", "pair", _ultrafeedback),
        Writer("preference", "pair", _preference),
        Writer("messages-ranking", "pair", _messages_pair),
        Writer("question-ranking", "pair", _asked("question")),
        Writer("input-ranking", "pair", _asked("input")),
        Writer("hh-rlhf", "pair", _dialogue),
        Writer("preference-implicit", "pair", _joined),
        Writer("unpaired", "unpaired", _unpaired),
        Writer("question-unpaired", "unpaired", _asked_unpaired("question")),
        Writer("instruction-unpaired", "unpaired", _asked_unpaired("instruction")),
        Writer("chat-unpaired", "unpaired", _chat_unpaired("completion")),
        Writer("messages-unpaired", "unpaired", _chat_unpaired("messages")),
        Writer("prompt-completion", "single", _completion),
        Writer("messages", "single", _messages),
        Writer("sharegpt", "single", _sharegpt_single),
        Writer("alpaca", "single", _alpaca_single),
    )
}
"""Format -> its writer; `tether` beside them keeps everything, each row in the format of its kind."""


def own_columns(row: Preference) -> Columns:
    """Return a row with everything it says, as `--to tether` writes it."""
    return _own(row)
