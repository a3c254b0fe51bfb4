"""Answers of the models to compare: files as they are, model folders made to answer the same prompts."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from tether.config.generate import GenerateConfig
from tether.config.parse import build
from tether.errors import UsageError
from tether.generation.sample import generate
from tether.judging.options import Answering
from tether.judging.outputs import Outputs, read_outputs

Generated = Callable[[str, int, int], None]
"""Told (model, answers done, of how many)."""


def gather(
    sources: Sequence[Path],
    *,
    prompts: Path | None,
    folder: Path | None,
    answering: Answering,
    progress: Generated | None = None,
) -> tuple[list[Outputs], dict[str, str]]:
    """Return every source's answers, and the files written for model folders by model.

    An interrupted generation is continued; a file made from other prompts or options is refused.

    Raises:
        UsageError: a model folder without prompts to answer or a place for the answers.

    """
    found: list[Outputs] = []
    written: dict[str, str] = {}
    for source in sources:
        if source.is_file():
            found.append(read_outputs(source))
            continue
        if prompts is None or folder is None:
            raise UsageError(
                f"{source} is a model folder: name the prompts it answers (--prompts FILE) and a folder for "
                "what is written (--out DIR)"
            )
        out = folder / "answers" / f"{slug(source)}.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        options = asdict(answering)
        values = {
            "model": str(source),
            "prompts": str(prompts),
            "out": str(out),
            "seed": options.pop("answer_seed"),
            **options,
        }
        name = str(source)
        generate(
            build(GenerateConfig, values, source="compare"),
            None if progress is None else lambda done, total, *_, name=name: progress(name, done, total),
        )
        found.append(read_outputs(out))
        written[name] = str(out)
    return found, written


def slug(folder: Path) -> str:
    """Return a file name for a model folder: its last part, with the one above where it is just `model`."""
    parts = [part for part in folder.resolve().parts if part != folder.anchor]
    return "-".join(parts[-2:] if parts[-1:] == ["model"] else parts[-1:]) or "model"
