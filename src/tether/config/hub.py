"""Models of the Hugging Face hub: `owner/name[@revision]` -> a commit, and the folder its files lie in.

A branch may move, so a name is pinned to a commit once, where a command begins; from there on every part of
the program, every other process and every later resume reads exactly that commit, from the cache if it is
there. Names of folders pass unchanged: they come first. Pickled weights are never fetched.
"""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import is_offline_mode, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from tether.config.sources import ModelName, model_name
from tether.errors import ModelError

TEXTS = ("*.json", "*.txt", "*.model", "*.jinja")
"""Config, tokenizer and template of a model."""
WEIGHTS = ("model*.safetensors", "adapter_model.safetensors")
ELSEWHERE = ("*/*",)
"""Copies in other formats lie in folders of their own."""


def model_folder(name: str | Path, *, weights: bool = False) -> Path:
    """Return the folder of a model: a path as it is, a model of the hub fetched, with `weights` or not.

    Raises:
        ModelError: the hub does not have it, or cannot be reached and the cache has not got it all.

    """
    found = model_name(str(name))
    return Path(name).expanduser() if found is None else _fetched(found, weights=weights)


def folder_at_hand(name: str, revision: str | None = None) -> Path | None:
    """Return the folder of a model as far as it is on this machine: nothing is fetched."""
    if Path(name).is_dir():
        return Path(name)
    found = model_name(f"{name}@{revision}" if revision else name)
    if found is None:
        return None
    try:
        return Path(_snapshot(found, weights=True, here=True))
    except (OSError, ValueError):  # what the hub's library raises where the cache has not got it all
        return None


def pinned(name: str, *, weights: bool = False) -> str:
    """Return a model's name with the commit it stands for now, fetched; a path as it is.

    Raises:
        ModelError: see `model_folder`.

    """
    found = model_name(name)
    if found is None:
        return name
    # A snapshot's folder is called after its commit.
    return str(ModelName(found.name, _fetched(found, weights=weights).name))


def published_as(folder: str | Path) -> str | None:
    """Return the pinned name of a snapshot folder of the hub's cache, or None for any other folder."""
    path = Path(folder)
    if path.parent.name != "snapshots" or not path.parents[1].name.startswith("models--"):
        return None
    name = path.parents[1].name.removeprefix("models--").replace("--", "/", 1)
    return str(ModelName(name, path.name))


class Pins:
    """The names of one command, each pinned once; `known` are those an earlier start of it pinned."""

    def __init__(self, known: Mapping[str, str] | None = None) -> None:
        self._known = dict(known or {})
        self.made: dict[str, str] = {}
        """Names as asked for -> as used, with the commit."""

    def model(self, name: str, *, weights: bool = True) -> str:
        """Return the pinned name of a model of the hub; a path as it is."""
        if model_name(name) is None:
            return name
        used = self._known.get(name) or self.made.get(name)
        used = pinned(name if used is None else used, weights=weights)
        self.made[name] = used
        return used

    def reference(self, name: str, *, weights: bool = True) -> str:
        """Return a reference with its model pinned (`model:NAME`); any other as it is."""
        kind, _, path = name.partition(":")
        return f"model:{self.model(path, weights=weights)}" if kind == "model" else name


def _fetched(found: ModelName, *, weights: bool) -> Path:
    try:
        folder = Path(_snapshot(found, weights=weights, here=False))
    except Exception as error:  # the library and the network raise whatever they like
        raise ModelError(f"{found}: {_why(found, error)}") from error
    if not any(folder.glob("*.json")):
        raise ModelError(f"{found}: holds no config.json; name a model or an adapter")
    if weights and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{found}: publishes no safetensors weights, and pickled ones are never read; "
            "convert them where you trust them, and name the folder"
        )
    return folder


def _snapshot(found: ModelName, *, weights: bool, here: bool) -> str:
    return snapshot_download(
        found.name,
        revision=found.revision,
        allow_patterns=[*TEXTS, *(WEIGHTS if weights else ())],
        ignore_patterns=list(ELSEWHERE),
        local_files_only=here,
    )


def _why(found: ModelName, error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        return f"gated: accept its terms at https://huggingface.co/{found.name} and log in with hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return f"the hub has no revision {found.revision!r} of this model"
    if isinstance(error, RepositoryNotFoundError):
        return "no folder here, and no model of the hub (or a private one: hf auth login)"
    reason = (str(error).strip().splitlines() or [""])[0][:160] or type(error).__name__
    revision = f" --revision {found.revision}" if found.revision else ""
    where = f"and the hub cannot be reached ({reason.rstrip('.')})"
    if is_offline_mode():
        where = "not (all of it) in the hub's cache, and HF_HUB_OFFLINE is set"
    fetch = f"hf download {found.name}{revision}"
    return f"no folder here, {where}; where there is a network run: {fetch}"
