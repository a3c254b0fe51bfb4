"""Every knob of `tether generate` and `tether chat`: names as transformers and vLLM spell them."""

from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from tether.config.train import knob

GENERATE_GROUPS = ["Files", "Sampling", "Dial", "Server", "Speed"]
GENERATE_ALIASES = {"max_tokens": "max_new_tokens", "n": "num_samples", "num_return_sequences": "num_samples"}
"""Accepted on the command line too."""

FURTHEST = 100
"""A dial's largest value; the smallest is its opposite."""

LOCAL_ONLY = ("reference", "dial", "skip_long", "batch_size", "dtype", "device", "attn_implementation")
"""Options about a model that is run here: a server decides these itself."""


class SamplingOptions(BaseModel):
    """How text is drawn; `engines.Sampling` holds the ranges."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: float = knob("Sampling", "Divides the scores; 0: most likely token.", 1.0)
    top_p: float = knob("Sampling", "Keep the likeliest tokens that sum to this; 1: all.", 1.0)
    top_k: int = knob("Sampling", "Keep this many likeliest tokens; 0: all.", 0)
    min_p: float = knob("Sampling", "Keep tokens this share as likely as the likeliest; 0: all.", 0.0)
    stop: tuple[str, ...] = knob("Sampling", "Texts that end a completion, and are cut off.", ())
    max_new_tokens: int = knob("Sampling", "Longest completion, in tokens.", 256)
    seed: int = knob("Sampling", "Of the noise; each prompt and sample has its own.", 0)


class ModelOptions(SamplingOptions):
    """Who answers: a model run here, perhaps dialled, or a server."""

    reference: str | None = knob("Dial", "Second model with the same vocabulary.", None)
    dial: float | None = knob(
        "Dial",
        "Next token ~ model^dial x reference^(1-dial); 0: reference, 1: model.",
        None,
        ge=-FURTHEST,
        le=FURTHEST,
    )

    server: str | None = knob(
        "Server", "URL or URL#MODEL of an OpenAI-compatible server that answers instead.", None
    )
    api_key_env: str = knob("Server", "Environment variable that holds the server's key.", "OPENAI_API_KEY")
    timeout: float = knob("Server", "Seconds one request may take.", 120.0, gt=0)
    attempts: int = knob("Server", "Times one request is tried.", 5, gt=0)

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = knob(
        "Speed", "Precision of weights and compute; auto: bfloat16 on CUDA, else float32.", "auto"
    )
    device: str = knob("Speed", "auto, cpu, cuda or cuda:N.", "auto")
    attn_implementation: str | None = knob("Speed", "sdpa or eager; unset: the model's own choice.", None)

    @field_validator("server")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        if value is not None:
            split_server(value)
        return value

    @model_validator(mode="after")
    def _dial_has_both(self) -> Self:
        if (self.reference is None) != (self.dial is None):
            raise ValueError("reference and dial belong together; give both or neither")
        return self

    @model_validator(mode="after")
    def _server_runs_alone(self) -> Self:
        given = [name for name in LOCAL_ONLY if name in self.model_fields_set and self.server is not None]
        if given:
            raise ValueError(f"{given[0]} is about a model run here; leave it out with server")
        return self


class GenerateOptions(ModelOptions):
    """What `tether generate` can be told."""

    prompts: str = knob(
        "Files", "File, folder or glob of rows with a prompt (or preferences), or .txt, one prompt per line."
    )
    skip_long: bool = knob("Files", "Leave out prompts longer than the model reads, and say which.", False)
    out: str = knob("Files", "File to write (JSONL); an unfinished one is continued.")
    format: Literal["tether", "alpacaeval", "arena-hard", "mt-bench"] = knob(
        "Files", "Layout of out: tether, alpacaeval, arena-hard or mt-bench.", "tether"
    )
    generator: str | None = knob("Files", "Model's name in a layout; unset: as it is named here.", None)
    overwrite: bool = knob("Files", "Replace what an earlier run wrote to out.", False)

    num_samples: int = knob("Sampling", "Completions per prompt.", 1, gt=0)
    workers: int = knob("Server", "Requests at a time.", 8, gt=0)
    batch_size: int = knob("Speed", "Completions written at a time.", 16, gt=0)

    @model_validator(mode="after")
    def _layout_holds_samples(self) -> Self:
        if self.num_samples > 1 and self.format in ("alpacaeval", "arena-hard"):
            raise ValueError(f"num_samples: the {self.format} layout holds one answer per prompt")
        if self.skip_long and self.format == "mt-bench":
            raise ValueError("skip_long: mt-bench needs an answer in every turn")
        if self.generator is not None and self.format == "tether":
            raise ValueError("generator: is a name in a layout; choose one with format")
        return self


class GenerateConfig(GenerateOptions):
    """One run of `tether generate`."""

    model: str | None = knob("Files", "Model or adapter (folder or hub name), or the server's model.", None)

    @model_validator(mode="after")
    def _someone_answers(self) -> Self:
        speaker_of(self.model, self.server)
        return self


def speaker_of(model: str | None, server: str | None) -> tuple[str | None, str]:
    """Return the server's base URL (None: run here) and the model's path or its name on the server.

    Raises:
        ValueError: no model is named, or two.

    """
    if server is None:
        if model is None:
            raise ValueError("model: name a model (folder or hub name), or a server with --server URL#MODEL")
        return None, model
    url, named = split_server(server)
    if named and model and named != model:
        raise ValueError(f"server: names the model {named!r}, and model is {model!r}; name one")
    name = named or model
    if not name:
        raise ValueError("server: which of its models? --server URL#MODEL, or MODEL beside --server URL")
    return url, name


def split_server(address: str) -> tuple[str, str]:
    """Return base URL and model ("" without one) of `URL#MODEL`; a URL without a path gets `/v1`.

    Raises:
        ValueError: no http address, or one that carries a key.

    """
    url, _, model = address.partition("#")
    check_address(url)
    return (url if urlsplit(url).path.strip("/") else url.rstrip("/") + "/v1"), model


def check_address(url: str) -> None:
    """Refuse what is no server's address, or carries something secret.

    Raises:
        ValueError: saying which; what is secret is not repeated.

    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known, parts = False, urlsplit("")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"the address of {parts.hostname} carries a user, key or query; "
            "put the key into an environment variable"
        )
    if not known:
        raise ValueError(f"{url!r} is no address of a server; write http://127.0.0.1:8000/v1")
