"""YAML and command-line values -> a frozen config; every refusal is one line that names the key."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tether.errors import UsageError

Config = TypeVar("Config", bound=BaseModel)


MAX_YAML_BYTES, MAX_YAML_VALUES = 1 << 20, 10_000
"""A config is neither larger nor, its aliases written out, longer."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML without tags that build objects, and without keys given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put merged mappings (`<<: [*a, *a]`) in place, as long as they do not grow like a bomb."""
        count = 0
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                continue
            for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(part, yaml.MappingNode):
                    self.flatten_mapping(part)
                    count += len(part.value)
                if count > MAX_YAML_VALUES:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"more than {MAX_YAML_VALUES} values are merged", node.start_mark
                    )
        super().flatten_mapping(node)


# YAML 1.1 reads 1e-5 as text because it lacks a dot; people write learning rates that way.
_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UsageError: the file is missing, is no mapping, holds a tag, gives a key twice, or is larger than a
            config can be: by itself, by its depth, or by aliases that repeat one another.

    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_YAML_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    if len(data) > MAX_YAML_BYTES:
        raise UsageError(f"{path}: larger than {MAX_YAML_BYTES >> 20} MiB; that is no config")
    try:
        document = yaml.load(data.decode("utf-8"), Loader=_UniqueKeyLoader)
    except RecursionError as error:
        raise UsageError(f"{path}: nested too deeply; that is no config") from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        # PyYAML raises TypeError for a list as a key, ValueError for a date that is none.
        reason = " ".join(str(error).split()).replace('in "<unicode string>", ', "in ")
        raise UsageError(f"{path}: not readable as YAML: {reason}") from error
    if _values(document, MAX_YAML_VALUES) > MAX_YAML_VALUES:
        raise UsageError(
            f"{path}: its aliases stand for more than {MAX_YAML_VALUES} values; write them out, or fewer"
        )
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise UsageError(
            f"{path}: a config is a mapping of keys to values, found a {type(document).__name__}"
        )
    return {str(key): value for key, value in document.items()}


def _values(document: Any, limit: int) -> int:
    """Count the values of a document with its aliases written out, up to a little more than `limit`."""
    stack, count = [document], 0
    while stack and count <= limit:
        value = stack.pop()
        count += 1
        if isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return count


def build(
    model: type[Config],
    values: Mapping[str, Any],
    *,
    overrides: Mapping[str, Any] | None = None,
    aliases: Mapping[str, str] | None = None,
    source: str = "options",
) -> Config:
    """Build a config from a file's values and the command line's, the latter winning.

    Raises:
        UsageError: an unknown key (with the nearest name), a missing one, or a value out of range.

    """
    merged = _canonical(model, values, aliases or {}, source)
    merged |= _canonical(model, overrides or {}, aliases or {}, "options")
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        raise UsageError(one_line(error.errors(), source)) from error


def _canonical(
    model: type[BaseModel], values: Mapping[str, Any], aliases: Mapping[str, str], source: str
) -> dict[str, Any]:
    known = set(model.model_fields)
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        name = name if name in known else aliases.get(name, name)
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *aliases], n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"{source}: unknown key {key!r}{hint}")
        if name in result:
            raise UsageError(f"{source}: {name} is given twice (also as {key!r})")
        result[name] = value
    return result


def one_line(errors: Iterable[ErrorDetails], source: str) -> str:
    """Return what pydantic found as one line that names each key and the value given."""
    parts: list[str] = []
    for item in errors:
        name = ".".join(str(part) for part in item["loc"]) or "config"
        text = item["msg"].removeprefix("Value error, ")
        given = "" if item["type"] in ("missing", "value_error") else f", got {item['input']!r}"
        parts.append(f"{name}: {text[:1].lower()}{text[1:]}{given}")
    return f"{source}: " + "; ".join(parts)
