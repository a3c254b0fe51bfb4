"""Write docs/config.md from the config class: `python tools/config_page.py > docs/config.md`."""

import typing

from pydantic_core import PydanticUndefined

from tether.cli.train import GROUPS
from tether.config.aliases import TRAIN_ALIASES
from tether.config.train import TrainConfig


def page() -> str:
    """Return the page."""
    lines = [
        "# Config keys of `tether train`",
        "",
        "The same names in YAML and, with dashes, on the command line; TRL's and Hugging Face's where they",
        "have one. Options given on the command line win over the file. An unknown key is refused with the",
        "nearest name. This page is generated from `src/tether/config/`.",
        "",
        "Where tether differs from TRL: the tuned model is in `model/` under the run folder and checkpoints in",
        "`checkpoints/step-N` (a run folder holds more than weights; a checkpoint is not a model folder);",
        "`label_smoothing` works with `sigmoid` (cDPO); `lora_dropout` is 0 and dropout is off, so that policy",
        "and reference are exactly equal at step 0; batches count pairs.",
        "",
        "## Names of models",
        "",
        "Wherever a command takes a model, also in `reference: model:PATH`, it takes a folder, or a model of the",
        "Hugging Face hub: `owner/name`, or `owner/name@revision` with a branch, a tag or a commit.",
        "",
        "- A folder of that name here comes first. `runs/frist` beside a folder `runs` is taken for a misspelt",
        "  path and not looked up; `owner/name@main` is always of the hub.",
        "- A name is looked up once, where the command begins, and pinned to the commit it stands for then:",
        "  `run.json` (`hub`), `config.yaml`, the identity of a reference and an adapter's `adapter_config.json`",
        "  name that commit. A resumed run or study uses the same one, however the branch has moved; the",
        "  weights' own hash is checked as of any folder.",
        "- Fetched are `config.json` and its like, tokenizer and template; weights only by what reads them (not",
        "  by `--plan` or `tether check`), as safetensors. A model that publishes pickled weights only is",
        "  refused, and code that comes with a model is not fetched.",
        "- What is in the hub's cache needs no network (`HF_HUB_OFFLINE=1` forbids it altogether). Where neither",
        "  is there, one line says what to run: `hf download owner/name --revision R`. The base that an adapter",
        "  names is taken from the cache only.",
    ]
    for group in GROUPS:
        lines += ["", f"## {group}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
        for name, field in TrainConfig.model_fields.items():
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            if extra.get("group") != group:
                continue
            source = f" Source: {extra['source']}." if "source" in extra else ""
            default = "required" if field.default is PydanticUndefined else f"`{_shown(field.default)}`"
            text = f"{field.description}{source}".replace("|", "\\|")
            lines.append(f"| `{name}` | {_kind(field.annotation)} | {default} | {text} |")
    lines += ["", "## Other spellings accepted", "", "| spelling | key |", "|---|---|"]
    lines += [f"| `{alias}` | `{name}` |" for alias, name in TRAIN_ALIASES.items()]
    return "\n".join([*lines, ""])


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _kind(annotation: typing.Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        return "list"
    if hasattr(annotation, "__args__"):
        kinds = [_kind(part) for part in typing.get_args(annotation) if part is not type(None)]
        return "number" if "number" in kinds else ", ".join(dict.fromkeys(kinds))
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true/false"}.get(
        getattr(annotation, "__name__", ""), str(annotation)
    )


if __name__ == "__main__":
    print(page(), end="")
