"""The whole chain in small: what a run leaves, what it measures, what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.tiny import save_model, tiny_model, tiny_tokenizer
from tests.training.conftest import rows, spoil_reference
from tether.errors import DataError, GuardStop, ModelError, ReferenceMismatch, TetherError
from tether.objectives import needs_reference
from tether.records.results import read_lines, read_run
from tether.training import loop as loop_module
from tether.training.policy import IN_MEMORY, InMemory
from tether.training.run import Given, train
from tether.training.scoring import score_file

Make = Callable[..., Any]


def lines(config: Any, phase: str) -> list[dict[str, Any]]:
    return [x for x in read_lines(Path(config.output_dir) / "metrics.jsonl") if x["phase"] == phase]


def test_a_run_leaves_a_plain_model_that_prefers_the_chosen_answers(
    make_config: Make, eval_file: Path
) -> None:
    config = make_config(
        eval_dataset_name=str(eval_file), num_train_epochs=4, measure_prompts=3, kl_max_new_tokens=6
    )
    record = train(config)
    folder = Path(config.output_dir)
    assert record.status == "finished" and record.steps == 24
    assert read_run(folder) == record
    model = AutoModelForCausalLM.from_pretrained(folder / "model", use_safetensors=True)
    assert sum(p.numel() for p in model.parameters()) == record.model["parameters"]
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    first, last = lines(config, "eval")[0], lines(config, "eval")[-1]
    assert first["eval_loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert first["eval_rewards/accuracies"] == 0.5 and first["eval_ties"] == 1.0
    assert lines(config, "train")[-1]["loss"] < 0.6
    assert last["eval_loss_se"] > 0
    start, end = record.measurements[0], record.measurements[-1]
    assert start.kl_start == 0.0 and end.kl_start is not None and end.kl_start > 0
    assert end.kl_reference == end.kl_start
    samples = list(read_lines(folder / "samples.jsonl"))
    assert len(samples) == 3 and all(sample["before"] for sample in samples)


def test_step_zero_margins_of_self_are_exactly_zero_in_the_same_shape(make_config: Make) -> None:
    record = train(make_config(max_steps=1, layout="padded", max_tokens_per_microbatch=100_000))
    assert record.step0["loss"] == pytest.approx(record.step0["zero_margin"], abs=1e-6)
    assert record.step0["margin_max"] <= record.step0["bound"]


def test_a_reference_that_is_not_the_start_model_stops_the_run(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_reference(monkeypatch, 0.01)
    with pytest.raises(GuardStop, match="step 0"):
        train(make_config())


def test_anything_random_left_on_is_found_at_step_zero(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout that `disable_dropout` does not know looks like this: two evaluations that differ,
    if only by less than rounding might explain."""
    from tether.training import verify

    original = verify.update_logprobs
    calls = {"n": 0}

    def jitter(*args: Any) -> Any:
        values = original(*args)
        calls["n"] += 1
        return type(values)(values.sums + 1e-4 * calls["n"], values.counts, values.tokens)

    monkeypatch.setattr(verify, "update_logprobs", jitter)
    with pytest.raises(GuardStop, match="something random"):
        train(make_config())


def test_disabling_dropout_reaches_modules_and_functional_attention() -> None:
    from tether.policies.adapters import disable_dropout

    model = tiny_model("llama", attention_dropout=0.5).train()
    assert disable_dropout(model, keep_adapter=True) == 2
    ids = torch.arange(9)[None]
    assert torch.equal(model(ids).logits, model(ids).logits)
    gpt2 = tiny_model("gpt2", attn_pdrop=0.3, resid_pdrop=0.3, embd_pdrop=0.3).train()
    disable_dropout(gpt2, keep_adapter=True)
    assert torch.equal(gpt2(ids).logits, gpt2(ids).logits)


