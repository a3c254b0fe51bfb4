"""Judges as users name them: `length`, `local:MODEL`, `server:URL#MODEL`, `alpacaeval:FOLDER@URL`..."""

import importlib

from tether.config.hub import model_folder, pinned
from tether.errors import UsageError
from tether.judging.judges import FORMS, EvaluatorJudge, Judge, LengthJudge, RandomJudge
from tether.judging.local import LocalJudge
from tether.judging.options import Asking
from tether.judging.reward import RewardJudge
from tether.worlds import load_world


def judge_named(spec: str, asking: Asking | None = None) -> Judge:
    """Return the judge a user named.

    Raises:
        UsageError: no judge of this form, or the openai client is not installed.
        ModelError, DataError: its model or folder is refused.

    """
    asking = asking or Asking()
    kind, _, rest = spec.partition(":")
    if spec == "length":
        return LengthJudge()
    if spec == "random":
        return RandomJudge(asking.judge_seed)
    if rest and kind == "world":
        world = load_world(rest)
        return EvaluatorJudge(spec, world.evaluator(), f"world:{world.name}:{world.version}")
    if rest and kind == "local":
        return LocalJudge(rest, device=asking.device)
    if rest and kind == "reward":
        return RewardJudge(rest, device=asking.device)
    if rest and kind in ("server", "alpacaeval"):
        return _behind_a_server(kind, rest, asking)
    raise UsageError(f"judge {spec!r} is not known; there are {FORMS}")


def check_judge(spec: str) -> None:
    """Refuse a judge that is not to be had, before anything waits for it; no model is loaded.

    Raises:
        UsageError, ModelError, DataError: as `judge_named`.

    """
    kind, _, rest = spec.partition(":")
    if rest and kind in ("local", "reward"):
        model_folder(pinned(rest, weights=True), weights=True)
    else:
        judge_named(spec)


def _behind_a_server(kind: str, rest: str, asking: Asking) -> Judge:
    try:
        # By name, because the openai client is an extra that only these judges need, and slow to import.
        hosted = importlib.import_module("tether.judging.hosted")
    except ImportError as error:
        raise UsageError(f"judge {kind}: needs the openai client: pip install 'tether[judge]'") from error
    return hosted.hosted_judge(kind, rest, asking)
