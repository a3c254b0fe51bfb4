"""Readers of the formats that TRL, Hugging Face and the preference papers use: columns -> `Preference`."""

from tether.data.fields import LOGPROB_COLUMNS, SCORE_COLUMNS, Columns, RowProblem, as_label, build
from tether.data.prompts import (
    as_answer,
    as_prompt,
    explicit,
    implicit,
    is_dialogue,
    single,
    split_dialogue,
)
from tether.records.rows import Completion, Content, Message, Origin, Preference


def pair(
    origin: Origin,
    columns: Columns,
    contents: tuple[Content, Content, Content],
    tools: tuple[dict[str, object], ...] | None = None,
) -> Preference:
    """Return a pair from (prompt, chosen, rejected), with its score and log-prob columns."""
    prompt, chosen, rejected = contents
    scores = columns.number_of(SCORE_COLUMNS)
    logprobs = columns.number_of(LOGPROB_COLUMNS)
    return build(
        origin,
        columns,
        prompt,
        (
            Completion("chosen", chosen, scores[0], logprobs[0]),
            Completion("rejected", rejected, scores[1], logprobs[1]),
        ),
        tools,
    )


def read_pair(origin: Origin, columns: Columns) -> Preference:
    """`prompt, chosen, rejected`: text or messages; the prompt may be repeated in the answers."""
    prompt = columns.content("prompt")
    return pair(origin, columns, explicit(prompt, columns.content("chosen"), columns.content("rejected")))


def read_implicit_pair(origin: Origin, columns: Columns) -> Preference:
    """`chosen, rejected`: whole dialogues; the prompt is their common part."""
    return pair(origin, columns, implicit(columns.content("chosen"), columns.content("rejected")))


def read_dialogue_pair(origin: Origin, columns: Columns) -> Preference:
    """`chosen, rejected`: HH-RLHF dialogues; the prompt ends with the last `Assistant:` they share."""
    chosen, rejected = columns.text("chosen"), columns.text("rejected")
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not is_dialogue(text):
            raise RowProblem(name, "has no Human: and Assistant: turns, as the other rows have")
    return pair(origin, columns, split_dialogue(chosen, rejected))


def read_refdpo(origin: Origin, columns: Columns) -> Preference:
    """Pairs with the reference's summed log-probs; the prompt explicit or not."""
    for name in ("chosen", "rejected"):
        if not any(logprob in columns for pair_ in LOGPROB_COLUMNS for logprob in pair_ if name in logprob):
            raise RowProblem(f"{name}_logprob", "is missing", "missing_field")
    return (read_pair if "prompt" in columns else read_implicit_pair)(origin, columns)


def split_last(messages: tuple[Message, ...], field: str) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """Split a chat before its last assistant message.

    Raises:
        RowProblem: the chat does not end with one (kind `no_final_assistant`).

    """
    if messages and messages[-1]["role"] != "assistant":
        raise RowProblem(field, f"end with a {messages[-1]['role']} message", "no_final_assistant")
    return messages[:-1], messages[-1:]


def read_messages(origin: Origin, columns: Columns) -> Preference:
    """`messages`: the last assistant message is the completion, what comes before is the prompt."""
    content = columns.content("messages")
    if isinstance(content, str):
        raise RowProblem("messages", "is text, must be a list of messages; CSV cannot hold them, use JSONL")
    prompt, completion = split_last(content, "messages")
    return build(origin, columns, prompt, (Completion("completion", completion),))


def read_completion(origin: Origin, columns: Columns) -> Preference:
    """`prompt, completion`: text or messages."""
    prompt, completion = single(columns.content("prompt"), columns.content("completion"))
    return build(origin, columns, prompt, (Completion("completion", completion),))


def unpaired(origin: Origin, columns: Columns, contents: tuple[Content, Content], label: str) -> Preference:
    """Return an unpaired row from (prompt, completion) and the column that says whether it is desirable."""
    role = "desirable" if as_label(columns.need(label), label) else "undesirable"
    return build(origin, columns, contents[0], (Completion(role, contents[1]),))


def read_unpaired(origin: Origin, columns: Columns) -> Preference:
    """`prompt, completion, label`: KTO's unpaired feedback."""
    contents = single(columns.content("prompt"), columns.content("completion"))
    return unpaired(origin, columns, contents, "label")


def ranked(
    origin: Origin,
    columns: Columns,
    prompt: Content,
    answers: list[tuple[Content, float]],
) -> Preference:
    """Return a ranked list, best first, from answers with scores (higher is better).

    Answers as messages make the prompt messages too.

    Raises:
        RowProblem: fewer than two answers.

    """
    if len(answers) < 2:
        raise RowProblem("completions", f"holds {len(answers)}, a ranking needs at least 2", "missing_field")
    best_first = sorted(answers, key=lambda answer: -answer[1])
    if any(isinstance(content, tuple) for content, _ in answers) or isinstance(prompt, tuple):
        prompt = as_prompt(prompt)
        best_first = [(as_answer(content), score) for content, score in best_first]
    completions = [Completion(f"rank-{i}", content, score) for i, (content, score) in enumerate(best_first)]
    return build(origin, columns, prompt, completions)
