"""The `tether` command: names, groups and error lines. Nothing heavy is imported until a command runs."""

import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, Group

from tether.errors import TetherError, UsageError

TUNE = Group("Tune", sort_key=1)
LOOK = Group("Look", sort_key=2)

app = App(
    name="tether",
    help="Tune a language model on preferences, and learn how tightly to hold it to its reference.",
    version_flags=["--version"],
)
COMMANDS = {
    "check": ("tether.cli.check:check", "Inspect preference data before any model loads.", TUNE),
}
for name, (target, text, group) in COMMANDS.items():
    app.command(target, name=name, help=text, group=group)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its documented status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or bool(os.environ.get("TETHER_DEBUG"))
    words = [word for word in words if word != "--debug"]
    try:
        status = app(words, result_action="return_value", exit_on_error=False, print_error=False)
    except TetherError as error:
        sys.exit(_fail(error, error.exit_code, debug))
    sys.exit(status if isinstance(status, int) else 0)


def _fail(error: BaseException, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"tether: {error}\n")
    return status


__all__ = ["UsageError", "app", "main"]
