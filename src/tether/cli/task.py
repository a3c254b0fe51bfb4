"""`tether task`: the tasks of the literature, small in a world or at full size on public data."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from tether.cli.output import print_json, print_table

if TYPE_CHECKING:
    from tether.cli.progress import Terminal
    from tether.records.task import TaskRecord

app = App(name="task", help="Tasks of the literature: DPO beside its baselines, against references.")

Flag = Annotated[bool, Parameter(negative=())]
STOPPED = "stopped; what is done is kept, the same command goes on from there"


@app.command(name="list")
def list_tasks(*, json: Flag = False) -> None:
    """List the tasks, small and as published.

    Parameters
    ----------
    json
        Print one JSON document instead of a table.

    """
    from tether.config.task import TASKS
    from tether.tasks.configured import task_config

    rows = [
        {"task": name, "size": size, "title": task_config(name, full).title}
        for name in TASKS
        for size, full in (("small", None), ("--full paper", "paper"))
    ]
    if json:
        print_json({"tasks": rows})
    else:
        print_table("", ["task", "size", "what it is"], [list(row.values()) for row in rows])


@app.command(name="config")
def show_config(name: str, /, *, full: str | None = None) -> None:
    """Print a task's config as YAML, to be changed and given back with --full FILE.

    Parameters
    ----------
    name
        sentiment, summarization or dialogue.
    full
        paper: as published; else the small one.

    """
    import sys

    from tether.tasks.configured import config_path

    sys.stdout.write(config_path(name, full).read_text(encoding="utf-8"))


@app.command(name="run")
def run_task(
    name: str,
    /,
    *,
    output_dir: Path,
    full: str | None = None,
    judge: str | None = None,
    pairs: int | None = None,
    prompts: int | None = None,
    best_of: int | None = None,
    seed: int | None = None,
    quick: Flag = False,
    plan: Flag = False,
    json: Flag = False,
    quiet: Flag = False,
) -> int:
    """Train DPO and its baselines, compare their answers with the references, write a page.

    A run that was stopped goes on with the same command.

    Parameters
    ----------
    name
        sentiment, summarization or dialogue.
    output_dir
        Folder of the task: made, continued, or refused.
    full
        paper (public data and models) or a YAML file; without it the small task.
    judge
        Judge of answers, as in tether compare; a world's own reward needs none.
    pairs
        Training pairs of the small task.
    prompts
        Test prompts.
    best_of
        N of Best-of-N; 1: none.
    seed
        Of pairs, training, samples and intervals.
    quick
        A look at the whole chain in a minute or two; its numbers mean little.
    plan
        Print the stages and stop.
    json
        Print task.json (or the plan).
    quiet
        Print nothing but errors.

    """
    from tether import api
    from tether.cli.progress import Terminal
    from tether.cli.stopping import stoppable

    given = {"judge": judge, "pairs": pairs, "prompts": prompts, "best_of": best_of, "seed": seed}
    options = {key: value for key, value in given.items() if value is not None}
    if plan:
        stages = api.plan_task(name, output_dir, full=full, quick=quick, **options)
        if json:
            print_json({"task": name, "output_dir": str(output_dir), "stages": stages})
        else:
            rows = [[row["stage"], row["does"], "there" if row["done"] else ""] for row in stages]
            print_table("", ["stage", "does", ""], rows)
        return 0
    terminal = Terminal(quiet=quiet or json)
    try:
        with stoppable(STOPPED):
            record = api.task(name, output_dir, full=full, quick=quick, told=Told(terminal), **options)
    finally:
        terminal.close()
    if json:
        print_json(record)
    elif not quiet:
        _show(record, output_dir)
    return 0


class Told:
    """Shows one line per stage, and on a terminal what the stage is doing."""

    def __init__(self, terminal: "Terminal") -> None:
        self._terminal = terminal
        self._seen: set[str] = set()

    def __call__(self, stage: str) -> "Watching":
        """Begin a stage; stages of one kind are one line."""
        kind = stage.split()[0]
        if kind not in self._seen:
            self._seen.add(kind)
            self._terminal.note(stage if len(stage.split()) == 1 else kind)
        watching = Watching(self._terminal, stage)
        watching.stage("")
        return watching


class Watching:
    """One stage's live line; a run's own table stays in its folder."""

    def __init__(self, terminal: "Terminal", name: str) -> None:
        self._terminal, self._name = terminal, name

    def stage(self, text: str) -> None:
        """Say what is being done."""
        self._terminal.stage(f"{self._name}: {text}" if text else self._name)

    def step(self, step: int, total: int, loss: float) -> None:
        """Say how far training is."""
        self._terminal.stage(f"{self._name}: step {step} of {total}, loss {loss:.4f}")

    def log(self, line: Mapping[str, Any], *, total: int) -> None:
        """Leave it to the run's own page."""

    def note(self, text: str) -> None:
        """Leave it to the run's own page."""


def _show(record: "TaskRecord", folder: Path) -> None:
    temperatures = sorted({rate.temperature for rate in record.win_rates})
    found = {(rate.policy, rate.temperature): rate.win_rate for rate in record.win_rates}
    rows = [
        [policy.name, *(f"{found[policy.name, t].value:.0f}" for t in temperatures)]
        for policy in record.policies
        if policy.compared
    ]
    columns = ["wins against the reference, %", *(f"T {t:g}" for t in temperatures)]
    print_table(record.title, columns, rows)
    dpo = next(policy.name for policy in record.policies if policy.kind == "dpo" and policy.compared)
    spans = [found[dpo, t] for t in temperatures]
    print_table(
        "",
        ["", ""],
        [
            [f"{dpo}, 95 %", ", ".join(f"{s.low:.0f} to {s.high:.0f}" for s in spans if s.low is not None)],
            ["page", f"{folder}/report.html"],
            ["numbers", f"{folder}/task.json, {folder}/report/*.csv"],
        ],
    )
