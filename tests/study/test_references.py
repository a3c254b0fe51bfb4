"""`tether reference compare`: its numbers are those of the models, and it says what it left out."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny import save_model, tiny_model
from tether import api
from tether.cli.main import main
from tether.errors import DataError, UsageError
from tether.records.references import ReferenceFacts
from tether.study.references import correlation, suggestions

ROWS = [
    {"prompt": f"Say {word}.", "chosen": f" {word}" * (1 + i % 3), "rejected": f" no {word} {i}"}
    for i, word in enumerate(["bread", "fox", "jam", "help", "order", "today", "rude", "kind"] * 3)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("references")
    for name, seed in (("base", 0), ("other", 5)):
        save_model(folder / name, tiny_model("llama", seed=seed))
    extra = {"prompt": "Alone.", "completion": " one text", "label": True}
    lines = [json.dumps(row) for row in ROWS]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "odd.jsonl").write_text(json.dumps(extra) + "\n")
    return folder


def log_prob(folder: Path, prompt: str, text: str) -> float:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    first = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    rest = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    with torch.no_grad():
        logs = model(torch.tensor([first + rest])).logits[0].double().log_softmax(-1)
    return float(sum(logs[len(first) + i - 1, token] for i, token in enumerate(rest)))


def test_numbers_are_the_models_own(place: Path) -> None:
    found = api.compare_references(
        place / "base",
        place / "rows.jsonl",
        ["self", "none", "prior", f"model:{place / 'other'}"],
        prompts=3,
        kl_max_new_tokens=4,
    )
    assert [fact.reference.partition(":")[0] for fact in found.references] == [
        "self",
        "none",
        "prior",
        "model",
    ]
    own, none, prior, other = found.references
    assert own.log_ratio_chosen is not None and own.log_ratio_chosen.estimate == 0.0
    assert own.margin_correlation == pytest.approx(1.0)
    assert own.kl_model_reference is not None and own.kl_model_reference.estimate == pytest.approx(
        0, abs=1e-9
    )
    assert none.log_ratio_chosen is None and none.against_label is None
    assert prior.kl_model_reference is None and prior.margin_correlation is not None
    ratios, ranks = [], []
    for row in ROWS[:8]:
        sides = [log_prob(place / name, row["prompt"], row["chosen"]) for name in ("base", "other")]
        ratios.append(sides[0] - sides[1])
        ranks.append(sides[1] < log_prob(place / "other", row["prompt"], row["rejected"]))
    some = api.compare_references(
        place / "base", place / "rows.jsonl", [str(place / "other")], rows=8, prompts=0
    )
    (fact,) = some.references
    assert (some.pairs, some.left_out, fact.pairs) == (8, 16, 8)
    # fp32 sums of a dozen tokens of a few nats each.
    assert fact.log_ratio_chosen is not None and fact.against_label is not None
    assert fact.log_ratio_chosen.estimate == pytest.approx(np.mean(ratios), abs=1e-4)
    assert fact.against_label.estimate == pytest.approx(np.mean(ranks))
    assert fact.kl_model_reference is None  # no prompt was answered
    assert other.kl_model_reference is not None and other.kl_reference_model is not None
    assert other.kl_model_reference.estimate > 0 < other.kl_reference_model.estimate


def test_pairs_of_one_prompt_are_one_in_every_interval(place: Path, tmp_path: Path) -> None:
    found = api.compare_references(
        place / "base", place / "rows.jsonl", [f"model:{place / 'other'}"], prompts=0
    )
    (fact,) = found.references
    assert fact.pairs == len(ROWS) == 24
    for estimate in (fact.log_ratio_chosen, fact.log_ratio_rejected, fact.log_prob_per_token):
        assert estimate is not None and estimate.n == 8
    assert fact.against_label is not None and fact.against_label.n == 8


def test_a_reference_of_another_tokenizer_has_scores_of_texts_and_no_kl(place: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "foreign", tiny_model("llama", vocab_size=300, seed=7))
    found = api.compare_references(
        place / "base", place / "rows.jsonl", [f"model:{tmp_path / 'foreign'}"], rows=4, prompts=2
    )
    (fact,) = found.references
    assert fact.kl_model_reference is None and fact.kl_reference_model is None
    assert any("its tokenizer is another (300 against 384 tokens)" in note for note in fact.notes)
    assert any("times as many tokens as the model" in note for note in fact.notes)
    own = [log_prob(place / "base", row["prompt"], row["chosen"]) for row in ROWS[:4]]
    other = [log_prob(tmp_path / "foreign", row["prompt"], row["chosen"]) for row in ROWS[:4]]
    assert fact.log_ratio_chosen is not None
    assert fact.log_ratio_chosen.estimate == pytest.approx(np.subtract(own, other).mean(), abs=1e-4)
    assert fact.log_ratio_chosen.low is not None and fact.length_slope is not None


def test_an_artifact_of_other_rows_is_refused_and_of_some_counted(place: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:5]))
    api.score(place / "other", few, tmp_path / "table")
    found = api.compare_references(
        place / "base", place / "rows.jsonl", [f"artifact:{tmp_path / 'table'}"], rows=8, prompts=0
    )
    (fact,) = found.references
    assert (fact.pairs, fact.missing) == (5, 3)
    assert any("no score for 3 of 8 pairs" in note for note in fact.notes)
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_text(json.dumps({"prompt": "x", "chosen": " a", "rejected": " b"}) + "\n")
    with pytest.raises(DataError, match="made from other rows"):
        api.compare_references(place / "base", elsewhere, [f"artifact:{tmp_path / 'table'}"], prompts=0)


def test_refusals_are_one_line(place: Path) -> None:
    for names, said in ((["self", "self"], "each once"), (["gpt"], "not known here"), ([], "at least one")):
        with pytest.raises(UsageError, match=said):
            api.compare_references(place / "base", place / "rows.jsonl", names)
    with pytest.raises(UsageError, match="--rows: 0; give at least 1"):
        api.compare_references(place / "base", place / "rows.jsonl", ["self"], rows=0)


def test_suggestions_rest_on_their_numbers() -> None:
    def fact(r: float, against: tuple[float, float, float]) -> ReferenceFacts:
        middle, low, high = against
        estimate = {"estimate": middle, "low": low, "high": high, "se": 0.01, "n": 100, "level": 0.95}
        return ReferenceFacts.model_validate(
            {
                "reference": "model:x", "description": "", "pairs": 100, "missing": 0,
                "log_ratio_chosen": None, "log_ratio_rejected": None, "log_prob_per_token": None,
                "against_label": estimate, "margin_correlation": r, "length_slope": -1.0,
                "length_r_squared": 0.5, "kl_model_reference": None, "kl_reference_model": None,
            }
        )  # fmt: skip

    assert "60% of the pairs against" in suggestions([fact(0.9, (0.6, 0.55, 0.65))])[0]
    assert "dissimilar (margins correlate 0.20" in suggestions([fact(0.2, (0.5, 0.4, 0.6))])[0]
    assert "is similar" in suggestions([fact(0.8, (0.4, 0.35, 0.45))])[0]
    # Nothing clear: only the line that says what these are.
    assert len(suggestions([fact(0.8, (0.49, 0.4, 0.58))])) == 1


def test_correlation_of_what_does_not_vary_is_unknown() -> None:
    assert correlation(np.zeros(3), np.arange(3.0)) is None
    assert correlation(np.arange(3.0), -np.arange(3.0)) == pytest.approx(-1)


def test_the_table_fits_80_columns(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = ["--model", str(place / "base"), "--data", str(place / "rows.jsonl"), "--reference", "self,prior"]
    run: Callable[..., None] = main
    with pytest.raises(SystemExit) as stopped:
        run(["reference", "compare", *words, "--prompts", "2", "--kl-max-new-tokens", "4"])
    assert stopped.value.code in (0, None)
    table = capsys.readouterr().out
    assert "ranks against label" in table and "KL(model || reference)" in table
    with pytest.raises(SystemExit):
        run(["reference", "compare", *words, "--prompts", "0", "--json"])
    assert len(json.loads(capsys.readouterr().out)["references"]) == 2
