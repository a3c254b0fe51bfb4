"""Losses, gradients and rewards equal TRL 1.16's own code, run on the same log-probs."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.objectives.batches import from_tokens, loss_of, options_for, random_rows, rows
from tether.objectives.metrics import pair_metrics
from tether.records.tensors import LossInputs

pytestmark = pytest.mark.parity

trl = pytest.importorskip("trl")

PROMPT = 3


class Recorded(torch.nn.Module):
    """A model whose per-token log-probs are given, a row per sequence, zero outside the completion."""

    is_gradient_checkpointing = False

    def __init__(self, answers: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        log_probs = self.answers[int(input_ids[0, 0])]
        blank = torch.zeros_like(log_probs)
        return SimpleNamespace(
            log_probs=log_probs,
            entropy=blank,
            mean_logits=blank,
            is_top1=blank.bool(),
            log_sum_sq_probs=blank,
        )


def accelerator() -> SimpleNamespace:
    def same(value: torch.Tensor) -> torch.Tensor:
        return value

    return SimpleNamespace(device=torch.device("cpu"), gather=same, gather_for_metrics=same)


def padded(tokens: torch.Tensor, counts: torch.Tensor, order: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay texts out as TRL does, after 3 prompt tokens: log-probs [S, L - 1] and mask [S, L]."""
    texts = torch.split(tokens, counts.tolist())
    width = PROMPT + int(counts.max())
    grid, mask = [], torch.zeros(len(order), width, dtype=torch.int64)
    for row, index in enumerate(order):
        text = texts[index]
        before, after = torch.zeros(PROMPT - 1), torch.zeros(width - PROMPT - len(text))
        grid.append(torch.cat([before, text, after]))
        mask[row, PROMPT : PROMPT + len(text)] = 1
    return torch.stack(grid), mask


def dpo_trainer(**options: Any) -> Any:
    trainer = trl.DPOTrainer.__new__(trl.DPOTrainer)
    settings: dict[str, Any] = {
        "ld_alpha": None,
        "precompute_ref_logps": False,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "loss_types": ["sigmoid"],
        "loss_weights": [1.0],
        "beta": 0.1,
        "label_smoothing": 0.0,
        "use_weighting": False,
        "aux_loss_enabled": False,
        "accelerator": accelerator(),
        "args": SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=0.05),
        "_metrics": {"train": {}, "eval": {}},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    for name, value in {**settings, **options}.items():
        setattr(trainer, name, value)
    return trainer


class Lists(dict[str, list[float]]):
    def __missing__(self, key: str) -> list[float]:
        self[key] = []
        return self[key]


def trl_dpo(
    inputs: LossInputs, tokens: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, dict[str, float]]:
    assert inputs.reference is not None and inputs.reference.tokens is not None
    order = [*inputs.chosen.tolist(), *inputs.rejected.tolist()]
    policy, mask = padded(tokens, inputs.policy.counts, order)
    reference, _ = padded(inputs.reference.tokens, inputs.policy.counts, order)
    trainer = dpo_trainer(**options)
    trainer._metrics = {"train": Lists(), "eval": Lists()}
    trainer.model, trainer.ref_model = Recorded({7: policy}), Recorded({7: reference})
    ids = torch.full_like(mask, 7)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask}
    loss = trainer._compute_loss(trainer.model, batch, False)
    return loss, {name: values[-1] for name, values in trainer._metrics["train"].items() if values}


