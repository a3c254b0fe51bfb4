"""The table of row formats: how each is recognised and read. The order is the order of recognition."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tether.data import foreign, readers
from tether.data.fields import EXTRA_COLUMNS, LOGPROB_COLUMNS, SCORE_COLUMNS, Columns, RowProblem
from tether.data.prompts import is_dialogue
from tether.data.raw import RawRow
from tether.errors import DataError
from tether.records.rows import Origin, Preference

__all__ = ["FORMATS", "Format", "RowProblem", "detect", "parse", "unused_columns"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Format:
    """One way to write rows: its name, the columns a row must have, and its reader."""

    name: str
    columns: tuple[str, ...]
    description: str
    read: Callable[[Origin, Columns], Preference]
    fits: Callable[[Row], bool] = lambda value: True
    """Tells it from formats with the same columns; only asked when all columns are there."""

    def matches(self, value: Row) -> bool:
        """Tell whether a row has this format's columns, none of them null."""
        return all(value.get(name) is not None for name in self.columns) and self.fits(value)


def _any_of(*names: str) -> Callable[[Row], bool]:
    return lambda value: any(value.get(name) is not None for name in names)


def _repeats_prompt(value: Row) -> bool:
    return isinstance(value["prompt"], str) and isinstance(value["chosen"], list) and len(value["chosen"]) > 1


def _ranks(name: str) -> Callable[[Row], bool]:
    return lambda value: (
        isinstance(value[name], list)
        and bool(value[name])
        and isinstance(value[name][0], dict)
        and "rank" in value[name][0]
    )


def _is_label(value: Row) -> bool:
    return str(value["label"]).strip().lower() in ("true", "false", "0", "1", "0.0", "1.0")


def _is_labelled_chat(name: str) -> Callable[[Row], bool]:
    return lambda value: isinstance(value[name], list) and _is_label(value)


