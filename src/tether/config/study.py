"""Every knob of `tether study` beside those of `tether train`: the grid, what is measured, how it is run."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from tether.config.aliases import TRAIN_ALIASES
from tether.config.generate import FURTHEST
from tether.config.parse import build, one_line
from tether.config.train import TrainConfig, knob
from tether.errors import UsageError

FACTORS = ("loss_type", "reference", "beta", "learning_rate", "seed", "data_fraction", "labels")
"""Keys of `tether train` that take a list in a study; a cell is one value of each."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "refdpo-1": {"loss_type": ["sigmoid"], "reference": ["self"], "beta": [0.1, 0.05, 0.02, 0.01, 0.005]},
    "refdpo-2": {
        "loss_type": ["sigmoid"],
        "reference": ["self", "none", "prior"],
        "beta": [100, 10, 1, 0.1, 0.05, 0.02, 0.01, 0.005],
        "exclude": [{"reference": ["self", "prior"], "beta": [100, 10, 1]}],
    },
    "refdpo-3": {"loss_type": ["sigmoid"], "beta": [10, 1, 0.1, 0.01, 0.005]},
    "quick": {"beta": [1, 0.1, 0.01], "num_train_epochs": 1, "measured_prompts": 32},
}
"""RefDPO (arXiv 2407.13709): tables 1, 3 and 5. The grid of table 3 is not published: ours."""

REFDPO = {"learning_rate": [5e-7], "num_train_epochs": 3, "train_batch_size": 32, "warmup_ratio": 0.1}
"""The paper's training settings (section 3), used by its presets."""


SCORERS = 3
"""Fewest scorers of cross-fitting: with fewer nobody sees what their beta matters."""

YAML_ONLY: Any = {"group": "Grid", "yaml_only": True}


def factor(text: str, default: Any) -> Any:
    """Declare a factor: a list, written with commas on the command line."""
    return Field(default, description=text, json_schema_extra={"group": "Grid", "commas": True})


class StudyConfig(BaseModel):
    """A study: the values of every factor, what every cell has in common, and what is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    output_dir: str = knob("Study", "Study folder: made, continued, or refused.")
    preset: str | None = knob("Grid", "refdpo-1, refdpo-2, refdpo-3 or quick; other keys win over it.", None)
    loss_type: tuple[str, ...] = factor("Objectives; a+b is a sum of two.", ("sigmoid",))
    reference: tuple[str, ...] = factor("self, none, prior, columns, model:PATH, artifact:PATH.", ("self",))
    beta: tuple[float, ...] = factor("How tight to hold.", (1.0, 0.3, 0.1, 0.03, 0.01))
    learning_rate: tuple[float, ...] = factor("Peak learning rates.", (1e-6,))
    seed: tuple[int, ...] = factor("Seeds of training; the split of the rows stays.", (0,))
    data_fraction: tuple[float, ...] = factor("Shares of the training prompts.", (1.0,))
    labels: tuple[Literal["given", "shuffled"], ...] = factor(
        "given, shuffled: also train on labels that are coins, a control.", ("given",)
    )
    exclude: tuple[dict[str, Any], ...] = Field(
        (), description="Combinations to leave out, as {factor: value or list}.", json_schema_extra=YAML_ONLY
    )
    add: tuple[dict[str, Any], ...] = Field(
        (),
        description="Further grids: {factor: values}, the rest as above. Written by tether study add.",
        json_schema_extra=YAML_ONLY,
    )
    measured_prompts: int = knob("Measured", "Held-out prompts every cell answers after training.", 64, gt=0)
    samples_per_prompt: int = knob("Measured", "Answers per prompt.", 1, gt=0)
    measure_seed: int = knob("Measured", "Of the answers; the same noise for every cell.", 0, ge=0)
    evaluators: tuple[str, ...] = knob("Measured", "Scores for samples: world:NAME. Alias: evaluator.", ())
    judge: str | None = knob("Measured", "Judge of win rates against the start model.", None)
    ches: bool = knob("Measured", "Also the CHES score of every held-out pair.", False)
    dial: tuple[float, ...] = Field(
        (),
        description="Dial values to measure on one cell. See dial_cells.",
        json_schema_extra={"group": "Measured", "commas": True},
    )
    dial_cells: tuple[str, ...] = knob(
        "Measured", "Cells to turn the dial on; unset: one of middle beta.", ()
    )
    cross_fit: tuple[float, ...] = Field(
        (),
        description="Betas of cross-fitting's scorers: the first scores, the others show what it matters.",
        json_schema_extra={"group": "Measured", "commas": True},
    )
    workers: int | None = knob("Study", "Cells at once; unset: from memory and cores.", None, gt=0)
    threads: int | None = knob("Study", "Threads per worker; unset: cores / workers.", None, gt=0)
    keep_checkpoints: bool = knob("Study", "Keep checkpoints of finished cells.", False)
    fixed: dict[str, Any] = Field(default_factory=dict)
    """Keys of `tether train` that are the same in every cell."""

    @field_validator(*FACTORS)
    @classmethod
    def _some_once(cls, value: tuple[Any, ...], info: Any) -> tuple[Any, ...]:
        if not value:
            raise ValueError("is empty; give at least one value")
        twice = next((v for i, v in enumerate(value) if v in value[:i]), None)
        if twice is not None:
            raise ValueError(f"names {twice!r} twice")
        return value

    @field_validator("exclude", "add")
    @classmethod
    def _of_factors(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        return of_factors(value)

    @field_validator("dial")
    @classmethod
    def _within_reach(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < len(value) or not all(-FURTHEST <= dial <= FURTHEST for dial in value):
            raise ValueError(f"is {list(value)}; give different values between {-FURTHEST} and {FURTHEST}")
        return value

    @field_validator("cross_fit")
    @classmethod
    def _scorers(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value and (min(value) <= 0 or len(set(value)) < max(len(value), SCORERS)):
            raise ValueError(
                f"is {list(value)}; give at least {SCORERS} different betas above 0: the first one scores, "
                "the others show how much its choice matters"
            )
        return value

    @model_validator(mode="after")
    def _several_references(self) -> Self:
        if self.preset == "refdpo-3" and self.reference == ("self",):
            raise ValueError("preset refdpo-3 asks which reference: name some: --reference self,model:PATH")
        return self


def as_list(value: Any) -> list[Any]:
    """Return one value or many as a list."""
    return list(value) if isinstance(value, list | tuple) else [value]


_ANNOTATED: Mapping[str, Any] = {name: StudyConfig.model_fields[name].annotation for name in FACTORS}
_VALUES: Mapping[str, TypeAdapter[Any]] = {name: TypeAdapter(_ANNOTATED[name]) for name in FACTORS}


def of_factors(entries: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Return grids as {factor: list of values}, in the order and of the types of the factors.

    Raises:
        ValueError: an entry is empty, names what is no factor, or has a value that cannot be one.

    """
    found: list[dict[str, Any]] = []
    for entry in entries:
        unknown = sorted(set(entry) - set(FACTORS))
        if unknown or not entry:
            raise ValueError(f"has {unknown[0] if unknown else 'an empty entry'}; name {', '.join(FACTORS)}")
        found.append({key: _typed(key, as_list(entry[key])) for key in FACTORS if key in entry})
    return tuple(found)


