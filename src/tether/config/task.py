"""Every knob of `tether task`: a task of the literature, small in a world or at full size on public data."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

TASKS = ("sentiment", "summarization", "dialogue")

_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PairFiles(BaseModel):
    """Preferences and test rows: files, folders, globs, or splits of the Hub (`owner/name:split`)."""

    model_config = _STRICT

    train: tuple[str, ...] = Field(description="Files or globs of preference pairs.")
    eval: str | None = Field(None, description="Held-out pairs; else set eval_fraction in `train`.")
    test: tuple[str, ...] = Field(
        description="Rows whose prompts are answered; their answer is the reference."
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Columns of the test files under the names read: {label: completion}.",
    )
    mark: str | None = Field(
        None,
        min_length=1,
        description="Text every prompt ends with; where answers begin with it, it is moved to the prompt.",
    )
    single_turn: bool = Field(False, description="Test prompts of one user turn only.")


class TextFiles(BaseModel):
    """Plain texts: prefixes become prompts, and pairs are samples of the start model that a reward ranks."""

    model_config = _STRICT

    train: tuple[str, ...] = Field(description="Files or globs of texts to train on.")
    test: tuple[str, ...] = Field(description="Texts whose prefixes are answered; the rest is the reference.")
    column: str = Field("text", description="The texts' column.")
    prefix_tokens: tuple[int, int] = Field((2, 8), description="Fewest and most tokens of a prefix.")
    prompts: int = Field(25_000, gt=0, description="Prefixes that pairs are made for.")
    samples: int = Field(4, ge=2, description="Samples per prefix; every two of different reward are a pair.")

    @field_validator("prefix_tokens")
    @classmethod
    def _in_order(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1]:
            raise ValueError(f"is {list(value)}; two numbers, 1 or more, the smaller first")
        return value


class TaskConfig(BaseModel):
    """One task: where models and data come from, what is trained, and how answers are compared."""

    model_config = _STRICT

    task: Literal["sentiment", "summarization", "dialogue"] = Field(description="Which task it is.")
    title: str = Field(description="One line for people.")
    differences: tuple[str, ...] = Field((), description="What is not as the paper did it.")

    world: str | None = Field(None, description="World that makes model, pairs and prompts; small size.")
    pairs: int = Field(2000, gt=0, description="Training pairs the world makes.")
    eval_pairs: int = Field(200, gt=0, description="Held-out pairs the world makes.")

    model: str | None = Field(None, description="Model folder or Hub name; full size.")
    files: PairFiles | None = Field(None, description="Preference files; full size.")
    texts: TextFiles | None = Field(None, description="Texts to make pairs from; full size.")
    reward: str | None = Field(
        None, description="CLASSIFIER#LABEL: the label's probability is the reward. Folder or Hub name."
    )

    start: Literal["model", "preferred-ft"] = Field(
        "model", description="What preference training starts from and is held to."
    )
    train: dict[str, Any] = Field(
        default_factory=dict, description="Options of tether train for every run of the task."
    )
    sft: dict[str, Any] = Field(default_factory=dict, description="More of them, for supervised runs.")
    beta: float = Field(0.1, gt=0, description="KL strength of the DPO model whose answers are compared.")
    betas: tuple[float, ...] = Field((), description="More KL strengths, for reward against KL.")
    alpha: float | None = Field(0.5, gt=0, description="Weight of unlikelihood; null: not trained.")
    alphas: tuple[float, ...] = Field((), description="More weights, for reward against KL.")
    best_of: int = Field(
        16, ge=1, description="Samples of the start model that Best-of-N picks from; 1: none."
    )

    prompts: int = Field(200, gt=1, description="Test prompts answered.")
    temperatures: tuple[float, ...] = Field((0.0, 0.25, 0.5, 0.75, 1.0), description="Sampling temperatures.")
    max_new_tokens: int = Field(128, gt=0, description="Longest answer, in tokens.")
    batch_size: int = Field(64, gt=0, description="Answers written at a time.")
    judge: str | None = Field(None, description="Judge of answers: world:NAME, server:URL#MODEL, ...")
    seed: int = Field(0, ge=0, description="Of pairs, training, samples and intervals.")

    @field_validator("temperatures")
    @classmethod
    def _temperatures(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or len(set(value)) != len(value) or min(value) < 0:
            raise ValueError(f"is {list(value)}; different numbers of 0 or more, at least one")
        return tuple(sorted(value))

    @field_validator("betas", "alphas")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(number <= 0 for number in value):
            raise ValueError(f"is {list(value)}; every number must be above 0")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.world is not None:
            if self.model or self.files or self.texts or self.reward:
                raise ValueError(
                    "a world brings model, pairs and reward: leave model, files, texts, reward out"
                )
            return self
        if self.model is None or (self.files is None) == (self.texts is None):
            raise ValueError("name a world, or a model with files (pairs) or texts")
        if self.texts is not None and self.reward is None:
            raise ValueError("texts need a reward that ranks samples: CLASSIFIER#LABEL")
        return self

    @property
    def reward_known(self) -> bool:
        """Whether the task has a reward of its own, which can judge answers."""
        return self.world is not None or self.reward is not None

    @property
    def all_betas(self) -> tuple[float, ...]:
        """Every KL strength trained, that of the compared model first."""
        return tuple(dict.fromkeys((self.beta, *self.betas)))

    @property
    def all_alphas(self) -> tuple[float, ...]:
        """Every weight of unlikelihood trained, that of the compared model first."""
        return tuple(dict.fromkeys((self.alpha, *self.alphas))) if self.alpha is not None else ()
