"""`tether train`: tune a model on rows, from a YAML file, the command line, or both."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tether.cli.options import help_lines, with_options
from tether.cli.output import console, print_json, print_table, with_error, wrapped
from tether.config.aliases import TRAIN_ALIASES
from tether.config.foreign import Translated
from tether.config.launch import first_process, first_speaks
from tether.config.parse import build, read_yaml
from tether.config.train import TrainConfig
from tether.config.translate import in_our_keys

GROUPS = ["Model", "Data", "Objective", "LoRA", "Optimiser", "Speed", "Watching", "Measuring", "Run"]


@with_options(TrainConfig, GROUPS, TRAIN_ALIASES)
def train(
    config: Annotated[
        Path | None, Parameter(help="YAML file of the options below; given options win.")
    ] = None,
    /,
    *,
    plan: Annotated[
        bool, Parameter(help="Print updates, tokens, memory and budget, and stop.", negative="")
    ] = False,
    json: Annotated[bool, Parameter(help="Print the run record as JSON.", negative="")] = False,
    quiet: Annotated[bool, Parameter(help="No progress and no notes.", negative="")] = False,
    **options: Any,
) -> int:
    """Tune a model by DPO or a relative, or supervised, and leave an ordinary model folder and a page.

    An existing run folder with the same options is resumed; with others it is refused.
    """
    with first_speaks():
        theirs = in_our_keys(read_yaml(config), str(config)) if config is not None else Translated("tether")
        settings = build(
            TrainConfig,
            theirs.values,
            overrides=options,
            aliases=TRAIN_ALIASES,
            source=str(config or "options"),
        )
    if not (quiet or json) and first_process():
        for line in (*theirs.renamed, *theirs.ignored):
            console(stderr=True).print(wrapped(f"{theirs.tool}: {line}"), soft_wrap=True)
    # Heavy imports wait until the options are known to be good.
    from tether import api
    from tether.cli.progress import Terminal

    if plan:
        if not first_process():
            return 0
        planned = api.plan(settings)
        if json:
            print_json(planned)
        else:
            print_table(
                "",
                ["", "planned"],
                [[name.replace("_mib", ", MiB").replace("_", " "), value] for name, value in planned.items()],
            )
        return 0
    terminal = Terminal(quiet=quiet or json)
    try:
        record = api.train_config(settings, watcher=terminal)
    finally:
        terminal.close()
    if not first_process():
        return 0
    if json:
        print_json(record)
    elif not quiet:
        print_table("", ["", settings.output_dir], summary(record))
    return 0


def summary(record: Any) -> list[list[object]]:
    """Return the few lines a person wants at the end of a run."""
    rows: list[list[object]] = [["status", record.status], ["updates", record.steps]]
    for name in ("loss", "eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"):
        if name in record.results:
            error = record.results.get(f"{name}_se")
            rows.append([name, f"{record.results[name]:.4f}" + (f" +- {error:.4f}" if error else "")])
    if record.measurements:
        last, first = record.measurements[-1], record.measurements[0]
        if last.kl_start is not None:
            rows.append(["KL from start", f"{with_error(last.kl_start, last.kl_start_se)} nats"])
        for name, value in last.scores.items():
            rows.append([name, f"{first.scores[name]:.3f} -> {with_error(value, last.scores_se.get(name))}"])
    rows.append(["model", f"{record.config['output_dir']}/model"])
    rows.append(["page", f"{record.config['output_dir']}/report.html"])
    return rows


def help_page() -> str:
    """Return `tether train --help`: grouped, one line per option, with the default."""
    head = [
        "Usage: tether train [CONFIG.yaml] --model M --data D --output-dir O [OPTIONS]",
        "",
        "Tune a model by DPO or a relative, or supervised (--loss-type sft), and leave",
        "an ordinary model folder and a page. An existing run folder with the same",
        "options is resumed; with others it is refused. CONFIG.yaml takes the same keys.",
        "",
        "  --plan                         Print updates, tokens, memory, budget; stop.",
        "  --json                         Print the run record as JSON.",
        "  --quiet                        No progress and no notes.",
    ]
    tail = [
        "",
        "References: self (the model at step 0), none (0 for every row), prior (the",
        "model without the prompt), columns (log-probs in the data), model:PATH,",
        "artifact:PATH (made by tether score). All of it: docs/config.md.",
    ]
    return "\n".join([*head, *help_lines(TrainConfig, GROUPS), *tail, ""])
