"""`tether generate`: completions of a model or a server, seeded per prompt, continued after a stop."""

import sys
import textwrap
import time
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tether.cli.options import with_options
from tether.cli.output import print_json
from tether.cli.stopping import stoppable
from tether.config.generate import GENERATE_ALIASES, GENERATE_GROUPS, GenerateConfig, GenerateOptions
from tether.config.parse import build

if TYPE_CHECKING:
    from tether.generation.completions import GenerateRecord

SECONDS_BETWEEN_LINES = 10
"""Where standard error is no terminal, progress is one line that often at most."""


@with_options(GenerateOptions, GENERATE_GROUPS, GENERATE_ALIASES)
def generate(
    model: Annotated[
        str | None, Parameter(help="Model or adapter: folder, owner/name of the hub, or a name on --server.")
    ] = None,
    /,
    *,
    json: Annotated[bool, Parameter(help="Print the record as JSON.", negative="")] = False,
    quiet: Annotated[bool, Parameter(help="No progress.", negative="")] = False,
    **options: Any,
) -> int:
    """Answer every prompt of a file; a prompt's sample is the same whatever shares its batch."""
    named = {} if model is None else {"model": model}
    config = build(GenerateConfig, named | options, aliases=GENERATE_ALIASES, source="tether generate")
    from tether.generation.sample import generate as run

    line = _Line(quiet=quiet or json)
    stopped = (
        f"stopped; {config.out} keeps the completions written so far, the same command goes on from there"
    )
    try:
        with stoppable(stopped):
            record = run(config, line)
    finally:
        line.close()
    if json:
        print_json(record)
    elif not quiet:
        sys.stdout.write("\n".join(_told(record, config.max_new_tokens)) + "\n")
    return 0


def _told(record: "GenerateRecord", limit: int) -> list[str]:
    kept = f" ({record.continued} of them by an earlier run)" if record.continued else ""
    ends = [f"{record.ended:.1%} ended by themselves"]
    ends += [f"{record.cut_at_limit:.1%} cut at {limit} tokens"] if record.cut_at_limit else []
    ends += [f"{record.cut_at_context:.1%} cut at the model's context"] if record.cut_at_context else []
    mean = [] if record.tokens is None else [f"{record.tokens:.1f} tokens on average"]
    lines = [
        f"{record.rows} completions of {record.prompts} prompts{kept}",
        *textwrap.wrap("; ".join(ends + mean), 80),
    ]
    if record.left_out:
        shown = ", ".join(record.left_out[:5]) + (", ..." if len(record.left_out) > 5 else "")
        text = f"{len(record.left_out)} prompts left out, longer than the model reads: {shown}"
        lines += textwrap.wrap(text, 80)
    if record.trained_on != "none":
        text = f"the adapter was trained on a base stored as {record.trained_on}; here the base is in full"
        lines += textwrap.wrap(text, 80)
    # On a line of its own: a path may be as long as it likes.
    return [*lines, f"written: {record.out}"]


class _Line:
    """One live line on a terminal, now and then a line elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._last = 0.0
        self._open = False

    def __call__(self, done: int, total: int, tokens: int, seconds: float) -> None:
        now = time.perf_counter()
        due = self._live or done == total or now - self._last >= SECONDS_BETWEEN_LINES
        if self._quiet or not due:
            return
        self._last = now
        text = f"{done} of {total} completions, {tokens / max(seconds, 1e-9):.0f} tokens/s"
        sys.stderr.write(f"\r{text}\x1b[K" if self._live else text + "\n")
        sys.stderr.flush()
        self._open = self._live

    def close(self) -> None:
        if self._open:
            sys.stderr.write("\n")
