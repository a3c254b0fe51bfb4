"""A reference that moves, and objectives that remember or read a live one: through the whole training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.policies.families import uneven_batch
from tests.tiny import tiny_model
from tether.config.train import TrainConfig
from tether.errors import Interrupted, TetherError, UsageError
from tether.policies.adapters import start_copy
from tether.policies.logprobs import sequence_logprobs
from tether.policies.tilted import LiveReference, tilted_logprobs
from tether.training.run import train
from tether.training.track import Silent

Make = Callable[..., TrainConfig]


class Stop(Silent):
    """Asks for a stop after a step, as Ctrl-C would."""

    def __init__(self, after: int) -> None:
        self.after = after

    def step(self, step: int, total: int, loss: float) -> None:
        if step == self.after:
            import signal

            signal.raise_signal(signal.SIGINT)


def losses(config: TrainConfig) -> list[float]:
    lines = [
        json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    ]
    return [line["loss"] for line in lines if line["phase"] == "train"]


def test_a_reference_that_becomes_the_policy_at_every_update_has_no_margin(make_config: Make) -> None:
    config = make_config(reference="moving", ref_model_mixup_alpha=1.0, ref_model_sync_steps=1)
    record = train(config)
    # Hard updates at every step: policy and reference agree whenever a loss is computed, to rounding.
    assert losses(config) == pytest.approx([0.6931472] * 12, abs=1e-5)
    assert "verified" in record.reference and record.reference["kind"] == "moving"
    assert record.step0["margin_max"] == 0.0


def test_a_reference_that_never_moves_is_self(make_config: Make, tmp_path: Path) -> None:
    train(still := make_config(reference="moving", ref_model_sync_steps=1000))
    train(fixed := make_config(output_dir=str(tmp_path / "self")))
    assert losses(still) == pytest.approx(losses(fixed), abs=2e-6)


def test_it_moves_by_alpha_at_the_steps_named(make_config: Make) -> None:
    config = make_config(
        reference="moving",
        ref_model_mixup_alpha=0.25,
        ref_model_sync_steps=4,
        save_steps=1,
        save_total_limit=None,
    )
    train(config)
    folder = Path(config.output_dir) / "checkpoints"
    before = load_file(folder / "step-3" / "reference.safetensors")
    after = load_file(folder / "step-4" / "reference.safetensors")
    policy = load_file(folder / "step-4" / "weights.safetensors")
    again = load_file(folder / "step-7" / "reference.safetensors")
    moved = 0
    for name, value in before.items():
        expected = 0.75 * value + 0.25 * policy[name]
        assert torch.allclose(after[name], expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(again[name], after[name])
        moved += not torch.equal(value, after[name])
    assert moved > 0


@pytest.mark.parametrize(
    "options",
    [
        {"reference": "moving", "ref_model_sync_steps": 2},
        {"loss_type": "beta_dpo"},
        {"loss_type": "bco_pair", "bco_delta": "running"},
        {"loss_type": "epsilon_dpo"},
    ],
)
def test_a_stopped_run_goes_on_as_if_it_never_was(
    options: dict[str, Any], make_config: Make, tmp_path: Path
) -> None:
    train(whole := make_config(**options))
    stopped = make_config(**options, output_dir=str(tmp_path / "stopped"))
    with pytest.raises(Interrupted):
        train(stopped, watcher=Stop(5))
    train(stopped)
    assert losses(stopped) == losses(whole)
    ends = [load_file(Path(c.output_dir) / "model" / "model.safetensors") for c in (whole, stopped)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_betas_chosen_are_reported(make_config: Make) -> None:
    config = make_config(loss_type="epsilon_dpo", epsilon_dpo_epsilon=0.5, beta=0.1, eval_fraction=0.2)
    train(config)
    lines = [
        json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    ]
    betas = [line["objective/beta"] for line in lines if line["phase"] == "train"]
    # At step 0 tilting changes nothing that is strictly ordered; later pairs go to 0.2, 0.1 or 0.0667.
    assert betas[0] == pytest.approx(0.1)
    assert all(0.1 / 1.5 - 1e-6 <= beta <= 0.2 + 1e-6 for beta in betas) and len(set(betas)) > 1
    assert any("eval_objective/beta" in line for line in lines)


def test_adapters_read_their_reference_with_the_adapter_off(make_config: Make) -> None:
    config = make_config(loss_type="epsilon_dpo", use_peft=True, lora_r=2)
    record = train(config)
    assert record.step0["loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert losses(config)[-1] < losses(config)[0]


def test_what_cannot_be_is_refused_in_one_line(make_config: Make) -> None:
    for reference in ("prior", "columns", "artifact:x", "moving"):
        with pytest.raises(UsageError, match="whole distributions, not only scored texts"):
            train(make_config(loss_type="epsilon_dpo", reference=reference))
    with pytest.raises(UsageError, match="cannot run with reference none"):
        train(make_config(loss_type="epsilon_dpo", reference="none"))
    with pytest.raises(ValueError, match="mixing LoRA's factors"):
        make_config(reference="moving", use_peft=True)
    with pytest.raises((TetherError, ValueError)):
        make_config(reference="moving", ref_model_mixup_alpha=1.5)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_tilted_sums_are_those_of_mixed_logits(layout: Any) -> None:
    policy, other = tiny_model("llama"), tiny_model("llama", seed=9)
    batch = uneven_batch()
    frozen = LiveReference(other)
    got = tilted_logprobs(policy, frozen, batch, step=0.3, layout=layout, head_chunk=5)
    sums: dict[float, list[float]] = {1.3: [], 0.7: []}
    prompts = torch.split(batch.prompt_ids, batch.prompt_lengths.tolist())
    texts = torch.split(batch.completion_ids, batch.completion_lengths.tolist())
    for text, group in zip(texts, batch.group_of.tolist(), strict=True):
        ids = torch.cat([prompts[group], text])[None]
        with torch.no_grad():
            mine, theirs = (m(ids).logits[0, len(prompts[group]) - 1 : -1].double() for m in (policy, other))
        for share, found in sums.items():
            table = torch.log_softmax(share * mine + (1 - share) * theirs, -1)
            found.append(float(table.gather(1, text[:, None]).sum()))
    # fp32 logits of size about 10 over at most a few dozen tokens.
    assert got.away.tolist() == pytest.approx(sums[1.3], abs=2e-4)
    assert got.towards.tolist() == pytest.approx(sums[0.7], abs=2e-4)


def test_tilting_a_model_against_itself_changes_nothing() -> None:
    policy, batch = tiny_model("llama"), uneven_batch()
    copy = start_copy(policy)
    assert copy is not None
    got = tilted_logprobs(policy, LiveReference(copy), batch, step=0.5)
    with torch.no_grad():
        plain = sequence_logprobs(policy, batch)
    assert torch.allclose(got.away, plain.sums, atol=1e-5) and torch.equal(got.away, got.towards)
