"""What the page of a comparison says: its headline, its sentences, its numbers and its warnings."""

from dataclasses import dataclass

from tether.records.comparison import Comparison, ComparisonRecord, Estimate
from tether.reports.sections import Tile
from tether.reports.tables import count, number, percent

CONTROLS = ("length", "random")
"""Judges that say nothing of quality."""
MUCH_FLIPPED = 25.0
"""Percent of pairs decided by their order from which on a page warns."""
MUCH_FAILED = 0.05
FEW_PROMPTS = 30


@dataclass(frozen=True)
class Said:
    """The page's first lines; `word` is better, level or open, for its colour."""

    headline: str
    sentences: list[str]
    word: str


def said(record: ComparisonRecord) -> Said:
    """Return headline and sentences of a comparison."""
    if record.stream is not None:
        return _stream(record)
    if record.rates:
        return _annotations(record)
    if len(record.models) > 2:
        return _several(record)
    if len(record.comparisons) > 1:
        return _judges(record)
    for one in record.comparisons:
        return Said(_winner(one), _pair_sentences(one), _word(one))
    return Said("Nothing was compared", [], "level")


def _winner(one: Comparison) -> str:
    if not one.distinguishable:
        return f"{one.a} and {one.b} cannot be told apart"
    better, worse = (one.a, one.b) if one.win_rate.value > 50 else (one.b, one.a)
    if one.judge.split(":")[0] in CONTROLS:
        return f"{better} beats {worse} by the control {one.judge.split(':')[0]}"
    return f"{better} is better than {worse}"


def _word(one: Comparison) -> str:
    control = one.judge.split(":")[0] in CONTROLS
    return "better" if one.distinguishable and not control else "level"


def _pair_sentences(one: Comparison) -> list[str]:
    rate = one.win_rate
    sentences = [
        f"{one.a} wins {_share(rate)} of {count(one.prompts)} prompts by the judge {_judge(one.judge)}, both "
        "orders averaged; 50 % is no difference."
    ]
    if one.lc_win_rate is not None:
        sentences.append(f"Had the answers been equally long: {_share(one.lc_win_rate)}.")
    if not one.distinguishable and one.prompts_needed is not None:
        sentences.append(
            f"Were this the true difference, about {count(one.prompts_needed)} prompts would show it in four "
            "of five studies."
        )
    return sentences


def _several(record: ComparisonRecord) -> Said:
    order = [rating.model for rating in record.ratings] or list(record.models)
    best = order[0]
    beaten = {
        (one.b if one.win_rate.value > 50 else one.a)
        for one in record.comparisons
        if one.distinguishable and best in (one.a, one.b) and _won_by(one) == best
    }
    level = [model for model in order[1:] if model not in beaten]
    judges = {one.judge for one in record.comparisons}
    if not record.ratings:
        text = f"{len(record.models)} models, {len(judges)} judges"
        return Said(text, ["Every pair of models by every judge stands below."], "level")
    if not level:
        headline = f"{best} is better than every other model"
    else:
        headline = f"{best} leads, not told apart from {_list(level)}"
    prompts = max(one.prompts for one in record.comparisons)
    sentence = (
        f"{len(record.models)} models judged pairwise by the judge {_judge(next(iter(judges)))} on up to "
        f"{count(prompts)} prompts, both orders averaged."
    )
    return Said(headline, [sentence], "better" if not level else "level")


def _won_by(one: Comparison) -> str:
    return one.a if one.win_rate.value > 50 else one.b


def _judges(record: ComparisonRecord) -> Said:
    winners = {_won_by(one) if one.distinguishable else "" for one in record.comparisons}
    a, b = record.comparisons[0].a, record.comparisons[0].b
    sentences = [f"{_judge(one.judge)}: {one.a} wins {_share(one.win_rate)}." for one in record.comparisons]
    if len(winners) == 1 and winners != {""}:
        (better,) = winners
        headline = f"{better} is better than {b if better == a else a}, by {len(record.comparisons)} judges"
        return Said(headline, sentences, "better")
    if winners == {""}:
        return Said(f"{a} and {b} cannot be told apart", sentences, "level")
    return Said("The judges do not agree", sentences, "level")


def _stream(record: ComparisonRecord) -> Said:
    one = record.stream
    assert one is not None
    better, worse = (one.a, one.b) if one.win_rate > 50 else (one.b, one.a)
    low, high = (number(end, 1) for end in one.interval)
    sentence = (
        f"Asked one prompt after another, stopped after {count(one.asked)} of {count(one.prompts)}: {one.a} "
        f"wins {number(one.win_rate, 1)} % (95 % at any look: {low} to {high}) by the judge "
        f"{_judge(one.judge)}."
    )
    if one.decided:
        return Said(f"{better} is better than {worse}", [sentence], "better")
    return Said(f"{one.a} and {one.b} cannot be told apart", [sentence], "level")


