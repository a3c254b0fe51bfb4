"""Spellings people bring with them, and the one name each stands for."""

TRAIN_ALIASES = {
    "model": "model_name_or_path",
    "data": "dataset_name",
    "train_data": "dataset_name",
    "eval_data": "eval_dataset_name",
    "activation_checkpointing": "gradient_checkpointing",
}
"""Accepted everywhere a `TrainConfig` key is, on the command line and in YAML."""
