"""The `tether` command: names, groups and error lines. Nothing heavy is imported until a command runs."""

import importlib
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from cyclopts import App, CycloptsError, Group

from tether.config.launch import first_speaks, process_count
from tether.errors import SaidElsewhere, TetherError, UsageError

TUNE = Group("Tune", sort_key=1)
LOOK = Group("Look", sort_key=2)
WORLDS = Group("Worlds", sort_key=3)

COMMANDS = {
    "check": ("tether.cli.check:check", "Inspect preference data before any model loads.", TUNE),
    "convert": ("tether.cli.convert:convert", "Write rows in another tool's format.", TUNE),
    "config": ("tether.cli.config:app", "Read another trainer's config.", TUNE),
    "train": ("tether.cli.train:train", "Tune a model on preferences, or supervised.", TUNE),
    "score": ("tether.cli.score:score", "Score rows with any model: a reference to reuse.", TUNE),
    "calibrate": ("tether.cli.calibrate:calibrate", "How tight, from one training run and a dial.", TUNE),
    "reference": ("tether.cli.reference:app", "References before training: which says what.", TUNE),
    "merge": ("tether.cli.merge:merge", "Merge an adapter; says what rounding cost.", TUNE),
    "study": ("tether.cli.study:app", "Many runs over a grid: how tight, which reference.", TUNE),
    "generate": ("tether.cli.generate:generate", "Answer prompts, seeded per prompt.", LOOK),
    "chat": ("tether.cli.chat:chat", "Talk to a model, or to two side by side.", LOOK),
    "watch": ("tether.cli.watch:watch", "Watch a run in the terminal, with its curves.", LOOK),
    "report": ("tether.cli.report:report", "Rebuild a run's page and model card.", LOOK),
    "winrate": ("tether.cli.winrate:winrate", "Win rates with intervals from annotations.", LOOK),
    "judge": ("tether.cli.judge:judge", "Verdicts on two models' answers, both orders.", LOOK),
    "compare": ("tether.cli.compare:compare", "Which model is better, by how much, how surely.", LOOK),
    "demo": ("tether.cli.demo:demo", "A small study of a bundled model, with its page.", WORLDS),
    "world": ("tether.cli.world:app", "Worlds whose true reward is known.", WORLDS),
    "task": ("tether.cli.task:app", "Tasks of the literature, small or full size.", WORLDS),
}

LINGER = 5.0
"""Seconds a process whose error another one tells waits: torchrun kills the rest when any one has ended."""

SEVERAL = ("train", "score")
"""Commands that share their work under torchrun; every other would be run once per process."""

DESCRIPTION = "Tune a language model on preferences, and learn how tightly to hold it\nto its reference."
app = App(
    name="tether",
    help=DESCRIPTION,
    version_flags=["--version"],
)
for _name, (_target, _text, _group) in COMMANDS.items():
    app.command(_target, name=_name, help=_text, group=_group)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its documented status (see `errors`)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or bool(os.environ.get("TETHER_DEBUG"))
    words = [word for word in words if word != "--debug"]
    if not words or words in (["--help"], ["-h"]):
        sys.stdout.write(overview())
        sys.exit(0)
    # peft asks transformers for a name that transformers is renaming; nothing a user could do about it.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
    try:
        if words[0] in ("train", "study") and len(words) == 2 and words[1] in ("--help", "-h"):
            sys.stdout.write(importlib.import_module(f"tether.cli.{words[0]}").help_page())
            sys.exit(0)
        status = _run(words)
    except SaidElsewhere as error:
        time.sleep(LINGER)
        sys.exit(error.exit_code)
    except TetherError as error:
        sys.exit(_fail(error, error.exit_code, debug))
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted", 130, debug))
    except Exception as error:  # the last line of defence: a bug of ours, told in one line
        text = f"internal error: {type(error).__name__}: {error}; run again with --debug for the traceback"
        sys.exit(_fail(text, 1, debug))
    sys.exit(status if isinstance(status, int) else 0)


def _run(words: list[str]) -> Any:
    """Run one command; of several processes the first alone tells what is wrong with the words."""
    with first_speaks():
        if process_count() > 1 and words[0] not in SEVERAL:
            raise UsageError(f"tether {words[0]} is one process; start it without torchrun")
    try:
        return app(words, result_action="return_value", exit_on_error=False, print_error=False)
    except CycloptsError as error:
        mistake = error
    with first_speaks():
        raise UsageError(f"{mistake}{_known_elsewhere(words[0], str(mistake))}") from mistake


def _known_elsewhere(command: str, mistake: str) -> str:
    """Return whose key an option of `tether train` is that we do not know, or nothing."""
    option = re.match(r"Unknown option: --([\w-]+)", mistake)
    if command != "train" or option is None:
        return ""
    tools = importlib.import_module("tether.config.translate").TOOLS
    key = option[1].replace("-", "_")
    tool = next((t for t, (rules, _) in tools.items() if {key, key.removeprefix("no_")} & set(rules)), None)
    if tool is None:
        return ""
    return f" It is a key of {tool}'s: such keys are read from a YAML file (tether train theirs.yaml)."


def overview() -> str:
    """Return the help of the command as a whole; plain text, so that it costs no imports."""
    lines = ["Usage: tether COMMAND [OPTIONS]", "", DESCRIPTION, ""]
    groups: dict[str, list[str]] = {}
    for name, (_, text, group) in COMMANDS.items():
        groups.setdefault(group.name, []).append(f"  {name:<10} {text}")
    for title, entries in groups.items():
        lines += [title, *entries, ""]
    lines += ["tether COMMAND --help tells more; --version, --debug (tracebacks).", ""]
    return "\n".join(lines)


def _fail(error: object, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"tether: {' '.join(str(error).split())}\n")
    return status
