"""A classifier's reward is its own softmax, text by text, whatever shares the batch."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.tiny import gentle_model, save_model
from tether.errors import ModelError, UsageError
from tether.tasks.reward import ClassifierReward, classifier_named

PROMPTS = ["The quick", "In 2026", ({"role": "user", "content": "No."},)]
ANSWERS = [" brown fox jumps over the lazy dog", "", " I will not do that."]


def test_the_reward_is_the_labels_probability_of_prompt_and_answer(classifier_folder: Path) -> None:
    found = ClassifierReward(str(classifier_folder), "POSITIVE")(PROMPTS, ANSWERS)
    model = AutoModelForSequenceClassification.from_pretrained(classifier_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(classifier_folder)
    for text, value in zip(("The quick" + ANSWERS[0], "In 2026", "No." + ANSWERS[2]), found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0].double()
        # One row against a padded batch in fp32.
        assert value == pytest.approx(float(logits.softmax(-1)[1]), abs=1e-5)
    assert max(found) - min(found) > 1e-3
    other = ClassifierReward(str(classifier_folder), "NEGATIVE")(PROMPTS, ANSWERS)
    assert [a + b for a, b in zip(found, other, strict=True)] == pytest.approx([1.0] * 3, abs=1e-9)


def test_what_is_no_classifier_or_names_no_label_is_refused(classifier_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no label 'GOOD'; there are NEGATIVE, POSITIVE"):
        ClassifierReward(str(classifier_folder), "GOOD")
    with pytest.raises(UsageError, match="write CLASSIFIER#LABEL"):
        classifier_named("siebert/x", str(classifier_folder))
    with pytest.raises(ModelError, match="no trained classifier"):
        ClassifierReward(str(save_model(tmp_path / "lm", gentle_model())), "LABEL_0")