def _annotations(record: ComparisonRecord) -> Said:
    honest = [entry for entry in record.rates if not entry.apart and entry.win_rate is not None]
    if not honest:
        return Said("No verdicts", [], "level")
    best = max(honest, key=lambda entry: entry.win_rate or 0.0)
    own = best.lc_kind == "own-prompts"
    sentences = [
        f"It wins {number(best.win_rate, 1)} % against the baseline, on {count(best.n)} prompts.",
        "Rates at equal length are fitted on these models and prompts alone: never comparable with a "
        "published length-controlled rate."
        if own
        else "Rates at equal length are AlpacaEval 2's model on the tables given.",
    ]
    others = [entry.model for entry in honest if entry.model != best.model]
    gaps = {
        (gap.b if gap.a == best.model else gap.a): gap.distinguishable
        for gap in record.differences
        if gap.kind == "win_rate" and best.model in (gap.a, gap.b)
    }
    if not others or not set(others) <= set(gaps):
        return Said(f"{best.model} has the highest win rate", sentences, "level")
    level = [model for model in others if not gaps[model]]
    if not level:
        return Said(f"{best.model} beats the baseline more often than every other", sentences, "better")
    return Said(f"{best.model} leads, not told apart from {_list(level)}", sentences, "level")


def tiles(record: ComparisonRecord) -> list[Tile]:
    """Return the headline numbers of one pair of models."""
    if len(record.comparisons) != 1:
        return []
    one = record.comparisons[0]
    found = [Tile(f"{one.a} wins", f"{number(one.win_rate.value, 1)} %", _note(one.win_rate))]
    if one.lc_win_rate is not None:
        found.append(Tile("At equal length", f"{number(one.lc_win_rate.value, 1)} %", _note(one.lc_win_rate)))
    else:
        found.append(Tile("At equal length", "–", one.lc_note))
    bias = one.order_bias
    found += [
        Tile("Won by being shown first", f"{number(bias.value, 1, signed=True)} points", _note(bias)),
        Tile(
            "Winner changes with the order",
            f"{number(one.inconsistent, 0)} %",
            f"of {count(one.pairs)} pairs",
        ),
        Tile(
            "Mean characters",
            f"{number(one.mean_chars_a, 0)}, {number(one.mean_chars_b, 0)}",
            f"{one.a}, {one.b}",
        ),
        Tile("Without a verdict", count(one.failed), "in no rate"),
    ]
    ties = f", {count(one.ties)} ties left out" if one.test == "votes" and one.ties else ""
    note = f"95 % at any look: {number(one.sequence[0], 1)} to {number(one.sequence[1], 1)}{ties}"
    found.append(Tile("Evidence (e-value)", evidence(one.e_value), note))
    if one.prompts_needed is not None:
        found.append(Tile("Prompts needed", count(one.prompts_needed), "to show this difference, 80 % power"))
    return found


def warnings(record: ComparisonRecord) -> list[str]:
    """Return what a reader should know before relying on the numbers."""
    found: list[str] = []
    for one in record.comparisons:
        pair = f"{one.a} and {one.b}: " if len(record.comparisons) > 1 else ""
        found += [pair + text for text in _pair_warnings(one)]
    return list(dict.fromkeys(found))


def _pair_warnings(one: Comparison) -> list[str]:
    found: list[str] = []
    kind = one.judge.split(":")[0]
    if kind in CONTROLS:
        found.append(f"The judge is the control {kind}: this says nothing of quality.")
    if one.inconsistent > MUCH_FLIPPED:
        found.append(
            f"The judge contradicts itself on {number(one.inconsistent, 0)} % of the pairs when the order "
            "changes: many of its verdicts are guesses."
        )
    total = one.pairs + one.failed
    if one.failed > MUCH_FAILED * total:
        found.append(
            f"{count(one.failed)} of {count(total)} pairs ({percent(one.failed / total)}) have no verdict "
            "and are in no rate; if they are of one kind, the rates are of the other kinds only."
        )
    controlled = one.lc_win_rate
    if one.distinguishable and controlled is not None and _holds(controlled, 50):
        found.append("At equal length the win is not shown: much of it may be length.")
    if one.prompts < FEW_PROMPTS:
        found.append(f"{count(one.prompts)} prompts are few: a handful of others could change the answer.")
    return found


def evidence(e_value: float) -> str:
    """Return an e-value as people read it; 20 refutes equality at the 5 % level."""
    if e_value >= 1e6:
        return "above a million"
    return number(e_value, 0 if e_value >= 100 else 1 if e_value >= 10 else 2)


def _holds(estimate: Estimate, value: float) -> bool:
    return estimate.low is None or estimate.high is None or estimate.low <= value <= estimate.high


def _share(rate: Estimate) -> str:
    if rate.low is None or rate.high is None:
        return f"{number(rate.value, 1)} %"
    return f"{number(rate.value, 1)} % (95 %: {number(rate.low, 1)} to {number(rate.high, 1)})"


def _note(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"95 %: {number(estimate.low, 1)} to {number(estimate.high, 1)}"


def _judge(identity: str) -> str:
    """Return a judge's identity without the long hash of a local model."""
    parts = identity.split(":")
    return f"{parts[0]} model {parts[1][:8]}" if parts[0] in ("local", "reward") else identity


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
