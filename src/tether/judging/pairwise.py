"""Verdicts on pairs of answers, in both orders, cached so that nothing is asked twice.

verdicts.jsonl   one `Verdict` per line
CACHE.jsonl      one opinion per line, {"key", "share"}; failures are not kept, so a restart asks them again
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tether.analysis.sequential import SequentialComparison, betting_confidence_sequence
from tether.errors import DataError, ResourceError
from tether.judging.judges import Judge, Opinion, Question
from tether.records.comparison import Stream, Verdict
from tether.records.results import read_lines
from tether.records.rows import Content, canonical_json

PATIENCE = 4
"""Pairs asked at once of a judge that may cost money, from which on no answer at all ends the asking."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt answered by two models; `id` names the prompt, the unit of resampling."""

    id: str
    prompt: Content
    a: str
    b: str


class Cache:
    """Opinions by (prompt, answers in order, judge identity), in memory and in a file where one is named."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.hits = 0
        self._known: dict[str, float] = {}
        if path is not None and path.is_file():
            _cut_to_last_line(path)
            for line in read_lines(path):
                self._known[str(line["key"])] = float(line["share"])

    def get(self, key: str) -> float | None:
        """Return the share known for this key."""
        share = self._known.get(key)
        self.hits += share is not None
        return share

    @property
    def size(self) -> int:
        """Number of questions whose answer is kept."""
        return len(self._known)

    def holds(self, key: str) -> bool:
        """Tell whether this question needs no asking."""
        return key in self._known

    def add(self, opinions: Iterable[tuple[str, float]]) -> None:
        """Keep new opinions; they are on disk when this returns."""
        lines: list[str] = []
        for key, share in opinions:
            self._known[key] = share
            lines.append(json.dumps({"key": key, "share": share}) + "\n")
        if self.path is not None and lines:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write("".join(lines))


def question_key(question: Question, judge: str) -> str:
    """Return the cache key of one question to one judge."""
    text = canonical_json([judge, question.prompt, question.first, question.second])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def judge_pairs(
    pairs: Sequence[Pair],
    judge: Judge,
    models: tuple[str, str],
    *,
    cache: Cache | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Verdict]:
    """Ask the judge about every pair in both orders; only what the cache does not know is asked.

    Args:
        pairs: prompts with both answers.
        judge: see `judges.Judge`.
        models: names of A and B.
        cache: kept between calls and runs.
        batch: pairs asked at a time, the judge's own number without one; after each, the cache has them.
        progress: told (pairs done, pairs in all).

    Raises:
        ResourceError: a server answered none of many questions in a row.

    """
    cache, batch = (Cache() if cache is None else cache), batch or judge.at_once
    verdicts: list[Verdict] = []
    for start in range(0, len(pairs), batch):
        part = pairs[start : start + batch]
        questions = [q for p in part for q in (Question(p.prompt, p.a, p.b), Question(p.prompt, p.b, p.a))]
        opinions = _ask(questions, judge, cache)
        if not judge.free and len(part) >= PATIENCE and all(opinion.share is None for opinion in opinions):
            raise ResourceError(
                f"{judge.name}: {len(opinions)} questions in a row without an answer ({opinions[0].error}); "
                "what was answered before is kept in the cache"
            )
        for i, pair in enumerate(part):
            verdicts.append(_verdict(pair, models, judge.identity, opinions[2 * i], opinions[2 * i + 1]))
        if progress is not None:
            progress(len(verdicts), len(pairs))
    return verdicts


def judge_until_known(
    pairs: Sequence[Pair],
    judge: Judge,
    models: tuple[str, str],
    *,
    cache: Cache | None = None,
    batch: int = 1,
    alpha: float = 0.05,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Verdict], Stream]:
    """Judge prompts in a random order until equality is refuted at level alpha, or all are judged.

    `batch` prompts are asked at the same time, and the asking stops after a whole batch.
    Samples of one prompt count as one verdict, their mean.

    Raises:
        DataError: not one prompt was judged in both orders.

    """
    prompts: dict[str, list[Pair]] = {}
    for pair in pairs:
        prompts.setdefault(pair.id, []).append(pair)
    names = list(prompts)
    random.Random(seed).shuffle(names)
    cache, state, verdicts = (Cache() if cache is None else cache), SequentialComparison(alpha), []
    for start in range(0, len(names), batch):
        part = names[start : start + batch]
        found = judge_pairs([pair for name in part for pair in prompts[name]], judge, models, cache=cache)
        verdicts += found
        for name in part:
            shares = [v.share for v in found if v.id == name and v.share is not None]
            if shares:
                state.add(sum(shares) / len(shares))
        if progress is not None:
            progress(start + len(part), len(names))
        if state.decided:
            break
    if not state.values:
        raise DataError(f"{models[0]} against {models[1]}: no pair was judged in both orders")
    low, high = betting_confidence_sequence(state.values, alpha=alpha)
    return verdicts, Stream(
        a=models[0],
        b=models[1],
        judge=judge.identity,
        win_rate=100 * state.win_rate,
        interval=(100 * low, 100 * high),
        decided=state.decided,
        e_value=state.e_value,
        asked=len(state.values),
        failed=sum(v.share is None for v in verdicts),
        prompts=len(names),
    )


def read_verdicts(path: Path) -> list[Verdict]:
    """Read a file of verdicts.

    Raises:
        DataError: no such file, a line that is no verdict.

    """
    if not path.is_file():
        raise DataError(f"{path}: no such file of verdicts")
    verdicts: list[Verdict] = []
    try:
        for line in read_lines(path):
            verdicts.append(Verdict.model_validate(line))
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path}:{len(verdicts) + 1}: not a verdict of tether judge: {first}") from error
    return verdicts


def _ask(questions: list[Question], judge: Judge, cache: Cache) -> list[Opinion]:
    keys = [question_key(question, judge.identity) for question in questions]
    known = {key: share for key in dict.fromkeys(keys) if (share := cache.get(key)) is not None}
    missing = {key: q for key, q in zip(keys, questions, strict=True) if key not in known}
    asked = dict(zip(missing, judge(list(missing.values())), strict=True))
    cache.add((key, opinion.share) for key, opinion in asked.items() if opinion.share is not None)
    return [Opinion(known[key]) if key in known else asked[key] for key in keys]


def _verdict(pair: Pair, models: tuple[str, str], judge: str, first: Opinion, second: Opinion) -> Verdict:
    return Verdict(
        id=pair.id,
        prompt=pair.prompt,
        model_a=models[0],
        model_b=models[1],
        answer_a=pair.a,
        answer_b=pair.b,
        judge=judge,
        a_first=first.share,
        b_first=None if second.share is None else 1 - second.share,
        errors=tuple(opinion.error for opinion in (first, second) if opinion.error),
    )


def _cut_to_last_line(path: Path) -> None:
    """Drop a line that a kill cut, so that the next opinion does not join it."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        with path.open("rb+") as stream:
            stream.truncate(whole)
