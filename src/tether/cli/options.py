"""A config class as command-line options: one per key, grouped, with its default, none of them set."""

import inspect
import re
import textwrap
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from cyclopts import Group, Parameter
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

FIRST_SENTENCE = re.compile(r"(?<=[^.])[.;:] ")


def with_options(
    model: type[BaseModel], groups: list[str], aliases: Mapping[str, str]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command `(..., **options)` one keyword option per key of `model`.

    Options the user did not give stay out of `options`, so that a YAML file can hold them; the default shown
    is the config's own. Ranges are checked by the config, which names the key.
    """
    sections = {name: Group(name, sort_key=10 + index) for index, name in enumerate(groups)}
    names: dict[str, list[str]] = {}
    for alias, name in aliases.items():
        names.setdefault(name, []).append("--" + alias.replace("_", "-"))

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
        added = [
            _option(name, field, sections, names.get(name, []))
            for name, field in model.model_fields.items()
            if not _extra(field).get("yaml_only")
        ]

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return command(*args, **{key: value for key, value in kwargs.items() if value is not None})

        wrapper.__doc__ = command.__doc__
        wrapper.__name__ = command.__name__
        setattr(wrapper, "__signature__", inspect.Signature([*own, *added]))  # noqa: B010
        wrapper.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return wrapper

    return decorate


def help_lines(model: type[BaseModel], groups: list[str], width: int = 79) -> list[str]:
    """Return one line per option with its default, by group: the first sentence of its description."""
    lines: list[str] = []
    for group in groups:
        lines += ["", group]
        for name, field in model.model_fields.items():
            if _extra(field).get("group") != group or _extra(field).get("yaml_only"):
                continue
            text = FIRST_SENTENCE.split(field.description or "")[0].rstrip(".").replace("`", "")
            required = field.default is PydanticUndefined
            if required or field.default is not None:
                text += " [required]" if required else f" [{_shown(field.default)}]"
            lines += textwrap.wrap(
                text,
                width,
                initial_indent=f"  --{name.replace('_', '-'):<28} ",
                subsequent_indent=" " * 33,
            )
    return lines


def _option(
    name: str, field: FieldInfo, sections: Mapping[str, Group], aliases: list[str]
) -> inspect.Parameter:
    group = sections.get(str(_extra(field).get("group")))
    text = (field.description or "").replace("`", "")
    if field.default is not PydanticUndefined and field.default is not None:
        text = f"{text} [{_shown(field.default)}]"
    elif field.default is PydanticUndefined:
        text = f"{text} [required]"
    kind = list[str] if _extra(field).get("commas") else _plain(field.annotation)
    is_flag = kind is bool
    annotation = Annotated[
        kind | None,
        Parameter(
            name=[*aliases, "--" + name.replace("_", "-")] if aliases else "--" + name.replace("_", "-"),
            help=text,
            group=group,
            show_default=False,
            show_choices=False,
            negative=None if is_flag else "",
            consume_multiple=_is_list(kind),
        ),
    ]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _extra(field: FieldInfo) -> Mapping[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(str(item) for item in value) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is list


def _plain(annotation: Any) -> Any:
    """Return the type the command line reads: unions without None, tuples as lists, literals as text."""
    if get_origin(annotation) in (Union, types.UnionType):
        options = [_plain(part) for part in get_args(annotation) if part is not types.NoneType]
        lists = [part for part in options if _is_list(part)]
        return lists[0] if lists else float if float in options else options[0]
    if get_origin(annotation) is tuple:
        return list[_plain(get_args(annotation)[0])]
    return str if get_origin(annotation) not in (None, list) else annotation
