"""Every knob of `tether train`: TRL/HF names, with unit, default and source. Frozen; unknown keys refused."""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from tether.config.adapter import AdapterOptions
from tether.config.sources import with_weights

REFERENCE_KINDS = ("self", "none", "prior", "moving", "columns", "model:PATH", "artifact:PATH")

HELD_OUT = frozenset({"eval_dataset_name", "eval_fraction", "eval_rows"})
"""Keys that say which rows are held out."""
_NEEDED = "eval_dataset_name, eval_fraction or eval_rows"

Layout = Literal["padded", "shared", "packed", "varlen"]
"""How a batch becomes model inputs (`policies.layouts`)."""

TRACKERS = ("trackio", "tensorboard", "wandb", "mlflow")


def knob(group: str, text: str, default: Any = ..., **limits: Any) -> Any:
    """Declare one option: the help group it is listed under, what it means, its default and limits."""
    return Field(default, description=text, json_schema_extra={"group": group}, **limits)


class TrainConfig(AdapterOptions):
    """Options of one training run, supervised or on preferences."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model_name_or_path: str = knob(
        "Model", "Model or adapter: folder, or hub name owner/name[@revision]. Alias: model."
    )
    dataset_name: str | tuple[str, ...] = knob("Data", "Training rows: file, folder, glob. Alias: data.")
    output_dir: str = knob("Run", "Run folder: made, resumed, or refused.")

    eval_dataset_name: str | None = knob(
        "Data", "File, folder or glob of held-out rows. Alias: eval-data.", None
    )
    eval_fraction: float = knob(
        "Data", "Share of prompts held out. When no eval data is given.", 0.0, ge=0, lt=1
    )
    eval_rows: int | None = knob(
        "Data", "Rows held out, whole prompts; instead of eval_fraction.", None, gt=0
    )
    dataset_weights: tuple[float, ...] | None = knob(
        "Data", "How often the rows of each data source appear per epoch; unset: once each.", None
    )
    ties: Literal["drop", "soft"] = knob(
        "Data", "Pairs with equal scores: left out, or kept at probability one half.", "drop"
    )
    data_fraction: float = knob(
        "Data",
        "Share of the training prompts used. Smaller shares are parts of larger ones.",
        1.0,
        gt=0,
        le=1,
    )
    max_samples: int | None = knob(
        "Data",
        "Rows taken of each data source, held-out ones too: the first that can be used; unset: all.",
        None,
        gt=0,
    )
    labels: Literal["given", "shuffled"] = knob(
        "Data",
        "shuffled: a coin says which text is chosen. A control: no preference can be learnt.",
        "given",
    )
    data_half: Literal["both", "first", "second"] = knob(
        "Data", "first, second: train on one half of the pairs; split by their texts.", "both"
    )
    split_seed: int | None = knob(
        "Data",
        "Of held-out, left-out and halved rows, and of shuffled labels; unset: seed.",
        None,
        ge=0,
        lt=2**32,
    )
    max_length: int | None = knob("Data", "Tokens of prompt + completion; longer is cut.", 1024, gt=1)
    truncation_mode: Literal["keep_start", "keep_end", "drop"] = knob(
        "Data", "What goes when a row is too long: the end, the prompt's start, the row.", "keep_start"
    )
    score_turns: Literal["last", "all"] = knob(
        "Data",
        "Which assistant turns of an answer are scored. Of supervised chats, all means every assistant turn.",
        "last",
    )
    train_sampling_strategy: Literal["random", "sequential"] = knob(
        "Data", "Shuffle each epoch, or file order.", "random"
    )

    reference: str = knob(
        "Objective",
        "What to hold to; see below. self, none, prior, moving, columns, model:PATH or artifact:PATH.",
        "self",
    )
    ref_model_mixup_alpha: float = knob(
        "Objective", "Share of the policy mixed into a moving reference.", 0.6, gt=0, le=1
    )
    ref_model_sync_steps: int = knob(
        "Objective", "Updates between two moves of a moving reference.", 512, gt=0
    )

    bf16: bool | None = knob("Model", "bf16 compute, fp32 weights; unset: on CUDA only.", None)
    device: str = knob("Model", "auto, cpu, cuda or cuda:N.", "auto")
    attn_implementation: str | None = knob("Model", "sdpa or eager; unset: the model's own choice.", None)
    gradient_checkpointing: bool = knob(
        "Model", "Recompute activations per block: less memory, more time.", False
    )
    disable_dropout: bool = knob("Model", "No dropout in policy and reference.", True)

    num_train_epochs: float = knob("Optimiser", "Passes over the data.", 3.0, gt=0)
    max_steps: int = knob("Optimiser", "Updates; overrides epochs when > 0.", -1)
    train_batch_size: int | None = knob("Optimiser", "Pairs per update over all processes.", None, gt=0)
    per_device_train_batch_size: int = knob("Optimiser", "Rows per device, TRL's spelling.", 8, gt=0)
    gradient_accumulation_steps: int = knob("Optimiser", "Times the above: rows per update.", 1, gt=0)
    learning_rate: float = knob("Optimiser", "Peak learning rate.", 1e-6, ge=0)
    lr_scheduler_type: str = knob(
        "Optimiser", "A Hugging Face schedule: linear, cosine, constant...", "linear"
    )
    warmup_steps: float = knob("Optimiser", "Warm-up updates; below 1: share of all updates.", 0, ge=0)
    warmup_ratio: float | None = knob(
        "Optimiser", "Share of updates to warm up (older HF key).", None, ge=0, le=1
    )
    weight_decay: float = knob("Optimiser", "AdamW's decay, not on norms and biases.", 0.0, ge=0)
    adam_beta1: float = knob("Optimiser", "AdamW's first moment decay.", 0.9, ge=0, lt=1)
    adam_beta2: float = knob("Optimiser", "AdamW's second moment decay.", 0.999, ge=0, lt=1)
    adam_epsilon: float = knob("Optimiser", "AdamW's epsilon.", 1e-8, gt=0)
    max_grad_norm: float = knob("Optimiser", "Clip the gradient to this norm; 0: never.", 1.0, ge=0)
    seed: int = knob("Optimiser", "Of everything random.", 42, ge=0, lt=2**32)
    data_seed: int | None = knob("Optimiser", "Of the data order; unset: seed.", None, ge=0, lt=2**32)

    layout: Literal["auto", Layout] = knob(
        "Speed", "Layout of model inputs; checked against padded at start.", "auto"
    )
    max_tokens_per_microbatch: int | None = knob(
        "Speed", "Token budget; unset: chosen for the device.", None, gt=0
    )
    head_chunk: int = knob("Speed", "Tokens per pass through the LM head.", 1024, gt=0)
    parallel: Literal["auto", "ddp", "fsdp"] = knob(
        "Speed", "Under torchrun: whole copies (ddp) or shards (fsdp); auto: by memory.", "auto"
    )
    deterministic: bool = knob("Speed", "Deterministic CUDA kernels; CPU always is.", False)

    logging_steps: int | float = knob(
        "Watching", "Updates between log lines; below 1: share of all updates.", 10, gt=0
    )
    eval_strategy: Literal["no", "steps", "epoch"] | None = knob(
        "Watching", "When held-out rows are measured; unset: per epoch when there are any.", None
    )
    eval_steps: int | float | None = knob(
        "Watching",
        "Updates between evaluations; below 1: share of all updates; unset: logging_steps. "
        "For eval_strategy steps.",
        None,
        gt=0,
    )
    save_strategy: Literal["no", "steps", "epoch", "best"] = knob(
        "Watching", "When checkpoints are saved.", "steps"
    )
    save_steps: int | float = knob(
        "Watching", "Updates between checkpoints; below 1: share of all updates.", 500, gt=0
    )
    save_total_limit: int | None = knob(
        "Watching", "Checkpoints kept; the newest good and the best stay.", 2, gt=0
    )
    load_best_model_at_end: bool = knob("Watching", "End with the best checkpoint.", False)
    metric_for_best_model: str = knob(
        "Watching", "Metric that says which is best; eval_ may be left out.", "eval_loss"
    )
    greater_is_better: bool | None = knob("Watching", "Its direction; unset: false for losses.", None)

    early_stopping_patience: int | None = knob(
        "Watching", "Stop after this many looks without a better metric_for_best_model.", None, gt=0
    )
    early_stopping_threshold: float = knob("Watching", "How much better counts as better.", 0.0, ge=0)
    report_to: tuple[str, ...] = knob(
        "Watching", "Trackers beside metrics.jsonl: trackio, tensorboard, wandb, mlflow.", ()
    )
    run_name: str | None = knob("Watching", "The run's name in trackers; unset: its folder's.", None)
    project: str = knob("Watching", "The project it is filed under in trackers.", "tether")

    measure_prompts: int = knob("Measuring", "Held-out prompts answered to measure KL; 0: none.", 32, ge=0)
    sample_steps: int | None = knob(
        "Measuring",
        "Updates between answers to measured prompts; unset: with every evaluation.",
        None,
        gt=0,
    )
    kl_max_new_tokens: int = knob("Measuring", "Longest sample when measuring.", 128, gt=0)
    evaluators: tuple[str, ...] = knob("Measuring", "Scores for samples: world:NAME.", ())

    @model_validator(mode="after")
    def _samples_consistent(self) -> Self:
        if self.sample_steps is not None and self.measure_prompts == 0:
            raise ValueError("sample_steps is about measured prompts: set measure_prompts, or leave it out")
        return self

    @model_validator(mode="before")
    @classmethod
    def _sources(cls, values: Any) -> Any:
        return with_weights(values) if isinstance(values, Mapping) else values

    @field_validator("reference")
    @classmethod
    def _known_reference(cls, value: str) -> str:
        kind, _, path = value.partition(":")
        if value in REFERENCE_KINDS[:5] or (kind in ("model", "artifact") and path):
            return value
        raise ValueError(f"is {value!r}; use one of {', '.join(REFERENCE_KINDS)}")

    @field_validator("logging_steps", "eval_steps", "save_steps")
    @classmethod
    def _whole_or_share(cls, value: float | None) -> float | None:
        if value is None or value < 1:
            return value
        if value != int(value):
            raise ValueError(f"is {value:g}; give a whole number of updates, or a share of them below 1")
        return int(value)

    @field_validator("lora_target_modules", "evaluators", "report_to", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("report_to")
    @classmethod
    def _known_trackers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value == ("none",):
            return ()
        for name in value:
            if name not in TRACKERS:
                raise ValueError(f"is {name!r}; use {', '.join(TRACKERS)} or none; each must be named")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.eval_rows is not None and self.eval_fraction > 0:
            raise ValueError("eval_rows and eval_fraction both say how much is held out; choose one")
        if self.load_best_model_at_end and not self.has_eval:
            raise ValueError(f"load_best_model_at_end needs {_NEEDED}")
        if self.reference == "moving" and self.use_peft:
            raise ValueError(
                "reference moving needs full tuning: mixing LoRA's factors is not mixing the models; "
                "leave out use_peft, or use reference self"
            )
        if self.early_stopping_patience is not None and not self.has_eval:
            raise ValueError(f"early_stopping_patience needs {_NEEDED}")
        count = 1 if isinstance(self.dataset_name, str) else len(self.dataset_name)
        if self.dataset_weights is not None and len(self.dataset_weights) != count:
            raise ValueError(
                f"dataset_weights has {len(self.dataset_weights)} values for {count} data sources; "
                "give one each"
            )
        if self.max_steps == 0:
            raise ValueError("max_steps is 0; use -1 to train by num_train_epochs")
        return self

    @property
    def has_eval(self) -> bool:
        """Whether any held-out rows exist."""
        named, held_out = self.eval_dataset_name is not None, self.eval_rows is not None
        return named or held_out or self.eval_fraction > 0

    @property
    def choice_seed(self) -> int:
        """Seed of which prompts are held out and which are used."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def pairs_per_update(self) -> int:
        """Rows per update over all processes (pairs, in preference training)."""
        return self.train_batch_size or self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def best_is_greater(self) -> bool:
        """Whether a larger `metric_for_best_model` is better."""
        if self.greater_is_better is not None:
            return self.greater_is_better
        return not self.metric_for_best_model.endswith(("loss", "kl_start"))

    def warmup_updates(self, total: int) -> int:
        """Return the number of warm-up updates out of `total` (HF's rule: below 1 it is a share)."""
        share = self.warmup_ratio if self.warmup_ratio is not None else None
        if share is None and self.warmup_steps < 1:
            share = self.warmup_steps
        return math.ceil(total * share) if share is not None else int(self.warmup_steps)

    def every(self, steps: float, total: int) -> int:
        """Return the updates between two looks: `steps`, or below 1 a share of `total` (HF's rule)."""
        # The small number keeps 0.07 of 100 updates at 7, which a float makes 7.000000000000001.
        return max(1, math.ceil(total * steps - 1e-9)) if steps < 1 else int(steps)
