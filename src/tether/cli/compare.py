"""`tether compare`: which of several models is better, by how much, and how surely; usable as a gate."""

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tether.cli.output import console, print_json, print_table
from tether.errors import DataError, NotBetter, UsageError

if TYPE_CHECKING:
    from tether.judging.judges import Judge
    from tether.judging.pairwise import Stream, Verdict
    from tether.judging.winrate import PairedDifference

Flag = Annotated[bool, Parameter(negative=())]


def compare(
    files: list[Path],
    /,
    *,
    judge: str | None = None,
    verdicts: Path | None = None,
    cache: Path | None = None,
    by: Literal["win_rate", "lc_win_rate"] = "win_rate",
    require: str | None = None,
    draws: int = 1000,
    seed: int = 0,
    stream: Flag = False,
    json: Flag = False,
) -> int:
    """Compare models by verdicts, by answers and a judge, or by annotations against one baseline.

    Parameters
    ----------
    files
        Answers (JSONL of tether generate, AlpacaEval's model_outputs.json), verdicts, or annotations.
    judge
        For answers: length, random, world:NAME, server:URL#MODEL or local:MODEL.
    verdicts
        File to write the verdicts to.
    cache
        File of opinions already asked for; only new questions are asked.
    by
        For annotations: the rate whose difference decides.
    require
        Gate such as "A > B": exit status 5 when not shown.
    draws
        Bootstrap samples of prompts.
    seed
        Of the bootstrap, and of the order in which --stream asks.
    stream
        Stop asking the judge when the answer is known (two files of answers; valid at any look).
    json
        Print one JSON document instead of tables.

    """
    kinds = {_kind(path) for path in files}
    if len(kinds) != 1:
        raise UsageError(f"files of different kinds ({', '.join(sorted(kinds))}): compare one kind at a time")
    kind = kinds.pop()
    if stream and (kind != "answers" or len(files) != 2):
        raise UsageError("--stream asks a judge about two files of answers: name two, and --judge")
    if kind == "annotations":
        document, sentence = _annotations(files, by, require, draws, seed)
    else:
        if kind == "answers":
            from tether.judging.named import judge_named

            if judge is None:
                raise UsageError(
                    "answers need --judge: length, random, world:NAME, server:URL#MODEL, local:MODEL"
                )
            found, streamed = _judged(files, judge_named(judge), cache, seed if stream else None)
        else:
            found, streamed = _read(files), None
        if verdicts is not None:
            from tether.records.results import write_lines

            write_lines(verdicts, found)
        if streamed is None:
            document, sentence = _verdicts(found, require, draws, seed)
        else:
            document, sentence = _streamed(streamed, require)
    if json:
        print_json(document)
    else:
        _show(document)
    if sentence is not None and not document["requirement"]["shown"]:
        raise NotBetter(sentence)
    return 0


def _kind(path: Path) -> str:
    if path.is_dir():
        raise UsageError(f"{path} is a model folder: answer prompts with tether generate, and name its file")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".parquet":
        return "annotations"
    from tether.judging.outputs import read_rows

    first = read_rows(path)[0]
    if "a_first" in first:
        return "verdicts"
    return "annotations" if "preference" in first else "answers"


def _judged(
    files: list[Path], judge: "Judge", cache: Path | None, stream_seed: int | None
) -> "tuple[list[Verdict], Stream | None]":
    from tether.judging.outputs import names_of, pair_outputs, read_outputs
    from tether.judging.pairwise import Cache, judge_pairs, judge_until_known

    outputs = [read_outputs(path) for path in files]
    if len(files) < 2:
        raise UsageError("at least two files of answers are needed")
    names = names_of(outputs)
    kept, found = Cache(cache), []
    for i, j in combinations(range(len(outputs)), 2):
        paired = pair_outputs(outputs[i], outputs[j])
        if paired.only_a or paired.only_b:
            console(stderr=True).print(
                f"{names[i]} and {names[j]}: {paired.only_a} and {paired.only_b} answers without a partner"
            )
        if stream_seed is not None:
            return judge_until_known(paired.pairs, judge, (names[i], names[j]), cache=kept, seed=stream_seed)
        found += judge_pairs(paired.pairs, judge, (names[i], names[j]), cache=kept)
    return found, None


