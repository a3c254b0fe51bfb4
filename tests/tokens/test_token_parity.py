"""The same rows give TRL's token ids, where TRL leaves nothing out of the context."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.tiny import tiny_tokenizer
from tests.tokens.variants import CHATML, LLAMA3, assistant, chat_tokenizer, renderer, row, user

pytestmark = pytest.mark.parity

WORDS = [
    ("Human: hi\n\nAssistant:", " Hello there.", " No!"),
    ("bread and", " jam", ""),
    ("日本", " é\n\n x", " y"),
]


def prepared_by_trl(tokenizer: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    arguments = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
    prepare = trl.DPOTrainer._prepare_dataset
    made = prepare(
        SimpleNamespace(_tokenizer=tokenizer), datasets.Dataset.from_list(rows), tokenizer, arguments, "t"
    )
    return list(made)


@pytest.mark.parametrize("template", [None, CHATML, LLAMA3])
def test_prompt_and_completion_ids_are_those_of_trl(template: str | None):
    tokenizer = tiny_tokenizer(chat=False) if template is None else chat_tokenizer(template)
    stops = ("</s>",) if template is None else ("<|im_end|>", "<|eot_id|>")
    rows = []
    for prompt, chosen, rejected in WORDS:
        if template is None:
            rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
        else:
            rows.append(
                {"prompt": [user(prompt)], "chosen": [assistant(chosen)], "rejected": [assistant(rejected)]}
            )
    theirs = prepared_by_trl(tokenizer, rows)
    ours = renderer(tokenizer, *stops).encode_all(
        [
            row(*(tuple(v) if isinstance(v, list) else v for v in (r["prompt"], r["chosen"], r["rejected"])))
            for r in rows
        ]
    )
    newline = tokenizer("\n")["input_ids"] if template == CHATML else []
    for group, expected in zip(ours, theirs, strict=True):
        assert group.prompt_ids == expected["prompt_ids"]
        for completion, name in zip(group.completions, ("chosen_ids", "rejected_ids"), strict=True):
            # TRL scores the newline ChatML writes after the end token; tether does not.
            assert completion.ids + newline == expected[name]
