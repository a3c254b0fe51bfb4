"""A causal LM read left to right: which forward arguments it takes, its cache, two models mixed by a dial.

`Stream` reads token ids and gives the next-token scores, one token or many at a time; `Dialled` gives the
scores of one model, or of policy^d * reference^(1-d). Engines and measure both stand on them, so what is
sampled and what is measured is one distribution. Prompts are padded on the left, completions on the right;
padding is a mask only.
"""

import inspect
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers.cache_utils import DynamicCache, LinearAttentionCacheLayerMixin

from tether.config.generate import FURTHEST
from tether.errors import ModelError, UsageError

Context = Callable[[], AbstractContextManager[Any]]
"""Makes the context a model is run in: `model.disable_adapter` of a PEFT model gives its base."""


Most = Callable[[int], int]
"""The largest of a number over the processes that must read as often as each other; alone, the number."""


@dataclass(frozen=True)
class Source:
    """A model, and the context its forwards run in."""

    model: Any
    context: Context = nullcontext

    def same(self, other: "Source") -> bool:
        """Whether both give the same scores because they are one model in one context."""
        return self.model is other.model and self.context == other.context


@dataclass(frozen=True)
class Dial:
    """Decode-time realignment: next token ~ policy^value * reference^(1 - value), renormalised per token.

    1 is the policy and 0 the reference, each bit for bit; above 1 moves on past the policy. A token to which
    either model gives probability exactly 0 is left out. The reference needs the policy's token-to-id map.
    Source: DeRa (arXiv 2402.02992), its per-token approximation; lambda there is `value` here.
    """

    value: float
    reference: Source

    def __post_init__(self) -> None:
        if not -FURTHEST <= self.value <= FURTHEST:
            raise UsageError(f"dial: must be a number between {-FURTHEST} and {FURTHEST}, got {self.value}")


class Stream:
    """One model reading B sequences; holds their key-value cache between reads."""

    def __init__(self, source: Source) -> None:
        self.source = source
        base = base_model(source.model)
        names = inspect.signature(base.forward).parameters
        self._positions = "position_ids" in names
        self._keeps = "logits_to_keep" in names
        self._cache: Any = DynamicCache(config=base.config)
        self.device: torch.device = base.device

    @property
    def recurrent(self) -> bool:
        """Whether some layer keeps a running state instead of keys and values."""
        return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in self._cache.layers)

    def read(
        self, ids: Int64[Tensor, "B new"], mask: Int64[Tensor, "B seen_and_new"], keep: int
    ) -> Float[Tensor, "B keep V"]:
        """Read the next ids and return the fp32 scores after each of the last `keep` of them.

        Raises:
            ModelError: the model keeps no cache, or its scores are NaN or +inf.

        """
        arguments: dict[str, Any] = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        if self._positions:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            arguments["position_ids"] = positions.to(self.device)
        if self._keeps:
            arguments["logits_to_keep"] = keep
        with self.source.context():
            output = self.source.model(
                **arguments, past_key_values=self._cache, use_cache=True, return_dict=True
            )
        if getattr(output, "past_key_values", None) is None:
            raise ModelError(f"{type(base_model(self.source.model)).__name__}: keeps no cache to sample with")
        logits: Tensor = output.logits[:, -keep:].float()
        # One sum shows any NaN or +inf; -inf (a token switched off) is allowed.
        if not bool(torch.isfinite(logits.amax(-1).sum())):
            raise ModelError(
                "the model's next-token scores are NaN or infinite: its weights or dtype are broken"
            )
        return logits

    def select(self, rows: Int64[Tensor, " n"]) -> None:
        """Keep these rows of the cache, in this order; a row may be repeated."""
        self._cache.reorder_cache(rows)


class Dialled:
    """The next-token scores of a policy, or of the mix its dial asks for."""

    def __init__(self, policy: Source, dial: Dial | None = None) -> None:
        value = 1.0 if dial is None else dial.value
        self._value = value
        sources = [policy] if dial is None or value == 1 else [policy, dial.reference]
        self._streams = [Stream(source) for source in (sources[1:] if value == 0 else sources)]
        self.device = self._streams[0].device

    @property
    def recurrent(self) -> bool:
        """Whether some layer keeps a running state instead of keys and values."""
        return any(stream.recurrent for stream in self._streams)

    def read(
        self, ids: Int64[Tensor, "B new"], mask: Int64[Tensor, "B seen_and_new"], keep: int
    ) -> Float[Tensor, "B keep V"]:
        """Read the next ids; see `Stream.read`. With a dial, scores are unnormalised log-probs of the mix."""
        scores = [stream.read(ids, mask, keep) for stream in self._streams]
        if len(scores) == 1:
            return scores[0]
        return mix(scores[0], scores[1].to(scores[0].device), self._value)

    def select(self, rows: Int64[Tensor, " n"]) -> None:
        """Keep these rows of every cache, in this order."""
        for stream in self._streams:
            stream.select(rows)


def mix(
    policy: Float[Tensor, "*batch V"], reference: Float[Tensor, "*batch W"], value: float
) -> Float[Tensor, "*batch U"]:
    """Return value * log policy + (1 - value) * log reference over the ids both score, unnormalised."""
    shared = min(policy.shape[-1], reference.shape[-1])
    first, second = policy[..., :shared].log_softmax(-1), reference[..., :shared].log_softmax(-1)
    out = torch.isneginf(first) | torch.isneginf(second)
    return (value * first + (1 - value) * second).masked_fill(out, -torch.inf)


def left_padded(
    sequences: Sequence[Sequence[int]], pad_id: int
) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
    """Return ids and mask, all sequences ending in the last column."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(list(sequence), dtype=torch.int64)
        mask[row, width - len(sequence) :] = 1
    return ids, mask


def base_model(model: Any) -> Any:
    """Return the transformers model inside a PEFT wrapper, or the model itself."""
    unwrap = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()


def context_length(model: Any) -> int | None:
    """Return how many tokens the model was built to read, or None where its config does not say."""
    config = base_model(model).config.get_text_config(decoder=True)
    length = getattr(config, "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


def vocabulary_size(model: Any) -> int:
    """Return the number of rows of the input embedding: the ids the model can read."""
    return int(base_model(model).get_input_embeddings().weight.shape[0])


@contextmanager
def evaluating(*models: Any) -> Generator[None]:
    """Put models in eval mode without gradients, and give every module its own mode back afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
