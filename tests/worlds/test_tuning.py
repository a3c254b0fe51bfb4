"""DPO on a readable world's pairs raises the reward that the pairs were labelled by."""

from pathlib import Path

import pytest

from tether.config.train import TrainConfig
from tether.training.run import train
from tether.worlds import WORLDS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["summarization", "dialogue"])
def test_dpo_raises_the_gold_reward_beyond_its_error(name: str, tmp_path: Path) -> None:
    world = WORLDS[name]
    files = world.make(tmp_path / "world", pairs=320, eval_pairs=64, prompts=2, seed=0)
    record = train(
        TrainConfig(
            model_name_or_path=str(files.model),
            dataset_name=str(files.train),
            eval_dataset_name=str(files.eval),
            output_dir=str(tmp_path / "run"),
            beta=0.1,
            learning_rate=1e-3,
            train_batch_size=16,
            num_train_epochs=2,
            measure_prompts=64,
            kl_max_new_tokens=world.max_new_tokens,
            save_strategy="no",
            seed=0,
        ),
        evaluators=[world.evaluator()],
    )
    first, last = record.measurements[0], record.measurements[-1]
    gain = last.scores["gold_reward"] - first.scores["gold_reward"]
    error = (first.scores_se["gold_reward"] ** 2 + last.scores_se["gold_reward"] ** 2) ** 0.5
    # The same prompts and noise before and after: the error is overstated, three of them are beyond chance.
    assert gain > 3 * error > 0
