"""Every knob of `tether generate`: names as transformers and vLLM spell them, with unit and default."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from tether.config.train import knob

GENERATE_GROUPS = ["Files", "Sampling", "Dial", "Speed"]
GENERATE_ALIASES = {"max_tokens": "max_new_tokens", "n": "num_samples", "num_return_sequences": "num_samples"}
"""Accepted on the command line too."""


class GenerateOptions(BaseModel):
    """What `tether generate` can be told; `engines.Sampling` holds the ranges of the sampling knobs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompts: str = knob(
        "Files", "File, folder or glob of rows with a prompt (or preferences), or .txt, one prompt per line."
    )
    skip_long: bool = knob("Files", "Leave out prompts longer than the model reads, and say which.", False)
    out: str = knob("Files", "JSONL file to write; an unfinished one is continued.")
    overwrite: bool = knob("Files", "Replace what an earlier run wrote to out.", False)

    temperature: float = knob("Sampling", "Divides the scores; 0: most likely token.", 1.0)
    top_p: float = knob("Sampling", "Keep the likeliest tokens that sum to this; 1: all.", 1.0)
    top_k: int = knob("Sampling", "Keep this many likeliest tokens; 0: all.", 0)
    min_p: float = knob("Sampling", "Keep tokens this share as likely as the likeliest; 0: all.", 0.0)
    stop: tuple[str, ...] = knob("Sampling", "Texts that end a completion, and are cut off.", ())
    max_new_tokens: int = knob("Sampling", "Longest completion, in tokens.", 256)
    num_samples: int = knob("Sampling", "Completions per prompt.", 1, gt=0)
    seed: int = knob("Sampling", "Of the noise; each prompt and sample has its own.", 0)

    reference: str | None = knob("Dial", "Second model folder with the same vocabulary.", None)
    dial: float | None = knob(
        "Dial", "Next token ~ model^dial x reference^(1-dial); 0: reference, 1: model.", None
    )

    batch_size: int = knob("Speed", "Completions written at a time.", 16, gt=0)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = knob(
        "Speed", "Precision of weights and compute; auto: bfloat16 on CUDA, else float32.", "auto"
    )
    device: str = knob("Speed", "auto, cpu, cuda or cuda:N.", "auto")
    attn_implementation: str | None = knob("Speed", "sdpa or eager; unset: the model's own choice.", None)

    @model_validator(mode="after")
    def _dial_has_both(self) -> Self:
        if (self.reference is None) != (self.dial is None):
            raise ValueError("reference and dial belong together; give both or neither")
        return self


class GenerateConfig(GenerateOptions):
    """One run of `tether generate`."""

    model: str = knob("Files", "Model folder, or an adapter folder (PEFT).")