@pytest.mark.parametrize("budget", [40, 97, 100_000])
@pytest.mark.parametrize("layout", ["padded", "shared", "packed"])
@pytest.mark.parametrize(
    "loss_type",
    [
        "sigmoid",
        "robust",
        "ipo",
        "hinge",
        "apo_zero",
        "apo_down",
        "sigmoid_norm",
        "simpo",
        "orpo",
        "cpo",
        "sft",
        "unlikelihood",
        "aot",
        "kto",
        "bco",
        "plackett_luce",
        ("sigmoid", "sft"),
    ],
)
def test_the_gradient_does_not_depend_on_how_an_update_is_cut(
    loss_type: str | tuple[str, ...], layout: str, budget: int, make_config: Make
) -> None:
    """10 pairs as one batch, as 4,4,2-like cuts, and one by one."""
    from contextlib import nullcontext

    from tether.policies.adapters import trainable
    from tether.tokens.collate import collate
    from tether.training.steps import Engine, update_gradient

    model = tiny_model("llama")
    batch = collate(_encoded(make_config(loss_type=loss_type)))
    config = make_config(loss_type=loss_type, reference="self" if loss_type not in ("simpo",) else "none")
    table = _shifted_table(batch) if needs_reference(config) else None

    def gradient(layout: str, budget: int) -> tuple[torch.Tensor, float]:
        model.zero_grad(set_to_none=True)
        engine = Engine(model, config, layout, 64, nullcontext)  # type: ignore[arg-type]
        scored = update_gradient(engine, batch, table, budget)
        return torch.cat(
            [p.grad.flatten() for p in trainable(model).values() if p.grad is not None]
        ), scored.loss

    oracle, loss = gradient("padded", 100_000)
    cut, cut_loss = gradient(layout, budget)
    assert cut_loss == pytest.approx(loss, abs=1e-5, rel=1e-5)
    assert float((cut - oracle).norm() / oracle.norm()) <= 1e-5


def _encoded(config: Any) -> list[Any]:
    """10 pairs in the form an objective reads them, as ids."""
    from tether.data.tasks import fit_task, unpair
    from tether.records.rows import Completion, Origin, Preference
    from tether.tokens.mismatch import add_mismatched
    from tether.tokens.render import Renderer
    from tether.training.run import task_of

    renderer, task = Renderer(tiny_tokenizer(chat=False), frozenset([1])), task_of(config)
    pairs = [
        Preference(
            Origin("rows", i),
            row["prompt"],
            (Completion("chosen", row["chosen"]), Completion("rejected", row["rejected"])),
        )
        for i, row in enumerate(rows(10))
    ]
    if task == "sft":
        return renderer.encode_all(pairs)
    fitted = [fit_task(pair, task)[0] for pair in pairs]
    if task != "unpaired":
        return renderer.encode_all(fitted)
    single = [part for pair in fitted for part in unpair(pair)]
    groups = renderer.encode_all(single)
    return add_mismatched(single, groups, renderer, None).groups if config.loss_type == ("kto",) else groups


def _shifted_table(batch: Any) -> Any:
    """Give every completion a different reference, so that every pair has its own weight."""
    from tether.policies.reference import ReferenceIdentity, ReferenceTable, Score

    return ReferenceTable(
        ReferenceIdentity("test", {}),
        {key: Score(-40.0 - 3.0 * (i % 7), 9) for i, key in enumerate(batch.keys)},
    )