def _typed(key: str, values: list[Any]) -> list[Any]:
    try:
        return list(_VALUES[key].validate_python(values))
    except ValidationError as error:
        first = error.errors()[0]
        text = first["msg"][:1].lower() + first["msg"][1:]
        raise ValueError(f"has {key} {first['input']!r}: {text}") from error


SHARED_KEYS = frozenset({*FACTORS, "output_dir", "evaluators"})
TRAIN_KEYS = tuple(name for name in TrainConfig.model_fields if name not in SHARED_KEYS)
STUDY_KEYS = tuple(name for name in StudyConfig.model_fields if name != "fixed")
STUDY_ALIASES = {**TRAIN_ALIASES, "evaluator": "evaluators"}


_SHOWN: dict[str, Any] = {
    **{name: field for name, field in StudyConfig.model_fields.items() if name != "fixed"},
    **{name: TrainConfig.model_fields[name] for name in TRAIN_KEYS},
}
_MADE: Any = {name: (field.annotation, field) for name, field in _SHOWN.items()}
StudyOptions: type[BaseModel] = create_model("StudyOptions", **_MADE)
"""The keys of a study beside each other, as a YAML file and the command line give them; for help only."""


def build_study(
    values: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, *, source: str = "options"
) -> StudyConfig:
    """Build the config of a study from a file's values and the command line's, the latter winning.

    Raises:
        UsageError: an unknown key (with the nearest name), or a value out of range.

    """
    merged = _named(values, source) | _named(overrides or {}, "options")
    merged = _preset(merged, source)
    own = {key: value for key, value in merged.items() if key in STUDY_KEYS}
    for key in (*FACTORS, "evaluators", "dial", "dial_cells", "cross_fit"):
        if key in own:
            own[key] = split_commas(own[key])
    fixed = {key: value for key, value in merged.items() if key in TRAIN_KEYS}
    config = build(StudyConfig, {**own, "fixed": fixed}, source=source)
    _check_fixed(config, source)
    _check_factors(config, source)
    return config


def split_commas(value: Any) -> list[Any]:
    """Return a list as it is, and a text with commas as its parts."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return as_list(value)


def _named(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    known = {*STUDY_KEYS, *TRAIN_KEYS}
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        name = name if name in known else STUDY_ALIASES.get(name, name)
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *STUDY_ALIASES], n=1, cutoff=0.5)
            raise UsageError(
                f"{source}: unknown key {key!r}" + (f"; did you mean {near[0]}?" if near else "")
            )
        if name in result:
            raise UsageError(f"{source}: {name} is given twice (also as {key!r})")
        result[name] = value
    return result


def _preset(values: dict[str, Any], source: str) -> dict[str, Any]:
    name = values.get("preset")
    if name is None:
        return values
    if name not in PRESETS:
        raise UsageError(f"{source}: preset {name!r} is not known; use one of {', '.join(PRESETS)}")
    given = {**(REFDPO if name.startswith("refdpo") else {}), **PRESETS[name]}
    return {**given, **values}


def _check_fixed(config: StudyConfig, source: str) -> None:
    """Build one cell's config, so that a wrong fixed key is told before anything runs."""
    build(TrainConfig, {**config.fixed, "output_dir": config.output_dir}, source=source)


def _check_factors(config: StudyConfig, source: str) -> None:
    """Refuse a value that no cell could have; what cannot be beside another value is left out later."""
    fixed = {**config.fixed, "output_dir": config.output_dir}
    for name in FACTORS:
        added = [value for entry in config.add for value in entry.get(name, ())]
        for value in (*getattr(config, name), *added):
            given = value.split("+") if name == "loss_type" else value
            try:
                TrainConfig.model_validate({**fixed, name: given})
            except ValidationError as error:
                own = [item for item in error.errors() if item["loc"][:1] == (name,)]
                if own:
                    raise UsageError(one_line(own, source)) from error


def resolved(config: StudyConfig) -> dict[str, Any]:
    """Return the study as one flat mapping: what `study.yaml` holds."""
    values = config.model_dump(mode="json", exclude_none=True, exclude={"fixed", "preset"})
    return {**config.fixed, **{k: v for k, v in values.items() if v not in ([], ())}}
