"""How rows and models are named: files and folders, or on the Hugging Face hub.

A data set there is `owner/name[@config]:split`, a model `owner/name[@revision]`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_ENTRY = ("path", "name", "split", "weight")
_HUB = re.compile(
    r"^(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<config>[\w.-]+))?(?::(?P<split>[\w.%\[\]:-]+))?$"
)
_MODEL = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?$")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE = re.compile(r"\.(jsonl|ndjson|json|csv|tsv|parquet)(\.gz)?$", re.IGNORECASE)


class HubName(NamedTuple):
    """A data set of the hub: `HuggingFaceH4/ultrafeedback_binarized:train_prefs`."""

    name: str
    config: str | None
    split: str

    def __str__(self) -> str:
        return with_split(self.name, self.config, self.split)


def hub_name(text: str) -> HubName | None:
    """Return the data set of the hub a text names, or None; only with a split, so that no typo is fetched."""
    found = _HUB.match(text)
    if found is None or found["split"] is None or Path(text).expanduser().exists():
        return None
    return HubName(found["name"], found["config"], found["split"])


class ModelName(NamedTuple):
    """A model of the hub: `Qwen/Qwen3-0.6B@main`; without a revision its main branch."""

    name: str
    revision: str | None

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


def model_name(text: str) -> ModelName | None:
    """Return the model of the hub a text names, or None: a path, or a folder here, which comes first.

    `runs/frist` beside a folder `runs` is a path too, so that no typo is looked up; with `@main` it is not.
    """
    found = _MODEL.match(text)
    if found is None or Path(text).exists():
        return None
    if found["revision"] is None and Path(text).parent.exists():
        return None
    return ModelName(found["name"], found["revision"])


def is_hub_name(text: str) -> bool:
    """Tell whether a name other trainers take is one of the hub, and no path: it exists nowhere here."""
    found = _HUB.match(text)
    return found is not None and not Path(text).expanduser().exists() and not _FILE.search(found["name"])


def with_split(name: str, config: str | None, split: str) -> str:
    """Return a hub name with its configuration and split."""
    return f"{name}{f'@{config}' if config else ''}:{split}"


def with_weights(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return config values with `dataset_name: [{path, weight, split, name}]` as names and weights.

    Raises:
        ValueError: an entry without a path, with another key, or weights given twice.

    """
    given = values.get("dataset_name")
    entries = [given] if isinstance(given, Mapping) else given
    if not isinstance(entries, list | tuple) or not any(isinstance(entry, Mapping) for entry in entries):
        return dict(values)
    names: list[str] = []
    weights: list[float] = []
    for entry in entries:
        found: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {"path": entry}
        unknown = [key for key in found if key not in _ENTRY]
        if unknown or not isinstance(found.get("path"), str):
            wrong = f"has the key {unknown[0]!r}" if unknown else "has no path"
            raise ValueError(f"dataset_name: an entry {wrong}; it takes {', '.join(_ENTRY)}")
        path, split = found["path"], found.get("split")
        hub = split is not None or found.get("name") is not None
        names.append(with_split(path, found.get("name"), split or "train") if hub else path)
        weights.append(found.get("weight", 1.0))
    if any(weight != 1.0 for weight in weights):
        if values.get("dataset_weights") is not None:
            raise ValueError("dataset_weights is given, and weights in dataset_name too; give one of them")
        return {**values, "dataset_name": names, "dataset_weights": weights}
    return {**values, "dataset_name": names}
