"""`tether judge`: two files of answers and a judge -> a file of verdicts, with the cost told before."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from tether.errors import RunFolderError, UsageError
from tether.judging.judges import Judge, Paid, Question
from tether.judging.options import Prices
from tether.judging.outputs import Outputs, names_of, pair_outputs
from tether.judging.pairwise import Cache, judge_pairs, judge_until_known, question_key, read_verdicts
from tether.records.comparison import Stream, Verdict
from tether.records.results import Record, write_lines

CHARACTERS_PER_TOKEN = 4
"""Of English text, about; every other character outside ASCII is counted as a token of its own."""
MESSAGE_TOKENS = 4
"""What a chat template adds to a message, about."""

Told = Callable[["JudgePlan"], None]
Progress = Callable[[int, int], None]


class JudgePlan(Record):
    """What a judging would ask; tokens are estimated from the characters of what would be sent."""

    judge: str
    a: str
    b: str
    prompts: int
    pairs: int
    only_a: int
    """Answers of A without a partner."""
    only_b: int
    questions: int
    """Both orders of every different pair."""
    known: int
    """Of them in the cache."""
    to_ask: int
    prompt_tokens: int | None
    """None for judges on this machine."""
    completion_tokens: int | None
    """At most."""
    cost: float | None
    """In the currency of the prices; None without prices."""
    seconds: float | None
    """Where the judge was timed on its first questions."""


class JudgeRecord(Record):
    """What `tether judge` did and left in its file."""

    out: str
    judge: str
    identity: str
    """What the verdicts carry as their judge."""
    a: str
    b: str
    prompts: int
    pairs: int
    only_a: int
    only_b: int
    judged: int
    """Pairs with a verdict in both orders."""
    failed: int
    """Pairs without: in no rate."""
    errors: dict[str, int]
    """Questions without a verdict, by reason."""
    asked: int
    """Questions this run put to the judge."""
    known: int
    """Questions the cache answered."""
    retries: int
    prompt_tokens: int | None
    """As the server counted them; None for judges on this machine."""
    completion_tokens: int | None
    cost: float | None
    seconds: float


def plan_judging(
    a: Outputs,
    b: Outputs,
    judge: Judge,
    *,
    models: tuple[str, str] | None = None,
    cache: Cache | None = None,
    prices: Prices | None = None,
    time_it: bool = False,
) -> JudgePlan:
    """Return what judging would ask and cost; `time_it` asks a judge on this machine one call's worth.

    `models` are other names for the two than their own.
    """
    name_a, name_b = models or names_of([a, b])
    paired, cache = pair_outputs(a, b), Cache() if cache is None else cache
    questions = {
        question_key(question, judge.identity): question
        for pair in paired.pairs
        for question in (Question(pair.prompt, pair.a, pair.b), Question(pair.prompt, pair.b, pair.a))
    }
    missing = [question for key, question in questions.items() if not cache.holds(key)]
    prompt_tokens = completion_tokens = None
    if isinstance(judge, Paid):
        prompt_tokens = sum(_tokens(judge.messages(question)) for question in missing)
        completion_tokens = judge.reply_tokens * len(missing)
    seconds = None
    if time_it and judge.free and missing:
        part = paired.pairs[: judge.at_once]
        before, began = cache.size, time.perf_counter()
        judge_pairs(part, judge, (name_a, name_b), cache=cache)
        learnt = cache.size - before
        seconds = (time.perf_counter() - began) / learnt * len(missing) if learnt else None
    return JudgePlan(
        judge=judge.name,
        a=name_a,
        b=name_b,
        prompts=len({pair.id for pair in paired.pairs}),
        pairs=len(paired.pairs),
        only_a=paired.only_a,
        only_b=paired.only_b,
        questions=len(questions),
        known=len(questions) - len(missing),
        to_ask=len(missing),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost=cost_of(prompt_tokens, completion_tokens, prices),
        seconds=seconds,
    )


def judge_outputs(
    a: Outputs,
    b: Outputs,
    judge: Judge,
    out: Path,
    *,
    cache: Path | None = None,
    prices: Prices | None = None,
    overwrite: bool = False,
    told: Told | None = None,
    progress: Progress | None = None,
) -> JudgeRecord:
    """Judge every pair in both orders and write the verdicts; what the cache knows is not asked again.

    Args:
        a: answers of one model.
        b: answers of the other.
        judge: see `judges.Judge`.
        out: file of verdicts, written when all are there.
        cache: file of opinions, kept after every call of the judge; without one, `cache_path(out)`.
        prices: for the cost.
        overwrite: `out` may hold verdicts on something else.
        told: is handed the plan before the first question.
        progress: told (pairs done, pairs in all).

    Raises:
        DataError: the two answer no prompt in common.
        RunFolderError: `out` holds verdicts on other models or by another judge.

    """
    models = names_of([a, b])
    check_out(out, [(models[0], models[1], judge.identity)], overwrite=overwrite)
    kept = Cache(cache or cache_path(out))
    plan = plan_judging(a, b, judge, cache=kept, prices=prices)
    if told is not None:
        told(plan)
    began = time.perf_counter()
    verdicts = judge_pairs(pair_outputs(a, b).pairs, judge, (plan.a, plan.b), cache=kept, progress=progress)
    write_lines(out, verdicts)
    usage = judge.usage if isinstance(judge, Paid) else None
    errors = Counter(error.split(":")[0] for verdict in verdicts for error in verdict.errors)
    tokens = (None, None) if usage is None else (usage.prompt_tokens, usage.completion_tokens)
    return JudgeRecord(
        out=str(out),
        judge=judge.name,
        identity=judge.identity,
        a=plan.a,
        b=plan.b,
        prompts=plan.prompts,
        pairs=plan.pairs,
        only_a=plan.only_a,
        only_b=plan.only_b,
        judged=sum(verdict.share is not None for verdict in verdicts),
        failed=sum(verdict.share is None for verdict in verdicts),
        errors=dict(errors.most_common()),
        asked=plan.to_ask,
        known=plan.known,
        retries=0 if usage is None else usage.retries,
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        cost=cost_of(*tokens, prices),
        seconds=time.perf_counter() - began,
    )


def cache_path(out: Path) -> Path:
    """Return the file beside the verdicts that keeps opinions while they come in."""
    return out.with_name(f"{out.stem}.cache.jsonl")


def check_out(out: Path, wanted: Sequence[tuple[str, str, str]], *, overwrite: bool) -> None:
    """Refuse to write over verdicts on other models, or by another judge.

    Raises:
        RunFolderError: the file holds such verdicts, or something else.

    """
    if overwrite or not out.exists():
        return
    if not out.is_file() or out.stat().st_size == 0:
        raise RunFolderError(f"{out}: not a file of verdicts; name another, or --overwrite")
    found = {(v.model_a, v.model_b, v.judge) for v in read_verdicts(out)}
    other = sorted(found - set(wanted))
    if other:
        a, b, judge = other[0]
        raise RunFolderError(
            f"{out} holds verdicts on {a} and {b} by {judge}; name another file, or --overwrite"
        )


def cost_of(prompt_tokens: int | None, completion_tokens: int | None, prices: Prices | None) -> float | None:
    """Return what these tokens cost; None without tokens or without a price of each kind.

    Raises:
        UsageError: a price below 0.

    """
    if prices is None or prompt_tokens is None or completion_tokens is None:
        return None
    if prices.price_in is None or prices.price_out is None:
        return None
    if prices.price_in < 0 or prices.price_out < 0:
        raise UsageError("prices are of a million tokens, 0 or more")
    return (prices.price_in * prompt_tokens + prices.price_out * completion_tokens) / 1e6


def _tokens(messages: Sequence[Mapping[str, str]]) -> int:
    text = "".join(message["content"] for message in messages)
    plain = sum(character.isascii() for character in text)
    return plain // CHARACTERS_PER_TOKEN + (len(text) - plain) + MESSAGE_TOKENS * len(messages)


def judge_all(
    outputs: Sequence[Outputs],
    judge: Judge,
    *,
    cache: Path | None = None,
    stream_seed: int | None = None,
    prices: Prices | None = None,
    told: Told | None = None,
    progress: Progress | None = None,
) -> tuple[list[Verdict], Stream | None]:
    """Judge every two of several models; with `stream_seed`, two models until the answer is known.

    Raises:
        UsageError: fewer than two models, or a stream over more.

    """
    if len(outputs) < 2 or (stream_seed is not None and len(outputs) != 2):
        raise UsageError(f"{len(outputs)} models: two are needed, and --stream compares exactly two")
    names, kept = names_of(outputs), Cache(cache)
    verdicts: list[Verdict] = []
    for i, j in combinations(range(len(outputs)), 2):
        pairs, models = pair_outputs(outputs[i], outputs[j]).pairs, (names[i], names[j])
        if told is not None:
            told(plan_judging(outputs[i], outputs[j], judge, models=models, cache=kept, prices=prices))
        if stream_seed is not None:
            return judge_until_known(
                pairs,
                judge,
                models,
                cache=kept,
                batch=1 if judge.free else max(1, judge.at_once // 2),
                seed=stream_seed,
                progress=progress,
            )
        verdicts += judge_pairs(pairs, judge, models, cache=kept, progress=progress)
    return verdicts, None