def _streamed(found: "Stream", require: str | None) -> tuple[dict[str, Any], str | None]:
    from tether.judging.comparison import parse_requirement

    document: dict[str, Any] = {"kind": "stream", "stream": found.model_dump(mode="json")}
    if require is None:
        return document, None
    better, _ = parse_requirement(require, (found.a, found.b))
    shown = found.decided and (found.win_rate > 50) == (better == found.a)
    low, high = found.interval
    sentence = (
        f"{require} {'shown' if shown else 'not shown'}: {found.a} wins {found.win_rate:.1f} % "
        f"(95 % {low:.1f} to {high:.1f} at any look, {found.asked} of {found.prompts} prompts)"
    )
    document["requirement"] = {"text": require, "shown": shown, "why": sentence}
    return document, sentence


def _read(files: list[Path]) -> "list[Verdict]":
    from tether.judging.pairwise import read_verdicts

    return [verdict for path in files for verdict in read_verdicts(path)]


def _verdicts(
    found: "list[Verdict]", require: str | None, draws: int, seed: int
) -> tuple[dict[str, Any], str | None]:
    from tether.judging import comparison as judging

    groups = judging.group(found)
    models = sorted({name for a, b, _ in groups for name in (a, b)})
    compared = {
        key: judging.compare_pair(verdicts, draws=draws, seed=seed) for key, verdicts in groups.items()
    }
    document: dict[str, Any] = {
        "kind": "verdicts",
        "models": models,
        "comparisons": [one.model_dump(mode="json") for one in compared.values()],
        "agreement": [one.model_dump(mode="json") for one in judging.agreements(found)],
    }
    if len(models) > 2 and len({judge for _, _, judge in groups}) == 1:
        document["ratings"] = [r.model_dump(mode="json") for r in judging.ratings(found, seed=seed)]
    if require is None:
        return document, None
    better, worse = judging.parse_requirement(require, models)
    met: list[tuple[bool, str]] = []
    for judge in {judge for _, _, judge in groups}:
        own = {(a, b): one for (a, b, name), one in compared.items() if name == judge}
        if (better, worse) not in own and (worse, better) not in own:
            raise DataError(f"--require {require!r}: these two models were not judged against each other")
        met.append(judging.shown_better(own, better, worse))
    sentence = "; ".join(text for _, text in met)
    document["requirement"] = {"text": require, "shown": all(shown for shown, _ in met), "why": sentence}
    return document, sentence


def _annotations(
    files: list[Path], by: str, require: str | None, draws: int, seed: int
) -> tuple[dict[str, Any], str | None]:
    from tether.judging.annotations import read_annotations
    from tether.judging.comparison import parse_requirement
    from tether.judging.winrate import paired_difference, paired_lc_difference, win_rates

    if len(files) != 1:
        raise UsageError("one file of annotations at a time: put all models against the baseline into it")
    read = read_annotations(files[0])
    rates = win_rates(read, draws=draws, seed=seed)
    document: dict[str, Any] = {
        "kind": "annotations",
        "models": {entry.model: entry.model_dump(mode="json") for entry in rates.models},
    }

    def difference(a: str, b: str) -> "PairedDifference":
        return (
            paired_difference(read, a, b, seed=seed)
            if by == "win_rate"
            else paired_lc_difference(rates, a, b)
        )

    if len(read.models) <= 10:
        document["differences"] = [
            difference(a, b).model_dump(mode="json") for a, b in combinations(read.models, 2)
        ]
    if require is None:
        return document, None
    better, worse = parse_requirement(require, read.models)
    gap = difference(better, worse)
    shown = gap.interval[0] > 0
    sentence = (
        f"{better} > {worse} {'shown' if shown else 'not shown'}: {by} differs by {gap.difference:+.2f} "
        f"points (95 % {gap.interval[0]:+.2f} to {gap.interval[1]:+.2f}, {gap.n} prompts)"
    )
    document["requirement"] = {"text": require, "shown": shown, "why": sentence}
    return document, sentence