def test_evaluation_does_not_depend_on_the_budget(make_config: Make, eval_file: Path, tmp_path: Path) -> None:
    found = []
    for budget in (30, 500, 100_000):
        config = make_config(
            output_dir=str(tmp_path / f"b{budget}"),
            eval_dataset_name=str(eval_file),
            max_steps=2,
            max_tokens_per_microbatch=budget,
        )
        train(config)
        found.append(lines(config, "eval")[-1])
    for name in ("eval_loss", "eval_rewards/margins", "eval_rewards/chosen"):
        assert max(f[name] for f in found) - min(f[name] for f in found) <= 1e-5
    assert found[0]["eval_logps/chosen"] == pytest.approx(found[2]["eval_logps/chosen"], rel=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_stop_the_run_before_anything_is_saved(
    value: float, make_config: Make, model_folder: Path
) -> None:
    path = model_folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = value
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(TetherError, match="NaN or infinite"):
        train(make_config())
    assert not list((Path(make_config().output_dir) / "checkpoints").glob("step-*"))


def test_a_gradient_that_becomes_nan_is_never_applied(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop_module.update_gradient
    calls = {"n": 0}

    def poisoned(engine: Any, *args: Any, **kwargs: Any) -> Any:
        scored = original(engine, *args, **kwargs)
        calls["n"] += 1
        if calls["n"] == 4:
            next(p for p in engine.model.parameters() if p.grad is not None).grad[0] = float("nan")
        return scored

    monkeypatch.setattr(loop_module, "update_gradient", poisoned)
    config = make_config(save_steps=1)
    with pytest.raises(GuardStop, match=r"step 4.*train\.jsonl") as caught:
        train(config)
    assert caught.value.exit_code == 6
    assert read_run(Path(config.output_dir)).status == "failed"
    newest = Path(config.output_dir) / "checkpoints" / "step-3" / "weights.safetensors"
    assert all(bool(torch.isfinite(t).all()) for t in load_file(newest).values())


def test_bf16_at_a_tiny_learning_rate_still_changes_parameters(make_config: Make, model_folder: Path) -> None:
    config = make_config(bf16=True, learning_rate=1e-6, max_steps=20, num_train_epochs=9)
    train(config)
    before = load_file(model_folder / "model.safetensors")
    after = load_file(Path(config.output_dir) / "model" / "model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_model_in_memory_is_its_own_reference_even_when_edited(
    make_config: Make, model_folder: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    config = make_config(model_name_or_path=IN_MEMORY, dataset_name="(rows in memory)", max_steps=2)
    record = train(config, given=Given(InMemory(model, tiny_tokenizer(chat=False)), rows(24)))
    assert record.step0["loss"] == pytest.approx(0.6931472, abs=1e-5)


def test_batch_noise_is_measured_only_where_rounding_does_not_explain_a_row(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tether.training import verify

    asked: list[float] = []

    def noise(*_: Any) -> float:
        asked.append(1.0)
        return 1.0

    monkeypatch.setattr(verify, "measured_noise", noise)
    train(make_config(max_steps=1))
    assert asked == []
    monkeypatch.setattr(verify, "ROUNDING", 0)
    monkeypatch.setattr(verify, "NOISE_FACTOR", 0.5)
    spoil_reference(monkeypatch, 0.4)
    record = train(make_config(max_steps=1, output_dir=make_config().output_dir + "-spoilt"))
    assert asked == [1.0] and record.step0["bound"] == pytest.approx(0.1 * 0.5)
    monkeypatch.setattr(verify, "NOISE_FACTOR", 0.3)
    with pytest.raises(GuardStop, match=r"batch noise explain 0\.3"):
        train(make_config(max_steps=1, output_dir=make_config().output_dir + "-stopped"))


@pytest.mark.parametrize("kind", ["model", "prior", "none", "artifact"])
def test_every_reference_kind_trains_and_is_verified(
    kind: str, make_config: Make, tmp_path: Path, data_file: Path
) -> None:
    other = save_model(tmp_path / "other", tiny_model("qwen2", seed=5, vocab_size=500), tokens=320)
    reference = {"model": f"model:{other}", "artifact": f"artifact:{tmp_path / 'ref'}"}.get(kind, kind)
    if kind == "artifact":
        score_file(other, str(data_file), tmp_path / "ref")
    record = train(make_config(reference=reference, max_steps=2))
    words = {"none": "nothing to verify"}.get(kind, "8 rows scored again")
    assert words in record.reference["verified"]
    if kind != "none":
        assert record.reference["rows"] == 48
        assert record.reference["identity"]["scored"]["prompt"] == ("without" if kind == "prior" else "with")


def test_an_artifact_of_the_policy_itself_is_checked_without_loading_it_again(
    make_config: Make, tmp_path: Path, data_file: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tether.training import references

    score_file(model_folder, str(data_file), tmp_path / "ref")
    loaded: list[str] = []

    def note(path: str, *_: Any, **__: Any) -> Any:
        loaded.append(path)
        raise AssertionError

    monkeypatch.setattr(references, "open_scorer", note)
    record = train(make_config(reference=f"artifact:{tmp_path / 'ref'}", max_steps=1))
    assert "8 rows scored again" in record.reference["verified"] and loaded == []
    # A base that PiSSA has split gives the same sums only nearly: the model itself is asked.
    split = make_config(
        reference=f"artifact:{tmp_path / 'ref'}",
        use_peft=True,
        init_lora_weights="pissa",
        output_dir=str(tmp_path / "split"),
    )
    with pytest.raises(AssertionError):
        train(split)


def test_an_artifact_is_refused_when_it_is_not_what_it_says(
    make_config: Make, tmp_path: Path, data_file: Path, model_folder: Path
) -> None:
    score_file(model_folder, str(data_file), tmp_path / "ref")
    reference = f"artifact:{tmp_path / 'ref'}"
    with pytest.raises(ReferenceMismatch, match="truncation"):
        train(make_config(reference=reference, max_length=24))
    table = tmp_path / "ref" / "table.parquet"
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    with pytest.raises(ReferenceMismatch, match=r"table\.parquet"):
        train(make_config(reference=reference))
    score_file(model_folder, str(data_file), tmp_path / "ref2")
    tensors = load_file(model_folder / "model.safetensors")
    tensors["lm_head.weight"][3] += 0.5
    save_file(tensors, model_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ReferenceMismatch, match="weights is"):
        train(make_config(reference=f"artifact:{tmp_path / 'ref2'}"))


def test_kl_to_a_runnable_reference_is_measured_apart_from_the_start(
    make_config: Make, tmp_path: Path
) -> None:
    other = save_model(tmp_path / "other", tiny_model("llama", seed=9))
    options = {"max_steps": 1, "measure_prompts": 2, "kl_max_new_tokens": 5}
    record = train(make_config(reference=f"model:{other}", **options))
    start = record.measurements[0]
    assert start.kl_start == 0.0 and start.kl_reference is not None and start.kl_reference > 0.1
    sft = train(make_config(loss_type="sft", output_dir=str(tmp_path / "sft"), **options))
    assert sft.measurements[0].kl_reference is None


def test_when_every_row_is_left_out_the_reasons_are_said(make_config: Make) -> None:
    with pytest.raises(DataError, match="24 train_prompt_too_long") as caught:
        train(make_config(max_length=3))
    assert caught.value.exit_code == 3


def test_a_run_repeats_from_its_own_config(make_config: Make, tmp_path: Path) -> None:
    from tether.config.parse import build, read_yaml
    from tether.config.train import TrainConfig

    config = make_config(max_steps=2)
    first = train(config)
    values = read_yaml(Path(config.output_dir) / "config.yaml")
    again = train(build(TrainConfig, values, overrides={"output_dir": str(tmp_path / "again")}))
    assert again.results == first.results


def test_columns_are_used_as_given_and_missing_ones_refused(make_config: Make, tmp_path: Path) -> None:
    path = tmp_path / "columns.jsonl"
    given = [
        {**row, "ref_chosen_logps": -50.0 - i, "ref_rejected_logps": -60.0} for i, row in enumerate(rows(8))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    record = train(make_config(dataset_name=str(path), reference="columns", max_steps=1))
    assert "not verifiable here" in record.reference["verified"]
    with pytest.raises(ReferenceMismatch, match=r"train\.jsonl:1.*columns"):
        train(make_config(reference="columns", output_dir=str(tmp_path / "other-run")))


def test_a_token_id_beyond_the_embedding_is_refused(make_config: Make, model_folder: Path) -> None:
    tiny_model("llama", vocab_size=300).save_pretrained(model_folder)
    with pytest.raises(
        ModelError, match=r"train\.jsonl:\d+: token id \d+ but the model's embedding has 300 rows"
    ):
        train(make_config())


def test_lora_leaves_an_adapter_that_knows_its_base(
    make_config: Make, tmp_path: Path, model_folder: Path
) -> None:
    from tether.policies.load import load_model
    from tether.training.merge import merge_adapter

    config = make_config(use_peft=True, lora_r=4, learning_rate=5e-3)
    record = train(config)
    assert record.model["trainable_parameters"] < record.model["parameters"] / 2
    merged = merge_adapter(Path(config.output_dir), tmp_path / "merged")
    assert merged.adapter_effect > 1e-3 and merged.error_mean < 1e-4 * merged.adapter_effect
    again = train(
        make_config(
            model_name_or_path=f"{config.output_dir}/model", output_dir=str(tmp_path / "second"), max_steps=2
        )
    )
    assert again.step0["loss"] == pytest.approx(0.6931472, abs=1e-5)
    tensors = load_file(model_folder / "model.safetensors")
    tensors["lm_head.weight"][3] += 0.5
    save_file(tensors, model_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="another base"):
        load_model(f"{config.output_dir}/model")


def test_sft_learns_from_chosen_only_and_needs_no_reference(make_config: Make) -> None:
    config = make_config(loss_type="sft", num_train_epochs=6)
    record = train(config)
    losses = [line["loss"] for line in lines(config, "train")]
    assert losses[-1] < losses[0] and record.reference["kind"] == "none"


def test_the_best_checkpoint_is_kept_and_loaded(make_config: Make, eval_file: Path) -> None:
    config = make_config(
        eval_dataset_name=str(eval_file),
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        save_total_limit=1,
        learning_rate=5e-2,
        num_train_epochs=4,
    )
    record = train(config)
    best = min(lines(config, "eval")[1:], key=lambda line: line["eval_loss"])
    assert (
        any(f"step {best['step']}" in event["text"] for event in record.events)
        or best["step"] == record.steps
    )
    saved = load_file(
        Path(config.output_dir) / "checkpoints" / f"step-{best['step']}" / "weights.safetensors"
    )
    model = load_file(Path(config.output_dir) / "model" / "model.safetensors")
    assert all(torch.equal(saved[name], model[name]) for name in model)


def test_sequential_order_is_the_files_order(make_config: Make) -> None:
    seen: list[str] = []
    original = loop_module.update_gradient

    def watch(engine: Any, batch: Any, *args: Any) -> Any:
        seen.extend(batch.row_ids)
        return original(engine, batch, *args)

    loop_module.update_gradient, kept = watch, loop_module.update_gradient  # type: ignore[assignment]
    try:
        train(make_config(train_sampling_strategy="sequential", num_train_epochs=1))
    finally:
        loop_module.update_gradient = kept
    assert [int(row.rsplit(":", 1)[1]) for row in seen] == list(range(1, 25))
