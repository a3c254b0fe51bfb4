"""Win rates against the reference completions, and how far the DPO model's differ from the others'."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tether.analysis.stats import distinguishable, mean_interval, paired_bootstrap
from tether.errors import DataError
from tether.judging.comparison import estimate
from tether.judging.judges import Judge
from tether.judging.pairwise import Cache, Pair, Verdict, judge_pairs
from tether.records.protocols import Evaluator
from tether.records.results import write_lines
from tether.records.task import Gap, WinRate
from tether.tasks.answers import Answers, true_scores
from tether.tasks.sources import Asked

REFERENCE = "reference"


def judged(
    answers: Answers,
    asked: Sequence[Asked],
    policy: str,
    temperature: float,
    judge: Judge,
    cache: Cache,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> list[Verdict]:
    """Ask the judge, in both orders, whether each answer is better than its reference; write the verdicts.

    Raises:
        DataError: a test prompt without an answer.

    """
    missing = [one.id for one in asked if one.id not in answers]
    if missing:
        raise DataError(
            f"{policy} at temperature {temperature:g}: no answer to {missing[0]} ({len(missing)} prompts)"
        )
    pairs = [Pair(one.id, one.prompt, answers[one.id].completion, one.reference) for one in asked]
    verdicts = judge_pairs(pairs, judge, (policy, REFERENCE), cache=cache, progress=progress)
    folder = out / "verdicts"
    folder.mkdir(exist_ok=True)
    write_lines(folder / f"{policy}-t{temperature:g}.jsonl", verdicts)
    return verdicts


def win_rate(
    policy: str,
    temperature: float,
    verdicts: Sequence[Verdict],
    answers: Answers,
    asked: Sequence[Asked],
    reward: Evaluator | None,
    seed: int,
) -> WinRate:
    """Return the win rate of one policy at one temperature, ties as half, with what else is known of it.

    Raises:
        DataError: not one prompt was judged in both orders.

    """
    shares = [verdict.share for verdict in verdicts if verdict.share is not None]
    if not shares:
        raise DataError(
            f"{policy} at temperature {temperature:g}: the judge gave no verdict on {len(verdicts)} prompts"
        )
    rows = [answers[one.id] for one in asked]
    scores = None if reward is None else true_scores(rows, reward)
    theirs = None if reward is None else reward([o.prompt for o in asked], [o.reference for o in asked])
    return WinRate(
        policy=policy,
        temperature=temperature,
        win_rate=estimate(mean_interval([100 * s for s in shares], bounds=(0, 100), null=50, seed=seed)),
        ties=100 * sum(share == 0.5 for share in shares) / len(shares),
        prompts=len(shares),
        failed=len(verdicts) - len(shares),
        reward=None if scores is None else estimate(mean_interval(scores, seed=seed)),
        reference_reward=None if theirs is None else sum(theirs) / len(theirs),
        chars=sum(len(row.completion) for row in rows) / len(rows),
        cut=100 * sum(not row.ended for row in rows) / len(rows),
    )


def gap(
    policy: str,
    other: str,
    temperature: float,
    verdicts: Mapping[str, Sequence[Verdict]],
    seed: int,
) -> Gap | None:
    """Return the paired difference of two win rates in points; None where no prompt was judged for both."""
    theirs = {verdict.id: verdict.share for verdict in verdicts[other]}
    points = [
        100 * (verdict.share - share)
        for verdict in verdicts[policy]
        if verdict.share is not None and (share := theirs.get(verdict.id)) is not None
    ]
    if not points:
        return None
    found = paired_bootstrap(points, seed=seed)
    return Gap(
        policy=policy,
        other=other,
        temperature=temperature,
        points=estimate(found),
        distinguishable=distinguishable(found),
        prompts=len(points),
    )
