"""The model card: `model/README.md` of a run, in Hugging Face's form, filled with the run's own numbers."""

import re
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup, escape

from tether.errors import RunFolderError
from tether.records.results import write_text
from tether.reports.contents import RunContents, mapping, read_contents
from tether.reports.explain import beta_of
from tether.reports.notices import notices_of
from tether.reports.sections import findings_table, measurement_table, model_name
from tether.reports.tables import count, flattened, number, percent, plain, with_error
from tether.reports.templating import environment
from tether.reports.verbatim import visible_controls
from tether.reports.verdict import Verdict, gain_interval_text, verdict_of

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SPECIAL = re.compile(r"([\\`*_\[\]|~$])")
"""Characters that mean something inside a Markdown line; `<`, `>` and `&` become entities."""
ABSOLUTE = re.compile(r"(?<![\w.:/)~-])/(?:[^\s/'\"]+/)+([^\s/'\"]+)")
"""A path of this machine inside a sentence; the card keeps its last part."""


def write_card(run: Path) -> Path:
    """Write the card of a run's model and return its path.

    Raises:
        RunFolderError: there is no run, or it has no `model/` yet.

    """
    contents = read_contents(run)
    folder = run / "model"
    if not folder.is_dir():
        raise RunFolderError(
            f"{run}: no model/ here ({contents.record.status} at update {contents.record.steps}); "
            "the card is written once the run has saved its model"
        )
    path = folder / "README.md"
    write_text(path, card_text(contents, adapter=(folder / "adapter_config.json").is_file()))
    return path


def card_text(contents: RunContents, *, adapter: bool) -> str:
    """Return the card as Markdown with YAML front matter; text of files and models is escaped."""
    template = environment(_as_text, {"code": code, "fenced": fenced}).get_template("card.md.jinja")
    verdict, record = verdict_of(contents), contents.record
    return template.render(
        front=Markup(
            yaml.safe_dump(front_matter(contents, adapter=adapter), sort_keys=False, allow_unicode=False)
        ),
        name=model_name(contents),
        base=base_model(contents),
        base_is_local=not on_hub(contents),
        adapter=adapter,
        verdict=verdict,
        beta=number(beta_of(contents)) if beta_of(contents) is not None else None,
        objective={key: plain(value) for key, value in record.objective.items()},
        reference={key: plain(value) for key, value in record.reference.items() if key != "identity"},
        identity=flattened(mapping(record.reference.get("identity"))),
        results=results_rows(verdict),
        kl=kl_sentence(contents),
        measured=measurement_table(contents),
        files=data_files(contents),
        rows=contents.rows,
        findings=findings_table(contents.findings),
        warnings=[notice.text for notice in notices_of(contents)],
        config=shareable(contents.config_text),
        versions=", ".join(f"{key} {value}" for key, value in record.versions.items()),
        record=record,
    )


def front_matter(contents: RunContents, *, adapter: bool) -> dict[str, Any]:
    """Return the card's metadata; a local base model or data file is named without its folder."""
    record = contents.record
    objectives = [name for name in str(record.objective.get("name") or "").split(" + ") if name]
    tags = ["tether", "preference-optimization", *(_tag(name) for name in objectives)]
    if "sigmoid" in objectives:
        tags += ["dpo", "arxiv:2305.18290"]
    if adapter:
        tags.append("lora")
    return {
        "base_model": base_model(contents)
        if on_hub(contents)
        else _tag(base_model(contents)).replace("/", "-"),
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": tags,
        "datasets": sorted({_tag(Path(name).name) for name in data_files(contents)}),
    }


def on_hub(contents: RunContents) -> bool:
    """Tell whether the start model was named as `owner/name` and is no folder of this machine."""
    path = str(contents.record.model.get("path") or "")
    return bool(HUB_ID.fullmatch(path)) and not Path(path).exists()


def base_model(contents: RunContents) -> str:
    """Return the start model's name: `owner/name`, or the last part of a local path."""
    return str(contents.record.model["path"]) if on_hub(contents) else model_name(contents)


def data_files(contents: RunContents) -> list[str]:
    """Return the names of the training files, folders left out."""
    return [Path(str(file.get("path") or "")).name for file in contents.files if file.get("split") != "eval"]


def shareable(config: str) -> str:
    """Return config.yaml with the folders of absolute paths left out, as a comment on top says."""
    try:
        options = yaml.safe_load(config)
    except yaml.YAMLError:
        return ""
    if not isinstance(options, dict):
        return ""
    kept = {key: _without_folder(value) for key, value in options.items()}
    text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
    return text if kept == options else f"# folders of this machine are left out of paths\n{text}"


def _without_folder(value: Any) -> Any:
    local = isinstance(value, str) and value.startswith(("/", "~"))
    return Path(value).name if local else value


def results_rows(verdict: Verdict) -> list[tuple[str, str, str, str]]:
    """Return held-out results: what, before, after, 95 % interval (and of what)."""
    rows: list[tuple[str, str, str, str]] = []
    gain, held = verdict.gain, verdict.held_out
    if gain is not None:
        interval = (
            f"gain {gain_interval_text(gain)}{' (paired)' if gain.paired else ''}" if gain.known else "–"
        )
        before, after = number(gain.before, gain.decimals), number(gain.after, gain.decimals)
        rows.append((f"{gain.name}, {count(gain.interval.n)} prompts", before, after, interval))
    if held.loss_after is not None:
        reach = 1.96 * held.loss_se if held.loss_se else None
        low = number(held.loss_after - reach, 3) if reach else ""
        interval = f"{low} to {number(held.loss_after + reach, 3)}" if reach else "not recorded"
        rows.append(
            (_over("loss", held.pairs), number(held.loss_before, 3), number(held.loss_after, 3), interval)
        )
    if held.accuracy_after is not None:
        bounds = held.accuracy_interval
        interval = f"{percent(bounds[0])} to {percent(bounds[1])}" if bounds else "–"
        name = _over("accuracy of the implicit reward", held.pairs)
        rows.append((name, percent(held.accuracy_before), percent(held.accuracy_after), interval))
    return rows


def kl_sentence(contents: RunContents) -> str:
    """Return what the run spent in KL, with its standard error, or that it was not measured."""
    end = contents.end
    if end is None or end.kl_start is None:
        return "KL from the start model was not measured."
    return (
        f"KL from the start model: {with_error(end.kl_start, end.kl_start_se)} nats per answer "
        f"(± one standard error, {count(end.samples)} samples of {count(end.prompts)} held-out prompts, "
        "temperature 1)."
    )


def code(text: str) -> Markup:
    """Return text as Markdown inline code; backticks inside become quotes, so that it cannot end early."""
    return Markup("`{}`").format(Markup(_one_line(text).replace("`", "'")))


def fenced(text: str, language: str = "") -> Markup:
    """Return text as a fenced code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}{language}\n{visible_controls(text.rstrip())}\n{fence}")


def _as_text(value: Any) -> Any:
    """Escape every plain value for Markdown and HTML: it can become neither markup, link nor table cell."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return Markup(SPECIAL.sub(r"\\\1", str(escape(_one_line(value)))))


def _one_line(text: str) -> str:
    return ABSOLUTE.sub(r"\1", visible_controls(" ".join(text.split())))


def _over(name: str, pairs: int | None) -> str:
    return f"{name}, {count(pairs)} held-out rows" if pairs else name


def _tag(text: str) -> str:
    return re.sub(r"[^\w./+-]+", "-", text).strip("-") or "model"
