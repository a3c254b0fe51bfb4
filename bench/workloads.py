"""What is measured: which rows, which model, which settings of the peer, and the ratios we aim at."""

from dataclasses import dataclass, field

SHIPPED, PATCHED, GROUPED = "as shipped", "head patched", "patched + grouped"

COLUMNS: dict[str, dict[str, bool]] = {
    SHIPPED: {},
    PATCHED: {"patched_head": True},
    GROUPED: {"patched_head": True, "grouped": True},
}
"""Settings of TRL. Grouped: rows of like length in one batch, another order, so losses are not compared."""


@dataclass(frozen=True)
class Workload:
    """Rows, model, and what they are compared with."""

    name: str
    title: str
    rows: str
    """A key of rows.LENGTHS, or `P,C,R` for made-up rows of just these lengths."""
    pairs: int
    size: str = "5M"
    lora: bool = False
    max_length: int = 1024
    answers: int = 2
    """Completions per prompt: above 2 our side trains on rankings, TRL on disjoint pairs of them."""
    learning_rate: float = 1e-5
    repeats: int = 3
    memory: bool = False
    """Also measure peak memory at equal tokens per micro-batch and at each side's best."""
    betas: tuple[float, ...] = ()
    """A study: TRL trains once per value, one after the other; ours is one `tether study`."""
    must: dict[str, float] = field(default_factory=dict[str, float])
    """Least ratio per column that this project set itself."""


MOVING = 5e-5
"""A learning rate at which two updates move the loss, so that equal losses show something."""

BETAS = (0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)

# In batches of 8 the first 40 HH-like rows are padded to 3.84 times their tokens, as 256 are; 32 to 3.15.
QUICK = (
    Workload("hh", "HH-like", "hh", 40, memory=True, must={SHIPPED: 7.0, PATCHED: 3.5}),
    Workload("uf", "UltraFeedback-like", "uf", 16, must={SHIPPED: 4.3, PATCHED: 2.5}),
    Workload("lora", "LoRA, HH-like", "hh", 40, lora=True, learning_rate=1e-3, must={SHIPPED: 9.0}),
)

FULL = (
    *QUICK,
    Workload("hh-256", "HH-like, 256 pairs", "hh", 256, must={SHIPPED: 7.0, PATCHED: 3.5, GROUPED: 2.0}),
    Workload(
        "lora-256", "LoRA, HH-like, 256 pairs", "hh", 256, lora=True, learning_rate=1e-3, must={SHIPPED: 9.0}
    ),
    Workload(
        "uf-64", "UltraFeedback-like, 64 pairs", "uf", 64, memory=True, must={SHIPPED: 4.3, PATCHED: 2.5}
    ),
    Workload("betas", "8 betas, HH-like", "hh", 64, betas=BETAS, repeats=2, must={SHIPPED: 9.0}),
    Workload(
        "long",
        "2k prompt, 200 answer",
        "long",
        16,
        max_length=3072,
        learning_rate=MOVING,
        must={SHIPPED: 5.0},
    ),
    Workload("20m-hh", "20 M, 32k vocabulary, HH-like", "hh", 16, "20M"),
    Workload("20m-uf", "20 M, 32k vocabulary, UF-like", "uf", 16, "20M", learning_rate=MOVING),
    *(Workload(f"k{k}", f"{k} completions a prompt", "hh", 48, answers=k, repeats=2) for k in (2, 4, 8)),
    *(
        Workload(
            f"length-{p}",
            f"{p} + {p // 2} tokens",
            f"{p},{p // 2},{p // 2}",
            8192 // p,
            learning_rate=10 * MOVING,
            repeats=2,
        )
        for p in (64, 128, 256, 512)
    ),
    *(
        Workload(
            f"size-{size}", f"{size} parameters, HH-like", "hh", pairs, size, learning_rate=MOVING, repeats=2
        )
        for size, pairs in (("1M", 64), ("28M", 16))
    ),
)

CUDA = (
    Workload("hh", "HH-like, 0.4 B", "hh", 256, "0.4B", memory=True, must={SHIPPED: 2.5}),
    Workload("uf", "UltraFeedback-like, 0.4 B", "uf", 96, "0.4B", memory=True, must={SHIPPED: 1.6}),
    Workload("hh-1b", "HH-like, 0.9 B", "hh", 256, "0.9B", must={SHIPPED: 2.5}),
    Workload("uf-1b", "UltraFeedback-like, 0.9 B", "uf", 96, "0.9B", must={SHIPPED: 1.6}),
)

TRIAL = (
    Workload("trial", "trial", "64,32,24", 24, "tiny", learning_rate=3e-3, repeats=2, memory=True),
    Workload("trial-lora", "trial, LoRA", "64,32,24", 24, "tiny", lora=True, learning_rate=1e-2, repeats=1),
    Workload("trial-k4", "trial, rankings", "64,32,24", 16, "tiny", answers=4, learning_rate=3e-3, repeats=1),
    Workload(
        "trial-betas",
        "trial, 2 betas",
        "64,32,24",
        24,
        "tiny",
        betas=(0.1, 1.0),
        learning_rate=3e-3,
        repeats=1,
    ),
)
"""Tiny: shows that the benchmark itself works. Its numbers mean nothing."""
