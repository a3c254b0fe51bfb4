"""Boards of made-up scores, where what is true is known."""

import numpy as np

from tether.records.findings import Setting
from tether.study.board import Array, Board

BETAS = (1.0, 0.3, 0.1, 0.03)
ARMS = {
    "DPO": ("sigmoid", "self"),
    "posterior": ("sigmoid", "none"),
    "DPO, reference model:strong": ("sigmoid", "model:strong"),
}


def setting(arm: str = "DPO", beta: float = 0.1, labels: str = "given", fraction: float = 1.0) -> Setting:
    loss_type, reference = ARMS[arm]
    return Setting(
        name=f"{arm} β {beta:g}" + ("" if labels == "given" else f" {labels}"),
        arm=arm if labels == "given" else f"{arm}, shuffled",
        loss_type=loss_type,
        beta=beta,
        reference=reference,
        learning_rate=1e-4,
        data_fraction=fraction,
        labels=labels,
    )


def board(
    means: dict[str, list[float]],
    *,
    start: float = 0.0,
    prompts: int = 60,
    seeds: int = 1,
    prompt_sd: float = 1.0,
    noise_sd: float = 1.0,
    seed_sd: float = 0.0,
    draw: int = 0,
    draws: int = 300,
    kl: dict[str, list[float]] | None = None,
) -> Board:
    """Return a board of arms with these true means per beta; rows share prompts, and no seed effects."""
    rng = np.random.default_rng(draw)
    settings = [setting(arm, beta) for arm in means for beta, _ in zip(BETAS, means[arm], strict=False)]
    truth = np.array([start, *(value for values in means.values() for value in values)])
    spent = [0.0] + [
        value for arm in means for value in (kl[arm] if kl else [1.0 + i for i in range(len(means[arm]))])
    ]
    rows = len(truth)
    shared = rng.normal(size=(1, 1, prompts))
    scores: Array = (
        truth[:, None, None]
        + prompt_sd * shared
        + noise_sd * rng.normal(size=(rows, seeds, prompts))
        + seed_sd * rng.normal(size=(rows, seeds, 1))
    )
    # One start model for all seeds: it has no luck in training.
    scores[0] = start + prompt_sd * shared[0] + noise_sd * rng.normal(size=prompts)
    return Board(
        settings=tuple(settings),
        scores=scores,
        kl=np.array(spent)[:, None, None] * np.ones((1, seeds, prompts)),
        seeds=tuple(range(seeds)),
        prompts=tuple(f"p{i}" for i in range(prompts)),
        degenerate=((),) * len(settings),
        draws=draws,
    )
