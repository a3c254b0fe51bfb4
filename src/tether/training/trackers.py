"""Trackers a run may report to, each an optional package; `metrics.jsonl` stays the truth.

Every line of metrics goes to each tracker named in `report_to`, under its own name, at its step. A tracker
that fails while a run runs is told of once and left; training goes on.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tether.errors import UsageError

Values = Mapping[str, float]


class Tracker(Protocol):
    """Where numbers of a run go beside its own file."""

    def write(self, values: Values, step: int) -> None:
        """Take the numbers of one step."""
        ...

    def close(self) -> None:
        """Finish."""
        ...


class _Tensorboard:
    def __init__(self, package: Any, run: "TrackedRun") -> None:
        self._writer: Any = package.SummaryWriter(log_dir=str(run.folder / "tensorboard"))

    def write(self, values: Values, step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Logged:
    """Trackio and Weights & Biases: the same three calls."""

    def __init__(self, package: Any, run: "TrackedRun", **more: Any) -> None:
        self._package = package
        package.init(project=run.project, name=run.name, config=dict(run.config), **more)

    def write(self, values: Values, step: int) -> None:
        self._package.log(dict(values), step=step)

    def close(self) -> None:
        self._package.finish()


class _Mlflow:
    def __init__(self, package: Any, run: "TrackedRun") -> None:
        self._package = package
        package.set_experiment(run.project)
        package.start_run(run_name=run.name)
        # mlflow takes text of at most 500 characters a value.
        package.log_params({name: str(value)[:500] for name, value in run.config.items()})

    def write(self, values: Values, step: int) -> None:
        self._package.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._package.end_run()


class TrackedRun:
    """What a tracker is told of a run: its project, name, folder and config."""

    def __init__(self, project: str, name: str, folder: Path, config: Mapping[str, Any], run_id: str) -> None:
        self.project, self.name, self.folder, self.config, self.run_id = project, name, folder, config, run_id


def _wandb(package: Any, run: TrackedRun) -> Tracker:
    # The run's own id: a resumed run goes on in the same place.
    return _Logged(package, run, id=run.run_id, resume="allow", dir=str(run.folder))


_OPEN: dict[str, tuple[str, Callable[[Any, TrackedRun], Tracker]]] = {
    "tensorboard": ("torch.utils.tensorboard", _Tensorboard),
    "trackio": ("trackio", _Logged),
    "wandb": ("wandb", _wandb),
    "mlflow": ("mlflow", _Mlflow),
}


class Trackers:
    """All trackers of a run; none where none is named."""

    def __init__(
        self, open_ones: Mapping[str, Tracker] | None = None, note: Callable[[str], None] | None = None
    ) -> None:
        self._open, self._note = dict(open_ones or {}), note or (lambda text: None)

    def write(self, line: Mapping[str, Any]) -> None:
        """Send a line of metrics; a tracker that fails is left, and said so once."""
        skipped = ("step", "epoch", "phase")
        values = {k: float(v) for k, v in line.items() if k not in skipped and isinstance(v, int | float)}
        prefix = "measure/" if line["phase"] == "measure" else ""
        named = {prefix + name: value for name, value in values.items()}
        for name, tracker in list(self._open.items()):
            self._try(
                name, lambda tracker=tracker: tracker.write({**named, "epoch": line["epoch"]}, line["step"])
            )

    def close(self) -> None:
        """Finish all of them."""
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.close)

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a tracker raises, the run is worth more
            del self._open[name]
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._note(f"report_to {name} failed and is left: {said}; metrics.jsonl has everything")


def require_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that is not installed, before anything is loaded.

    Raises:
        UsageError: names the package and how to get it.

    """
    for name in names:
        try:
            importlib.import_module(_OPEN[name][0])
        except ImportError as error:
            raise UsageError(
                f"report_to {name}: the package is not installed; pip install 'tether[{name}]'"
            ) from error


def open_trackers(names: Sequence[str], run: TrackedRun, note: Callable[[str], None]) -> Trackers:
    """Open every tracker named.

    Raises:
        UsageError: one is not installed, or refuses to start.

    """
    require_trackers(names)
    found: dict[str, Tracker] = {}
    for name in names:
        module, make = _OPEN[name]
        try:
            found[name] = make(importlib.import_module(module), run)
        except Exception as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(f"report_to {name}: it does not start: {said}") from error
    return Trackers(found, note)
