"""`tether generate`: batched completions, seeded per prompt, continued after a stop."""

import signal
import sys
import time
from types import FrameType
from typing import Annotated, Any

from cyclopts import Parameter

from tether.cli.options import with_options
from tether.cli.output import print_json
from tether.config.generate import GENERATE_ALIASES, GENERATE_GROUPS, GenerateConfig, GenerateOptions
from tether.config.parse import build
from tether.errors import Interrupted

SECONDS_BETWEEN_LINES = 10
"""Where standard error is no terminal, progress is one line that often at most."""


@with_options(GenerateOptions, GENERATE_GROUPS, GENERATE_ALIASES)
def generate(
    model: Annotated[str, Parameter(help="Model folder, or an adapter folder (PEFT).")],
    /,
    *,
    json: Annotated[bool, Parameter(help="Print the record as JSON.", negative="")] = False,
    quiet: Annotated[bool, Parameter(help="No progress.", negative="")] = False,
    **options: Any,
) -> int:
    """Answer every prompt of a file; a prompt's sample is the same whatever shares its batch."""
    config = build(
        GenerateConfig, {"model": model, **options}, aliases=GENERATE_ALIASES, source="tether generate"
    )
    from tether.generation.sample import generate as run

    line = _Line(quiet=quiet or json)
    stopped = (
        f"stopped; {config.out} keeps the completions written so far, the same command goes on from there"
    )
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        record = run(config, line)
    except KeyboardInterrupt as error:
        raise Interrupted(stopped, signal.SIGINT) from error
    except _Terminated as error:
        raise Interrupted(stopped, signal.SIGTERM) from error
    finally:
        signal.signal(signal.SIGTERM, before)
        line.close()
    if json:
        print_json(record)
    elif not quiet:
        cut = [(record.cut_at_limit, f"cut at {config.max_new_tokens} tokens")]
        cut.append((record.cut_at_context, "cut at the model's context"))
        parts = [f"{record.ended:.1%} ended by themselves"]
        parts += [f"{share:.1%} {text}" for share, text in cut if share]
        kept = f" ({record.continued} of them by an earlier run)" if record.continued else ""
        sys.stdout.write(
            f"{record.out}: {record.rows} completions of {record.prompts} prompts{kept}; {', '.join(parts)}; "
            f"{record.tokens:.1f} tokens on average\n"
        )
        if record.left_out:
            shown = ", ".join(record.left_out[:5]) + (", ..." if len(record.left_out) > 5 else "")
            sys.stdout.write(f"left out, longer than the model reads: {len(record.left_out)} ({shown})\n")
    return 0


class _Terminated(BaseException):
    """SIGTERM arrived."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


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
