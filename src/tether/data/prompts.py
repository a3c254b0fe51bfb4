"""Where the prompt ends and the answers begin, when a file gives whole dialogues or repeats the prompt."""

from tether.data.fields import RowProblem
from tether.records.rows import Content, Message

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
"""Tags of HH-RLHF dialogues."""

Pair = tuple[Content, Content, Content]
"""Prompt, chosen, rejected."""


def common_prefix(first: str, second: str) -> int:
    """Return the number of leading characters two texts share (bisection: linear time, no Python loop)."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def split_text(chosen: str, rejected: str) -> Pair:
    """Split plain texts that share their prompt: the longest common start that ends at a word or line.

    The space before the first differing word starts the answers, a line break ends the prompt; prompt +
    answer is always the original text. Both answers keep at least one visible character where they have any.
    """
    shared = common_prefix(chosen, rejected)
    end = max(0, min(shared, len(chosen.rstrip()) - 1, len(rejected.rstrip()) - 1))
    space = chosen.rfind(" ", 0, min(end + 1, shared))
    cut = max(space, chosen.rfind("\n", 0, end) + 1)
    return chosen[:cut], chosen[cut:], rejected[cut:]


def is_dialogue(text: object) -> bool:
    """Tell whether a value is an HH-RLHF dialogue."""
    return isinstance(text, str) and HUMAN in text and ASSISTANT in text


def split_dialogue(chosen: str, rejected: str) -> Pair:
    r"""Split HH-RLHF dialogues: the prompt is their common part up to and including its last `Assistant:`.

    The answers start with the space that follows the tag, so prompt + answer is the original text.

    Raises:
        RowProblem: the dialogues differ before the assistant's turn (kind `different_prompts`).

    """
    shared = chosen[: common_prefix(chosen, rejected)]
    tag = shared.rfind(ASSISTANT)
    if tag < 0 or shared.rfind(HUMAN) > tag:
        raise RowProblem("chosen", "and rejected differ before the assistant's turn", "different_prompts")
    cut = tag + len(ASSISTANT)
    return chosen[:cut], chosen[cut:], rejected[cut:]


def split_messages(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Pair:
    """Split chats that share their prompt: the common leading messages, up to the turn that differs.

    Raises:
        RowProblem: they differ in a turn that is not the assistant's (`different_prompts`), or have none.

    """
    cut = _shared_messages(chosen, rejected)
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _shared_messages(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> int:
    """Return how many leading messages are the prompt of both."""
    shortest = min(len(chosen), len(rejected))
    cut = next((i for i in range(shortest) if chosen[i] != rejected[i]), shortest)
    if cut < shortest:
        if {chosen[cut]["role"], rejected[cut]["role"]} != {"assistant"}:
            raise RowProblem(
                "chosen", f"and rejected differ before an answer (message {cut})", "different_prompts"
            )
        return cut
    # One continues the other, or they are equal: the last shared answer starts both.
    turns = [i for i in range(shortest) if chosen[i]["role"] == "assistant"]
    if not turns:
        raise RowProblem("chosen", "and rejected share no assistant message", "no_final_assistant")
    return turns[-1]


def implicit(chosen: Content, rejected: Content) -> Pair:
    """Split a pair that carries its prompt inside both answers.

    Raises:
        RowProblem: they differ before an answer, or one is text and the other messages.

    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        both = is_dialogue(chosen) and is_dialogue(rejected)
        return (split_dialogue if both else split_text)(chosen, rejected)
    if isinstance(chosen, tuple) and isinstance(rejected, tuple):
        return split_messages(chosen, rejected)
    raise _mixed(chosen)


def explicit(prompt: Content, chosen: Content, rejected: Content) -> Pair:
    """Bring a prompt and its two answers to one form: all text, or all messages.

    A prompt as text before answers as messages is the user's message, or must be one of the messages the
    answers repeat (UltraFeedback-binarized); repeated prompts are taken out of the answers.

    Raises:
        RowProblem: the answers repeat another prompt than the one given, or mix text and messages.

    """
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise _mixed(chosen)
    if isinstance(chosen, str) or isinstance(rejected, str):
        if isinstance(prompt, str):
            return prompt, chosen, rejected
        return prompt, as_answer(chosen), as_answer(rejected)
    if not _repeats(chosen) and not _repeats(rejected):
        return as_prompt(prompt), chosen, rejected
    if not (_repeats(chosen) and _repeats(rejected)):
        raise RowProblem("prompt", "is repeated in only one of chosen and rejected", "different_prompts")
    if isinstance(prompt, tuple) and chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
        return prompt, chosen[len(prompt) :], rejected[len(prompt) :]
    cut = _shared_messages(chosen, rejected)
    said = [message["content"] for message in chosen[:cut] if message["role"] != "assistant"]
    if isinstance(prompt, tuple) or prompt not in said:
        raise RowProblem("prompt", "is not the one that chosen and rejected repeat", "different_prompts")
    return chosen[:cut], chosen[cut:], rejected[cut:]


def single(prompt: Content, completion: Content) -> tuple[Content, Content]:
    """Bring a prompt and its one answer to one form: both text, or both messages.

    Raises:
        RowProblem: the answer repeats another prompt than the one given.

    """
    if isinstance(prompt, str) and isinstance(completion, str):
        return prompt, completion
    asked, answer = as_prompt(prompt), as_answer(completion)
    if not _repeats(answer):
        return asked, answer
    if answer[: len(asked)] == asked:
        return asked, answer[len(asked) :]
    raise RowProblem("prompt", "is not the one that the completion repeats", "different_prompts")


def _repeats(answer: tuple[Message, ...]) -> bool:
    """Tell whether an answer starts with someone else's turn, so with its prompt."""
    return bool(answer) and answer[0]["role"] in ("user", "system", "developer")


def _mixed(chosen: Content) -> RowProblem:
    text = isinstance(chosen, str)
    return RowProblem(
        "chosen", f"is {'text' if text else 'messages'} and rejected is {'messages' if text else 'text'}"
    )


def as_prompt(prompt: Content) -> tuple[Message, ...]:
    """Return a prompt as messages: text is what the user says."""
    return ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt


def as_answer(answer: Content) -> tuple[Message, ...]:
    """Return an answer as messages: text is what the assistant says."""
    return ({"role": "assistant", "content": answer},) if isinstance(answer, str) else answer


def prompt_text(prompt: Content) -> str:
    """Return what a prompt says, whatever its form: how leaks are found and splits grouped."""
    if isinstance(prompt, str):
        return prompt.strip()
    return "\n".join(str(message.get("content") or "").strip() for message in prompt).strip()
