"""Where every completion is listed: what training claims is held against what is exactly true."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tether.config.train import TrainConfig
from tether.generation.measure import measure
from tether.records.results import RunRecord
from tether.training.run import train
from tether.worlds import WORLDS, Enumerable, Exact, WorldFiles
from tether.worlds.exact import Conditionals
from tether.worlds.recipe import prompt_ids

Tuned = tuple[RunRecord, Exact, Any]


class Chain:
    """One made world, its base model's exact conditionals, and runs on its pairs."""

    def __init__(self, name: str, folder: Path, pairs: int) -> None:
        world = WORLDS[name]
        assert isinstance(world, Enumerable)
        self.world, self.folder = world, folder
        self.files: WorldFiles = world.make(folder / "world", pairs=pairs, eval_pairs=20)
        model = AutoModelForCausalLM.from_pretrained(self.files.model)
        self.base, self.tokenizer = model, AutoTokenizer.from_pretrained(self.files.model)
        self.start: Conditionals = world.conditionals(model, self.tokenizer)

    def tune(self, beta: float, **options: Any) -> Tuned:
        config = TrainConfig.model_validate(
            {
                "model_name_or_path": str(self.files.model),
                "dataset_name": str(self.files.train),
                "output_dir": str(self.folder / f"beta-{beta}"),
                "beta": beta,
                "learning_rate": 1e-3,
                "train_batch_size": 32,
                "kl_max_new_tokens": self.world.max_new_tokens,
                "seed": 3,
                **options,
            }
        )
        record = train(config, evaluators=[self.world.evaluator()])
        model = AutoModelForCausalLM.from_pretrained(Path(config.output_dir) / "model")
        return record, self.world.exact(self.world.conditionals(model, self.tokenizer), self.start), model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain("enumerable-tiny", tmp_path_factory.mktemp("tiny"), 300)


@pytest.fixture(scope="module")
def loose(tiny: Chain) -> Tuned:
    return tiny.tune(0.1, max_steps=40)


@pytest.fixture(scope="module")
def tight(tiny: Chain) -> Tuned:
    return tiny.tune(5.0, max_steps=40)


def test_training_raises_the_true_reward(tiny: Chain, loose: Tuned) -> None:
    start = tiny.world.exact(tiny.start, tiny.start)
    assert start.kl == pytest.approx(0, abs=1e-12)
    assert loose[1].reward > start.reward + 0.2
    assert loose[1].win_rate > 0.53


def test_a_tighter_tether_spends_less_kl(loose: Tuned, tight: Tuned) -> None:
    assert 0 < tight[1].kl < 0.2 * loose[1].kl
    assert tight[1].reward < loose[1].reward


def test_no_policy_is_above_the_exact_optimum(tiny: Chain, loose: Tuned) -> None:
    for beta in (0.1, 0.3, 1.0):
        best = tiny.world.optimum(tiny.start, beta)
        assert loose[1].reward - beta * loose[1].kl < best.objective


def test_measured_kl_is_the_exact_kl_within_three_standard_errors(tiny: Chain, loose: Tuned) -> None:
    record, exact, model = loose
    last = record.measurements[-1]
    assert last.kl_start is not None and last.kl_start_se is not None
    assert abs(last.kl_start - exact.kl) <= 3 * last.kl_start_se
    # Two prompts give a loose error; many samples of each give a tight one, over samples within prompts.
    messages = tiny.world.messages("test")
    many, samples = measure(
        model,
        start=tiny.base,
        prompts=[({"role": "user", "content": message},) for message in messages],
        prompt_ids=[prompt_ids(tiny.tokenizer, message) for message in messages],
        tokenizer=tiny.tokenizer,
        stop_ids=frozenset([tiny.tokenizer.eos_token_id]),
        step=0,
        max_new_tokens=tiny.world.max_new_tokens,
        samples_per_prompt=300,
        seed=1,
        batch_size=300,
    )
    variance = 0.0
    for index in range(len(messages)):
        values = [sample["kl_start"] for sample in samples if sample["prompt"] == index]
        mean = sum(values) / len(values)
        variance += sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)
    error = variance**0.5 / len(messages)
    assert many.kl_start is not None and error < 0.1 * exact.kl
    assert abs(many.kl_start - exact.kl) <= 3 * error


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_larger_world_shows_the_same_trade(tmp_path: Path) -> None:
    """55,987 completions per prompt: reward up, KL measured right, KL and reward ordered by beta."""
    chain = Chain("enumerable-1", tmp_path, 2000)
    start = chain.world.exact(chain.start, chain.start)
    runs = {beta: chain.tune(beta, max_steps=120) for beta in (0.1, 1.0, 10.0)}
    for record, exact, _ in runs.values():
        last = record.measurements[-1]
        assert last.kl_start is not None and last.kl_start_se is not None
        assert abs(last.kl_start - exact.kl) <= 3 * last.kl_start_se
    kls = [runs[beta][1].kl for beta in (0.1, 1.0, 10.0)]
    assert kls[0] > 2 * kls[1] > 4 * kls[2] > 0
    assert runs[0.1][1].reward > start.reward + 0.5
    assert runs[0.1][1].reward > runs[1.0][1].reward > runs[10.0][1].reward