def _show(document: dict[str, Any]) -> None:
    if document["kind"] == "annotations":
        rows = [
            (
                name,
                *(_percent(entry[rate], entry[f"{rate}_interval"]) for rate in ("win_rate", "lc_win_rate")),
            )
            for name, entry in document["models"].items()
        ]
        print_table("against the baseline", ["model", "win rate %", "LC % (own prompts)"], rows)
        rows = [
            (f"{gap['a']} - {gap['b']}", f"{gap['difference']:+.2f}", _span(gap["interval"]), _told(gap))
            for gap in document.get("differences", [])
        ]
        if rows:
            print_table("paired differences", ["models", "points", "95 %", ""], rows)
    if document["kind"] == "stream":
        one = document["stream"]
        rows = [
            ("win rate of A", f"{one['win_rate']:.1f} %", f"{_span(one['interval'])} at any look"),
            ("evidence against equality", f"e = {one['e_value']:.3g}", "20 decides"),
            ("prompts asked", str(one["asked"]), f"of {one['prompts']}, {one['failed']} without a verdict"),
        ]
        print_table(f"A: {one['a']}   B: {one['b']}   judge: {one['judge']}", ["", "value", "95 %"], rows)
    for one in document.get("comparisons", []):
        _show_pair(one)
    if "ratings" in document:
        rows = [
            (r["model"], f"{r['rating']['value']:+.2f}", _reach(r["rating"])) for r in document["ratings"]
        ]
        print_table("Bradley-Terry rating (logits)", ["model", "rating", "95 %"], rows)
    rows = [
        (a["first"], a["second"], f"{a['same']:.0f} %", a["alpha"]) for a in document.get("agreement", [])
    ]
    if rows:
        print_table("agreement", ["judge", "judge ", "same", "alpha"], rows)
    if "requirement" in document and document["requirement"]["shown"]:
        console().print(document["requirement"]["why"])


def _show_pair(one: dict[str, Any]) -> None:
    controlled = one["lc_win_rate"]
    rows = [
        ("win rate of A", f"{one['win_rate']['value']:.1f} %", _reach(one["win_rate"])),
        (
            "at equal length (own prompts)",
            "-" if controlled is None else f"{controlled['value']:.1f} %",
            one["lc_note"] if controlled is None else _reach(controlled),
        ),
        ("won by being shown first", f"{one['order_bias']['value']:+.1f} points", _reach(one["order_bias"])),
        ("winner changes with the order", f"{one['inconsistent']:.1f} %", f"of {one['pairs']} pairs"),
        ("mean length A, B", f"{one['mean_chars_a']:.0f}, {one['mean_chars_b']:.0f}", "characters"),
        ("without a verdict", str(one["failed"]), "in no rate"),
    ]
    print_table(f"A: {one['a']}   B: {one['b']}   judge: {one['judge']}", ["", "value", "95 % or unit"], rows)
    if one["distinguishable"]:
        console().print("A and B are told apart.\n")
    else:
        needed = one["prompts_needed"]
        more = "" if needed is None else f" About {needed} prompts would be needed."
        console().print(f"Not distinguishable with {one['prompts']} prompts.{more}\n")


def _percent(value: float | None, interval: list[float] | None) -> str:
    return "-" if value is None else f"{value:.2f}" + ("" if interval is None else f" ({_span(interval)})")


def _span(interval: list[float]) -> str:
    return f"{interval[0]:.1f} to {interval[1]:.1f}"


def _reach(estimate: dict[str, Any]) -> str:
    return "-" if estimate["low"] is None else _span([estimate["low"], estimate["high"]])


def _told(gap: dict[str, Any]) -> str:
    return "told apart" if gap["distinguishable"] else "not distinguishable"