FORMATS: tuple[Format, ...] = (
    Format(
        "openai-preference",
        ("input", "preferred_output", "non_preferred_output"),
        "OpenAI preference fine-tuning",
        foreign.read_openai,
    ),
    Format(
        "nemo-rl",
        ("context", "completions"),
        "NeMo-RL ranked completions",
        foreign.read_nemo,
        _ranks("completions"),
    ),
    Format(
        "nectar", ("prompt", "answers"), "ranked answers (Nectar)", foreign.read_nectar, _ranks("answers")
    ),
    Format(
        "scored-list",
        ("prompt", "completions"),
        "answers with a list of scores, ratings or rewards",
        foreign.read_scored_list,
        _any_of("scores", "ratings", "rewards"),
    ),
    Format(
        "distilabel",
        ("instruction", "generations", "ratings"),
        "distilabel: answers with ratings",
        foreign.read_scored_list,
    ),
    Format(
        "lmarena",
        ("conversation_a", "conversation_b", "winner"),
        "LMArena votes",
        foreign.read_arena,
    ),
    Format(
        "lmarena-table",
        ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"),
        "LMArena votes as a table (Kaggle)",
        foreign.read_arena_columns,
    ),
    Format(
        "argilla",
        ("instruction", "chosen_response", "rejected_response"),
        "Argilla (axolotl: chatml.argilla)",
        foreign.read_argilla,
    ),
    Format(
        "sharegpt-ranking",
        ("conversations", "chosen", "rejected"),
        "LLaMA-Factory sharegpt with ranking",
        foreign.read_sharegpt_pair,
    ),
    Format(
        "alpaca-ranking",
        ("instruction", "chosen", "rejected"),
        "LLaMA-Factory alpaca with ranking",
        foreign.read_alpaca_pair,
    ),
    Format(
        "refdpo",
        ("chosen", "rejected"),
        "pairs with the reference's log-probs (RefDPO, TRL)",
        readers.read_refdpo,
        _any_of(*(name for pair in LOGPROB_COLUMNS for name in pair)),
    ),
    Format(
        "ultrafeedback",
        ("prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
        "UltraFeedback-binarized: text prompt, repeated in the messages",
        readers.read_pair,
        _repeats_prompt,
    ),
    Format(
        "preference", ("prompt", "chosen", "rejected"), "TRL preference, text or messages", readers.read_pair
    ),
    Format(
        "messages-ranking",
        ("messages", "chosen", "rejected"),
        "axolotl chat_template.default",
        foreign.read_messages_pair,
    ),
    Format(
        "question-ranking",
        ("question", "chosen", "rejected"),
        "axolotl chatml.intel (Orca pairs)",
        foreign.read_question_pair,
    ),
    Format(
        "input-ranking", ("input", "chosen", "rejected"), "axolotl chatml.icr", foreign.read_question_pair
    ),
    Format(
        "hh-rlhf",
        ("chosen", "rejected"),
        "HH-RLHF dialogues with Human: and Assistant: turns",
        readers.read_dialogue_pair,
        lambda value: is_dialogue(value["chosen"]) and is_dialogue(value["rejected"]),
    ),
    Format(
        "preference-implicit",
        ("chosen", "rejected"),
        "TRL preference whose prompt is the common start",
        readers.read_implicit_pair,
    ),
    Format(
        "unpaired",
        ("prompt", "completion", "label"),
        "KTO: one answer, desirable or not",
        readers.read_unpaired,
        _is_label,
    ),
    Format(
        "question-unpaired",
        ("question", "completion", "label"),
        "axolotl chatml.intel for KTO",
        foreign.read_question_unpaired,
        _is_label,
    ),
    Format(
        "instruction-unpaired",
        ("instruction", "completion", "label"),
        "axolotl chatml.argilla for KTO",
        foreign.read_question_unpaired,
        _is_label,
    ),
    Format(
        "chat-unpaired",
        ("completion", "label"),
        "chats with a label, the prompt in the completion (axolotl argilla_chat for KTO)",
        foreign.read_chat_unpaired,
        _is_labelled_chat("completion"),
    ),
    Format(
        "messages-unpaired",
        ("messages", "label"),
        "chats with a label (LLaMA-Factory KTO)",
        foreign.read_chat_unpaired,
        _is_labelled_chat("messages"),
    ),
    Format("prompt-completion", ("prompt", "completion"), "SFT, text or messages", readers.read_completion),
    Format("messages", ("messages",), "SFT chats; the last answer is trained", readers.read_messages),
    Format("sharegpt", ("conversations",), "ShareGPT chats (with kto_tag: unpaired)", foreign.read_sharegpt),
    Format("alpaca", ("instruction", "output"), "Alpaca (with kto_tag: unpaired)", foreign.read_alpaca),
)


def _recognise(value: Row) -> Format | None:
    return next((format_ for format_ in FORMATS if format_.matches(value)), None)


def detect(values: Sequence[Row]) -> Format:
    """Return the format most of these rows have; the first of the table where two have as many.

    Raises:
        DataError: none fits; the message lists the columns seen and the formats known.

    """
    votes = Counter(format_.name for value in values if (format_ := _recognise(value)))
    if votes:
        most = max(votes.values())
        return next(format_ for format_ in FORMATS if votes[format_.name] == most)
    # A name from the file reaches the terminal: control characters are spelled out.
    names = dict.fromkeys(name for value in values for name in value)
    seen = [name if name.isprintable() else repr(name) for name in names]
    shown = ", ".join(seen[:20]) + (f" and {len(seen) - 20} more" if len(seen) > 20 else "")
    known = "; ".join(f"{f.name} ({', '.join(f.columns)})" for f in FORMATS)
    raise DataError(f"no known row format has the columns {shown or '(none)'}. Known: {known}")


def parse(format_: Format, raw: RawRow) -> Preference:
    """Return the row read in this format; a row of another known format is read as that (see `reads_as`).

    Raises:
        RowProblem: a field is missing, of the wrong type, or the row contradicts itself.

    """
    value = raw.value
    if value is None:
        raise RowProblem("row", raw.problem or "is unreadable", raw.kind)
    return reads_as(format_, value).read(raw.origin, Columns(value))


def reads_as(format_: Format, value: Row) -> Format:
    """Return the format one row of a file is read in: the file's, unless the row clearly is another.

    A row that lacks a column is never reinterpreted as a format with fewer columns: a pair whose prompt is
    missing is a pair without its prompt, not one with an implicit prompt.
    """
    if format_.matches(value):
        return format_
    own = _recognise(value)
    if own is None or set(own.columns) <= set(format_.columns):
        return format_
    return own


def unused_columns(format_: Format, values: Sequence[Row]) -> list[str]:
    """Return the columns that reading the first row of this format does not look at."""
    value = next(value for value in values if format_.matches(value))
    columns = Columns(value)
    try:
        format_.read(Origin("", 0), columns)
    except RowProblem:
        return []
    known = {*EXTRA_COLUMNS, *format_.columns, *(name for pair in SCORE_COLUMNS for name in pair)}
    return [name for name in value if name not in columns.read and name not in known]
