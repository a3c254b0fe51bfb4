"""The least a config of an adapter needs."""

from typing import Any

from tether.config.train import TrainConfig


def config(**options: Any) -> TrainConfig:
    values = {
        "model_name_or_path": "m",
        "dataset_name": "d",
        "output_dir": "o",
        "use_peft": True,
        "lora_r": 4,
    }
    return TrainConfig.model_validate({**values, **options})
