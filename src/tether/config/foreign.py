"""Configs of other trainers: their keys as ours, what changes nothing here, and what has no counterpart.

Each tool has a table (`trl`, `axolotl`, `llama_factory`): key -> what becomes of it. Keys of `TrainConfig` go
past it, so that a key we learn to honour stops being refused by itself.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from tether.config.aliases import TRAIN_ALIASES
from tether.config.train import TrainConfig

Value = Any
Values = Mapping[str, Any]


class NoCounterpart(ValueError):
    """A key, or this value of it, cannot be honoured; the message says why and what to do.

    `honoured` is what a part of the value becomes nevertheless.
    """

    def __init__(self, why: str, honoured: Values | None = None) -> None:
        super().__init__(why)
        self.honoured = honoured or {}


Rule = Callable[[Any, Values], Mapping[str, Any] | str]
"""(value, all values) -> our keys, or a sentence on why the key changes nothing here.

Raises `NoCounterpart` where it cannot be honoured.
"""


@dataclass
class Translated:
    """A config in our keys, and a line for every key that was read as another, left out or refused."""

    tool: str
    """trl, axolotl, llama-factory; `tether` where every key is ours."""
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    renamed: list[str] = field(default_factory=list[str])
    """`rl_beta: 0.1 is read as beta: 0.1`."""
    ignored: list[str] = field(default_factory=list[str])
    """Keys that change nothing here, and why."""
    refused: list[str] = field(default_factory=list[str])
    """Keys without a counterpart, and what to do."""


def is_ours(key: str) -> bool:
    """Tell whether `TrainConfig` knows a key, under its name or an alias of ours."""
    name = key.replace("-", "_")
    return name in TrainConfig.model_fields or name in TRAIN_ALIASES


def _may_be_none(key: str) -> bool:
    name = key.replace("-", "_")
    field = TrainConfig.model_fields.get(TRAIN_ALIASES.get(name, name))
    return field is None or type(None) in get_args(field.annotation)


def read_as(name: str) -> Rule:
    """Return the rule of a key that is ours under another name."""
    return lambda value, values: {name: value}


def no_effect(why: str) -> Rule:
    """Return the rule of a key that changes nothing here."""
    return lambda value, values: why


def only(*allowed: Any, why: str) -> Rule:
    """Return the rule of a key of which only some values can be honoured."""

    def rule(value: Any, values: Values) -> str:
        if value in allowed:
            return "is what happens anyway"
        raise NoCounterpart(why)

    return rule


def no_effects(why: str, *keys: str) -> dict[str, Rule]:
    """Return the rules of keys that change nothing here, all for one reason."""
    return {key: no_effect(why) for key in keys}


def only_unset(why: str, *keys: str) -> dict[str, Rule]:
    """Return the rules of keys that may be there as long as they switch nothing on."""
    return {key: only(False, 0, "", [], {}, "no", "none", why=why) for key in keys}


def apply(tool: str, rules: Mapping[str, Rule], values: Values) -> Translated:
    """Translate every key by its rule; keys that are ours pass.

    A key set to nothing (`lora_model_dir:`) is left out. Unknown ones are left for the config to name where
    the tool's names are ours; of other tools they have no counterpart, unless they switch nothing on.
    """
    made = Translated(tool)
    for key, value in values.items():
        rule = rules.get(key)
        if value is None and (rule is not None or not _may_be_none(key)):
            continue
        if rule is None and (tool == "trl" or is_ours(key)):
            _put(made, {key: value}, key)
            continue
        rule = rule or only(False, "", [], {}, why=_unknown(key, rules))
        try:
            outcome = rule(value, values)
        except NoCounterpart as problem:
            made.refused.append(f"{key}: {_shown(value)}: {problem}")
            _put(made, problem.honoured, key)
            continue
        except (TypeError, ValueError, AttributeError):  # a text where a number belongs, and the like
            made.refused.append(f"{key}: {_shown(value)}: this key cannot have such a value")
            continue
        if isinstance(outcome, str):
            made.ignored.append(f"{key}: {_shown(value)}: {outcome}")
            continue
        if outcome != {key: value}:
            read = ", ".join(f"{name}: {_shown(part)}" for name, part in outcome.items()) or "nothing to do"
            made.renamed.append(f"{key}: {_shown(value)} is read as {read}")
        _put(made, outcome, key)
    return made


def _unknown(key: str, rules: Mapping[str, Rule]) -> str:
    near = difflib.get_close_matches(key, [*rules, *TrainConfig.model_fields], n=1, cutoff=0.75)
    return "not known here" + (f"; did you mean {near[0]}?" if near else "; leave the key out")


def _put(made: Translated, found: Mapping[str, Any], key: str) -> None:
    for name, value in found.items():
        if name in made.values and made.values[name] != value:
            made.refused.append(
                f"{key}: {_shown(value)}: another key says {name}: {_shown(made.values[name])}"
            )
        made.values.setdefault(name, value)


def _shown(value: Any) -> str:
    text = "true" if value is True else "false" if value is False else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."
