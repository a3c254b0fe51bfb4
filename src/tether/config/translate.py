"""Any trainer's config as ours: who wrote it, what each key becomes, what has no counterpart."""

from collections.abc import Mapping
from typing import Any

from tether.config import axolotl, llama_factory, trl
from tether.config.foreign import Rule, Translated, apply, is_ours
from tether.errors import UsageError

TOOLS: dict[str, tuple[Mapping[str, Rule], Mapping[str, Any]]] = {
    "trl": (trl.RULES, {}),
    "axolotl": (axolotl.RULES, axolotl.DEFAULTS),
    "llama-factory": (llama_factory.RULES, llama_factory.DEFAULTS),
}
"""Tool -> its rules, and its defaults where ours are others."""

_AXOLOTL = ("base_model", "micro_batch_size", "sequence_len", "rl", "num_epochs")
_LLAMA_FACTORY = (
    "stage",
    "finetuning_type",
    "cutoff_len",
    "pref_beta",
    "pref_loss",
    "lora_rank",
    "lora_target",
)


def tool_of(values: Mapping[str, Any]) -> str:
    """Return whose config this is: by the keys only one tool has, else TRL's (whose names are ours)."""
    if any(key in values for key in _AXOLOTL):
        return "axolotl"
    return "llama-factory" if any(key in values for key in _LLAMA_FACTORY) else "trl"


def translate(values: Mapping[str, Any], tool: str | None = None) -> Translated:
    """Return a config in our keys, with a line for every key that is not ours.

    Raises:
        UsageError: no such tool.

    """
    if all(is_ours(key) for key in values) and tool in (None, "trl") and "dataset_name" not in values:
        return Translated("tether", dict(values))
    name = tool or tool_of(values)
    if name not in TOOLS:
        raise UsageError(f"--from: {name!r} is not known; use {', '.join(TOOLS)}")
    rules, defaults = TOOLS[name]
    # dataset_name is ours and TRL's: there it may need splits, so its rule stays.
    own = {key: rule for key, rule in rules.items() if not is_ours(key) or key in _READ_ANYWAY}
    made = apply(name, own, {**values, **{k: v for k, v in defaults.items() if values.get(k) is None}})
    for key, value in defaults.items():
        if values.get(key) is None:
            made.renamed = [
                f"{line} ({name}'s default)" if line.startswith(f"{key}: {value} ") else line
                for line in made.renamed
            ]
    foreign = bool(made.renamed or made.ignored or made.refused) or name != "trl"
    if not foreign:
        made.tool = "tether"
    return made


_READ_ANYWAY = (
    "model_name_or_path",
    "attn_implementation",
    "lora_target_modules",
    "dataset_name",
    "bf16",
    "gradient_checkpointing",
    "report_to",
)
"""Keys of ours whose values other tools spell otherwise."""


def in_our_keys(values: Mapping[str, Any], source: str) -> Translated:
    """Return what `tether train` reads of a config file.

    Raises:
        UsageError: a key has no counterpart; names the first ones.

    """
    made = translate(values)
    if made.refused:
        more = f"; and {len(made.refused) - 3} more" if len(made.refused) > 3 else ""
        raise UsageError(
            f"{source}: a {made.tool} config with keys that have no counterpart: "
            f"{'; '.join(made.refused[:3])}{more} (tether config convert lists them all)"
        )
    return made
