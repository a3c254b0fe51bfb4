"""The least arithmetic a DPO step can do on these rows: prompt once, completion positions through the head.

Per pair 2 FLOP for each weight a token meets, once in the reference's forward and three times in the
policy's (forward, gradient of the input, gradient of the weight; without the last where weights are frozen);
attention over the query-key pairs that are allowed.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Shape:
    """What of a Llama-shaped model costs arithmetic."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int

    @property
    def block_weights(self) -> int:
        """Weights of all blocks: q, k, v, o and a gated MLP."""
        narrow = self.hidden * self.key_value_heads // self.heads
        return self.layers * (2 * self.hidden * (self.hidden + narrow) + 3 * self.hidden * self.inner)


class GemmRates(Protocol):
    """FLOP per second in blocks and in the head."""

    @property
    def block(self) -> float:
        """Rate of the blocks' products."""
        ...

    @property
    def head(self) -> float:
        """Rate of the head's product."""
        ...


@dataclass(frozen=True)
class Work:
    """FLOP of one pass over the rows."""

    block: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.block + self.attention + self.head

    def seconds(self, rates: GemmRates) -> float:
        """Return the time this takes at these rates; attention is counted at the blocks' rate."""
        return (self.block + self.attention) / rates.block + self.head / rates.head


def shape_of(model: Path) -> Shape:
    """Read a model folder's shape."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return Shape(
        config["hidden_size"],
        config["intermediate_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["vocab_size"],
    )


def work(
    shape: Shape, rows: Iterable[tuple[int, list[int]]], *, frozen: bool = False, scored: bool = True
) -> Work:
    """Return the least FLOP of rows given as (prompt tokens, tokens of each completion).

    `frozen`: the model's weights get no gradient (LoRA). `scored`: the reference is scored too.
    """
    passes = (1 if scored else 0) + (2 if frozen else 3)
    # Attention has no weights: its backward is always twice its forward.
    attention_passes = (1 if scored else 0) + 3
    block = attention = head = 0.0
    for prompt, completions in rows:
        block += 2.0 * shape.block_weights * (prompt + sum(completions))
        head += 2.0 * shape.hidden * shape.vocabulary * sum(completions)
        met = prompt * (prompt + 1) / 2 + sum(
            length * prompt + length * (length + 1) / 2 for length in completions
        )
        attention += 4.0 * shape.hidden * shape.layers * met
    return Work(passes * block, attention_passes * attention, passes * head)
