"""`tether judge`: verdicts on two models' answers, each pair shown in both orders, nothing asked twice."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tether.cli.output import console, print_json, print_table
from tether.cli.progress import counting
from tether.cli.stopping import stoppable
from tether.judging.options import Asking, Prices

if TYPE_CHECKING:
    from tether.judging.run import JudgePlan, JudgeRecord

Flag = Annotated[bool, Parameter(negative=())]
WIDTH = 80
NO_PRICES, PLAINLY = Prices(), Asking()


def judge(
    a: Path,
    b: Path,
    /,
    *,
    judge: str,
    out: Path,
    plan: Flag = False,
    cache: Path | None = None,
    overwrite: Flag = False,
    prices: Annotated[Prices, Parameter(name="*")] = NO_PRICES,
    asking: Annotated[Asking, Parameter(name="*")] = PLAINLY,
    json: Flag = False,
    quiet: Flag = False,
) -> int:
    """Judge two files of answers pair by pair, in both orders; a restart asks only what is missing.

    Parameters
    ----------
    a
        Answers of one model: JSONL of tether generate, or AlpacaEval's model_outputs.json.
    b
        Answers of the other.
    judge
        length, random, world:NAME, local:MODEL, reward:MODEL, server:URL#MODEL or alpacaeval:FOLDER@URL.
    out
        File of verdicts to write, for tether compare.
    plan
        Say what would be asked, its cost and its time, and stop. A judge on this machine is timed.
    cache
        File of opinions, kept while they come in [beside --out].
    overwrite
        Let --out lose verdicts on other models or by another judge.
    prices
        What tokens cost.
    asking
        How to ask.
    json
        Print one JSON document instead of tables.
    quiet
        No progress and no notes.

    """
    from tether import api

    if plan:
        planned = api.plan_judging(a, b, judge=judge, out=out, cache=cache, prices=prices, asking=asking)
        if json:
            print_json(planned)
        else:
            print_table("", ["", "planned"], plan_rows(planned))
        return 0
    stopped = f"stopped; what was asked so far is kept beside {out}, the same command goes on from there"
    with stoppable(stopped), counting("pairs", quiet=quiet or json) as progress:
        record = api.judge(
            a,
            b,
            judge=judge,
            out=out,
            cache=cache,
            prices=prices,
            asking=asking,
            overwrite=overwrite,
            told=None if quiet or json else tell,
            progress=progress,
        )
    if json:
        print_json(record)
    elif not quiet:
        show(record)
    return 0


def titled(a: str, b: str, judge: str) -> str:
    """Return who was compared by whom, on one line where it fits."""
    parts = [f"A: {a}", f"B: {b}", f"judge: {judge}"]
    line = "   ".join(parts)
    return line if len(line) <= WIDTH else "\n".join(parts)


def tell(plan: "JudgePlan") -> None:
    """Say on standard error what is about to be asked, and what it costs."""
    lines = [
        titled(plan.a, plan.b, plan.judge),
        f"  {plan.pairs} pairs on {plan.prompts} prompts",
    ]
    if plan.only_a or plan.only_b:
        lines.append(f"  without a partner: {plan.only_a} and {plan.only_b} answers")
    text = f"  {plan.to_ask} questions to ask, {plan.known} known"
    if plan.prompt_tokens is not None:
        text += f"; about {plan.prompt_tokens} tokens to send, {plan.completion_tokens} to receive at most"
        text += "; no prices given" if plan.cost is None else f"; cost about {plan.cost:.2f}"
    for line in [*lines, text]:
        console(stderr=True).print(line)


def plan_rows(plan: "JudgePlan") -> list[tuple[str, str]]:
    """Return the plan for people."""
    rows = [
        ("judge", plan.judge),
        ("models", f"{plan.a}, {plan.b}"),
        ("pairs", f"{plan.pairs} on {plan.prompts} prompts"),
        ("without a partner", f"{plan.only_a}, {plan.only_b}"),
        ("questions", f"{plan.questions}, both orders"),
        ("known", str(plan.known)),
        ("to ask", str(plan.to_ask)),
    ]
    if plan.prompt_tokens is not None:
        rows.append(("tokens to send", f"about {plan.prompt_tokens}"))
        rows.append(("tokens to receive", f"at most {plan.completion_tokens}"))
        rows.append(("cost", "no prices given" if plan.cost is None else f"about {plan.cost:.2f}"))
    if plan.seconds is not None:
        rows.append(("time", f"about {plan.seconds:.0f} s"))
    elif plan.to_ask:
        rows.append(("time", "a server is timed when it is asked"))
    return rows


def show(record: "JudgeRecord") -> None:
    """Print what was judged, and what was not."""
    rows = [
        ("judged in both orders", f"{record.judged} of {record.pairs} pairs"),
        ("without a verdict", f"{record.failed}, in no rate"),
        ("asked, known", f"{record.asked}, {record.known} questions"),
    ]
    rows += [(f"  {reason}", str(count)) for reason, count in record.errors.items()]
    if record.prompt_tokens is not None:
        rows.append(("tried again", str(record.retries)))
        rows.append(("tokens sent, received", f"{record.prompt_tokens}, {record.completion_tokens}"))
    if record.cost is not None:
        rows.append(("cost", f"{record.cost:.2f}"))
    print_table(titled(record.a, record.b, record.judge), ["", "value"], rows)
    console().print(f"{record.out}; now: tether compare {record.out}")
    if record.failed:
        console().print("the same command asks again what has no verdict")