CASES: list[dict[str, Any]] = [
    {"loss_type": ["sigmoid"]},
    {"loss_type": ["sigmoid"], "beta": 1.7},
    {"loss_type": ["hinge"], "beta": 0.6},
    {"loss_type": ["ipo"], "beta": 0.2},
    {"loss_type": ["exo_pair"], "label_smoothing": 0.01},
    {"loss_type": ["nca_pair"]},
    {"loss_type": ["robust"], "label_smoothing": 0.2},
    {"loss_type": ["bco_pair"]},
    {"loss_type": ["sppo_hard"], "beta": 0.5},
    {"loss_type": ["aot"], "label_smoothing": 0.1, "beta": 0.9},
    {"loss_type": ["aot_unpaired"], "label_smoothing": 0.1, "beta": 0.9},
    {"loss_type": ["apo_zero"]},
    {"loss_type": ["apo_down"]},
    {"loss_type": ["discopop"], "beta": 0.4},
    {"loss_type": ["sft"]},
    {"loss_type": ["sigmoid_norm"], "beta": 5.0},
    {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
    *(
        {"loss_type": [name], "f_divergence_type": kind}
        for name in ("sigmoid", "ipo", "sigmoid_norm", "hinge")
        for kind in ("forward_kl", "js_divergence", "alpha_divergence")
    ),
    {"loss_type": ["sigmoid"], "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.6},
    {"loss_type": ["sigmoid"], "ld_alpha": 0.4},
    {"loss_type": ["ipo"], "ld_alpha": 0.0},
    {"loss_type": ["apo_zero"], "ld_alpha": 0.4},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_gradient_are_dpo_trainers(case: dict[str, Any], seed: int) -> None:
    inputs = random_rows("sigmoid", seed, spread=0.6)
    assert inputs.policy.tokens is not None
    theirs_at = inputs.policy.tokens.clone().requires_grad_(True)
    names = {"loss_types": case["loss_type"], "loss_weights": case.get("loss_weights", [1.0])}
    others = {key: value for key, value in case.items() if key not in ("loss_type", "loss_weights")}
    theirs, metrics = trl_dpo(inputs, theirs_at, **names, **others)
    (expected,) = torch.autograd.grad(theirs, theirs_at)

    ours_at = inputs.policy.tokens.clone().requires_grad_(True)
    options = options_for(case["loss_type"][0], **case)
    held = replace(inputs, policy=from_tokens(ours_at, inputs.policy.counts))
    ours = loss_of(options, held)
    (gradient,) = torch.autograd.grad(ours, ours_at)
    # Both add the same few fp32 numbers in another order: some steps of 2^-23.
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=2e-6)
    assert torch.allclose(gradient, expected, rtol=1e-5, atol=1e-7)
    if "ld_alpha" not in case:
        means = {name: float(value.mean()) for name, value in pair_metrics(held, options).items()}
        for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
            assert means[name] == pytest.approx(metrics[name], rel=2e-6, abs=1e-6), name
        assert means["logps/chosen"] == pytest.approx(metrics["logps/chosen"], rel=2e-6)


def test_trl_still_ignores_label_smoothing_in_sigmoid() -> None:
    inputs = random_rows("sigmoid", 0)
    assert inputs.policy.tokens is not None
    plain, _ = trl_dpo(inputs, inputs.policy.tokens)
    smoothed, _ = trl_dpo(inputs, inputs.policy.tokens, label_smoothing=0.2)
    assert float(plain) == float(smoothed)


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("cpo", {"loss_type": "sigmoid", "alpha": 0.0}, {"cpo_alpha": 0.0}),
        ("cpo", {"loss_type": "sigmoid", "alpha": 0.0, "label_smoothing": 0.2}, {"cpo_alpha": 0.0}),
        ("simpo", {"loss_type": "simpo", "alpha": 0.0, "beta": 2.0}, {}),
        ("simpo", {"loss_type": "simpo", "alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.4}, {}),
        ("simpo", {"loss_type": "simpo", "alpha": 0.0, "label_smoothing": 0.1}, {}),
        ("alphapo", {"loss_type": "simpo", "alpha": 0.25, "beta": 2.5}, {}),
        ("alphapo", {"loss_type": "simpo", "alpha": -0.5, "beta": 2.5}, {}),
    ],
)
def test_loss_and_gradient_are_cpo_trainers(name: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    cpo = pytest.importorskip("trl.experimental.cpo")
    settings = {
        "beta": 0.1,
        "label_smoothing": 0.0,
        "simpo_gamma": 0.5,
        "accelerator": accelerator(),
        **theirs,
    }
    trainer = cpo.CPOTrainer.__new__(cpo.CPOTrainer)
    for key, value in settings.items():
        setattr(trainer, key, value)
    inputs = random_rows(name, 2)
    sums = inputs.policy.sums.clone().requires_grad_(True)
    scores = sums / inputs.policy.counts if theirs["loss_type"] == "simpo" else sums
    loss = trainer.cpo_loss(scores[inputs.chosen], scores[inputs.rejected])[0].mean()
    (expected,) = torch.autograd.grad(loss, sums)
    kept = {key: theirs[key] for key in ("beta", "label_smoothing", "simpo_gamma") if key in theirs}
    shape = {"alphapo_alpha": theirs["alpha"]} if name == "alphapo" else {}
    at = inputs.policy.sums.clone().requires_grad_(True)
    mine = loss_of(
        options_for(name, **kept, **shape, **ours),
        replace(inputs, policy=replace(inputs.policy, sums=at)),
    )
    (gradient,) = torch.autograd.grad(mine, at)
    assert float(mine.detach()) == pytest.approx(float(loss.detach()), rel=2e-6)
    assert torch.allclose(gradient, expected, rtol=1e-5, atol=1e-7)


def test_odds_ratio_is_orpo_trainers() -> None:
    orpo = pytest.importorskip("trl.experimental.orpo")
    trainer = orpo.ORPOTrainer.__new__(orpo.ORPOTrainer)
    trainer.beta, trainer.accelerator = 0.25, accelerator()
    inputs = random_rows("orpo", 3)
    sums = inputs.policy.sums.clone().requires_grad_(True)
    means = sums / inputs.policy.counts
    ratio = trainer.odds_ratio_loss(means[inputs.chosen], means[inputs.rejected])[0].mean()
    # TRL's NLL is over prompt and completion; over the completion it is -sum / tokens.
    nll = -sums[inputs.chosen].sum() / inputs.policy.counts[inputs.chosen].sum()
    (expected,) = torch.autograd.grad(nll - ratio, sums)
    at = inputs.policy.sums.clone().requires_grad_(True)
    mine = loss_of(options_for("orpo", beta=0.25), replace(inputs, policy=replace(inputs.policy, sums=at)))
    (gradient,) = torch.autograd.grad(mine, at)
    assert float(mine.detach()) == pytest.approx(float((nll - ratio).detach()), rel=2e-6)
    assert torch.allclose(gradient, expected, rtol=1e-5, atol=1e-7)


def unpaired_rows() -> LossInputs:
    drawn = random_rows("kto", 4, spread=0.6)
    assert drawn.reference is not None
    return rows(drawn.roles, drawn.group_of.tolist(), drawn.policy, drawn.reference)


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired"])
def test_loss_and_gradient_are_kto_trainers(name: str) -> None:
    inputs = unpaired_rows()
    assert inputs.policy.tokens is not None
    assert inputs.reference is not None and inputs.reference.tokens is not None
    marked = [i for i, role in enumerate(inputs.roles) if role != "kl"]
    mismatched = [i for i, role in enumerate(inputs.roles) if role == "kl"]
    at = inputs.policy.tokens.clone().requires_grad_(True)
    policy, mask = padded(at, inputs.policy.counts, marked)
    other, other_mask = padded(at, inputs.policy.counts, mismatched)
    reference, _ = padded(inputs.reference.tokens, inputs.policy.counts, marked)
    other_reference, _ = padded(inputs.reference.tokens, inputs.policy.counts, mismatched)
    trainer = trl.KTOTrainer.__new__(trl.KTOTrainer)
    settings: dict[str, Any] = {
        "calculate_KL": name == "kto",
        "loss_type": name,
        "beta": 0.4,
        "desirable_weight": 1.3,
        "undesirable_weight": 0.7,
        "aux_loss_enabled": False,
        "precompute_ref_logps": False,
        "accelerator": accelerator(),
        "args": SimpleNamespace(gradient_checkpointing_kwargs=None),
        "_metrics": {"train": Lists(), "eval": Lists()},
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "model": Recorded({7: policy, 8: other}),
        "ref_model": Recorded({7: reference, 8: other_reference}),
    }
    for key, value in settings.items():
        setattr(trainer, key, value)
    batch = {
        "input_ids": torch.full_like(mask, 7),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "KL_input_ids": torch.full_like(other_mask, 8),
        "KL_attention_mask": torch.ones_like(other_mask),
        "KL_completion_mask": other_mask,
        "label": torch.tensor([inputs.roles[i] == "desirable" for i in marked]),
    }
    theirs = trainer._compute_loss(trainer.model, batch, False)
    (expected,) = torch.autograd.grad(theirs, at)
    tokens = inputs.policy.tokens.clone().requires_grad_(True)
    options = options_for(name, beta=0.4, desirable_weight=1.3, undesirable_weight=0.7)
    ours = loss_of(options, replace(inputs, policy=from_tokens(tokens, inputs.policy.counts)))
    (gradient,) = torch.autograd.grad(ours, tokens)
    assert not math.isnan(float(theirs.detach()))
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=2e-6)
    assert torch.allclose(gradient, expected, rtol=1e-5, atol=1e-7)
