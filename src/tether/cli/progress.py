"""What a training run shows: one live line, a short table of what was measured, and notes."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tether.cli.output import with_error

SECONDS_BETWEEN_LINES = 10
"""Where standard error is no terminal, a count is one line that often at most."""

HEAD = f"{'step':>9}  {'loss':>7} {'margin':>8} {'accuracy':>8} {'chosen':>8} {'rejected':>8}  {'tok/s':>7}"


class Terminal:
    """Shows a run on standard error; standard output stays free for results."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, markup=False, highlight=False)
        self._quiet = quiet
        self._live: Live | None = None
        self._headed = False
        self._since = time.perf_counter()
        self._tokens: int | None = None
        self._first: tuple[int, float] | None = None
        if quiet:
            silence_downloads()

    def close(self) -> None:
        """End the live line."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _now(self, text: str) -> None:
        if self._quiet or not self._console.is_terminal:
            return
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        self._live.update(Text(text, no_wrap=True, overflow="ellipsis"))

    def stage(self, text: str) -> None:
        """Show what is being done now."""
        self._now(text + " ...")

    def note(self, text: str) -> None:
        """Print one thing the user should know."""
        if not self._quiet:
            self._console.print(Text(text))

    def step(self, step: int, total: int, loss: float) -> None:
        """Move the live line."""
        now = time.perf_counter()
        if self._first is None:
            self._first = (step, now)
        done = step - self._first[0]
        left = f"{clock((now - self._first[1]) / done * (total - step))} left" if done else ""
        self._now(f"step {step} of {total}   loss {loss:.4f}   {left}")

    def log(self, line: Mapping[str, Any], *, total: int) -> None:
        """Print one row of the table."""
        if self._quiet:
            return
        if line["step"] == 0:
            self._tokens = 0
        if not self._headed:
            self._console.print(Text(HEAD, style="bold"))
            self._headed = True
        text = measured(line) if line["phase"] == "measure" else self._row(line, total)
        self._console.print(Text(text))
        self._since = time.perf_counter()

    def _row(self, line: Mapping[str, Any], total: int) -> str:
        prefix = "eval_" if line["phase"] == "eval" else ""
        where = "held-out" if prefix else f"{line['step']}/{total}"
        cells = [line.get(prefix + name) for name in ("loss", "rewards/margins", "rewards/accuracies")]
        cells += [line.get(prefix + name) for name in ("rewards/chosen", "rewards/rejected")]
        rate = ""
        if not prefix:
            now = time.perf_counter()
            if self._tokens is not None:
                rate = f"{(line['num_tokens'] - self._tokens) / max(now - self._since, 1e-9):.0f}"
            self._tokens = line["num_tokens"]
        shown = [f"{value:.4f}" if value is not None else "" for value in cells]
        return f"{where:>9}  {shown[0]:>7} " + " ".join(f"{cell:>8}" for cell in shown[1:]) + f"  {rate:>7}"


def silence_downloads() -> None:
    """Keep the hub's library from drawing bars while it fetches a model."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()


@contextmanager
def counting(unit: str, *, quiet: bool = False) -> Generator[Callable[[int, int], None]]:
    """Yield a function told (done, of how many): one live line with the time left, or a line now and then."""
    console = Console(stderr=True, markup=False, highlight=False)
    began = last = time.perf_counter()
    live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
    if quiet:
        silence_downloads()

    def told(done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if quiet or (live is None and done < total and now - last < SECONDS_BETWEEN_LINES):
            return
        last = now
        left = f", {clock((now - began) / done * (total - done))} left" if 0 < done < total else ""
        text = Text(f"{done} of {total} {unit}{left}", no_wrap=True, overflow="ellipsis")
        if live is None:
            console.print(text)
        else:
            live.update(text)

    if live is not None and not quiet:
        live.start()
    try:
        yield told
    finally:
        if live is not None and not quiet:
            live.stop()


def measured(line: Mapping[str, Any]) -> str:
    """Return one measurement in words: KL spent, entropy, lengths, scores."""
    parts: list[str] = []
    if line.get("kl_start") is not None:
        parts.append(f"KL {with_error(line['kl_start'], line.get('kl_start_se'))}")
    parts.append(f"{line['tokens']:.0f} tokens")
    if line["cut_share"] > 0:
        parts.append(f"{line['cut_share']:.0%} cut")
    parts += [
        f"{name[7:]} {with_error(value, line.get('scores_se/' + name[7:]))}"
        for name, value in line.items()
        if name.startswith("scores/")
    ]
    return f"{'samples':>9}  " + "; ".join(parts)


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
