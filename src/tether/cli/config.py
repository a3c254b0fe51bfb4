"""`tether config convert`: another trainer's config in our keys, and what has no counterpart."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from cyclopts import App, Parameter

from tether.cli.output import console, print_json, wrapped
from tether.config.aliases import TRAIN_ALIASES
from tether.config.foreign import Translated
from tether.config.parse import build, read_yaml
from tether.config.train import TrainConfig
from tether.config.translate import translate
from tether.errors import UsageError
from tether.records.results import write_text

app = App(name="config", help="Configs of other trainers.")


@app.command(name="convert")
def convert(
    config: Path,
    /,
    *,
    source: Annotated[Literal["trl", "axolotl", "llama-factory"] | None, Parameter(name="--from")] = None,
    out: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write another trainer's YAML in our keys; what has no counterpart is listed.

    Parameters
    ----------
    config
        Their YAML.
    source
        Whose it is; unset: seen by its keys.
    out
        YAML to write; unset: it is printed.
    overwrite
        Replace a file that exists.
    as_json
        Print one JSON document.
    quiet
        No lists.

    """
    if out is not None and out.exists() and not overwrite:
        raise UsageError(f"{out}: exists; give --overwrite to replace it, or name another file")
    made = translate(read_yaml(config), source)
    missing = _problem(made, config)
    text = _yaml(made, config, missing)
    if out is not None:
        write_text(out, text)
    if as_json:
        print_json(_document(made, out, missing))
        return 0
    if out is None:
        console().print(text, end="")
    if not quiet:
        _print(made, missing)
    return 0


def _problem(made: Translated, config: Path) -> str | None:
    """Return why the result does not run as it is, or None."""
    try:
        build(TrainConfig, made.values, aliases=TRAIN_ALIASES, source=str(config))
    except UsageError as error:
        return str(error).removeprefix(f"{config}: ")
    return None


def _yaml(made: Translated, config: Path, missing: str | None) -> str:
    lines = [f"# {config.name}, a config of {made.tool}"]
    lines += [f"# no counterpart: {line}" for line in made.refused]
    lines += [f"# to be mended: {missing}"] if missing else []
    return "\n".join(lines) + "\n" + yaml.safe_dump(made.values, sort_keys=False, allow_unicode=True)


def _document(made: Translated, out: Path | None, missing: str | None) -> dict[str, Any]:
    return {
        "tool": made.tool,
        "out": None if out is None else str(out),
        "values": made.values,
        "renamed": made.renamed,
        "ignored": made.ignored,
        "no_counterpart": made.refused,
        "to_mend": missing,
    }


def _print(made: Translated, missing: str | None) -> None:
    said = console(stderr=True)
    for title, lines in (
        ("read as", made.renamed),
        ("changes nothing here", made.ignored),
        ("no counterpart", made.refused),
    ):
        if lines:
            said.print(f"{title}:")
        for line in lines:
            said.print(wrapped(line, "  "), soft_wrap=True)
    if missing:
        said.print(wrapped(f"to be mended before it runs: {missing}"), soft_wrap=True)
