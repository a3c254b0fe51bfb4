"""What `run.json` says of a run before its first update: config, model, rows, objective, machine."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tether import __version__
from tether.config.launch import process_count
from tether.config.train import TrainConfig
from tether.objectives import OBJECTIVES
from tether.policies.adapters import trainable
from tether.policies.load import hash_tensors
from tether.policies.quantisation import NONE, quantisation_of, weight_count
from tether.records.results import RunRecord
from tether.training.hardware import hardware, versions
from tether.training.policy import PolicyModel
from tether.training.prepare import Prepared
from tether.training.score import device_of, tokenizer_identity, uses_bf16


def starting_record(
    config: TrainConfig,
    policy: PolicyModel,
    prepared: Prepared,
    tokenizer: PreTrainedTokenizerBase,
    hub: Mapping[str, str],
) -> RunRecord:
    """Return the record of a run that is about to begin."""
    objectives = [OBJECTIVES[name] for name in config.loss_type]
    return RunRecord(
        status="running",
        run_id=secrets.token_hex(8),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tether_version=__version__,
        config=config.model_dump(mode="json"),
        hub=dict(hub),
        model={
            "path": policy.path,
            "architecture": policy.architecture,
            "parameters": weight_count(policy.model),
            "trainable_parameters": sum(p.numel() for p in trainable(policy.model).values()),
            "dtype": str(next(policy.model.parameters()).dtype).removeprefix("torch."),
            "compute": "bf16" if uses_bf16(config) else "fp32",
            "weights": policy.weights,
            "adapter": policy.adapter,
            "quantisation": quantisation_of(policy.model),
            **({} if policy.trained_on == NONE else {"adapter_trained_on": policy.trained_on}),
            **({} if policy.start is None else {"start_adapter": hash_tensors(dict(policy.start))}),
            **tokenizer_identity(tokenizer),
        },
        data=prepared.data,
        reference={"kind": config.reference},
        objective={
            "name": " + ".join(config.loss_type),
            "equation": "; ".join(o.equation for o in objectives),
            "source": "; ".join(o.source for o in objectives),
            "reference": max((o.reference for o in objectives), key=("none", "sum", "token", "live").index),
            "beta": config.beta,
        },
        versions=versions(),
        hardware={**hardware(device_of(config.device)), "processes": process_count()},
    )
