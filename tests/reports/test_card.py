"""The card is valid for the Hub, carries the run's numbers, and cannot be broken by a name."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.reports.folders import make_run
from tether.errors import RunFolderError
from tether.reports.card import code, fenced, write_card


def read_card(run: Path) -> tuple[dict[str, Any], str]:
    text = write_card(run).read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_front_matter_and_body_say_what_was_run(tmp_path: Path) -> None:
    front, body = read_card(make_run(tmp_path / "run"))
    assert front["library_name"] == "transformers" and front["pipeline_tag"] == "text-generation"
    assert front["base_model"] == "models/replies-base"
    assert {"tether", "dpo", "sigmoid", "arxiv:2305.18290"} <= set(front["tags"])
    assert front["datasets"] == ["train.jsonl"]
    for expected in (
        "AutoModelForCausalLM.from_pretrained", "-log sigma(beta", "β = 0.1", "`self`", "9f2c61d0b7aa",
        "3.2 ± 0.2 nats", "gain +0.", "66 % to 78 %", "0.305 to 0.360",
        "tether train config.yaml", "## Limits",
        "of 1200 rows read, 988 were trained on, 200 held out and 12 left out", "8 rows scored again",
    ):  # fmt: skip
        assert expected in body, expected


def test_an_adapter_is_loaded_with_peft(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "model" / "adapter_config.json").write_text("{}")
    front, body = read_card(run)
    assert front["library_name"] == "peft" and "lora" in front["tags"]
    assert "AutoPeftModelForCausalLM" in body


def test_no_folder_of_this_machine_reaches_the_card(tmp_path: Path) -> None:
    base = tmp_path / "secret-place" / "base"
    base.mkdir(parents=True)
    data = {"files": [{"path": str(tmp_path / "secret-place" / "pairs.jsonl"), "split": "train"}]}
    reference = {"kind": "model", "description": f"the model in {base}"}
    run = make_run(tmp_path / "run", model={"path": str(base)}, data=data, reference=reference)
    (run / "config.yaml").write_text(f"output_dir: {tmp_path}/secret-place/o u t\nbeta: 0.1\n")
    front, body = read_card(run)
    assert front["base_model"] == "base" and front["datasets"] == ["pairs.jsonl"]
    assert "secret-place" not in json.dumps(front) + body and str(tmp_path) not in body
    assert (
        "output_dir: o u t" in body
        and "folders of this machine are left out" in body
        and "the model in base" in body
    )


def test_names_cannot_break_front_matter_or_markdown(tmp_path: Path) -> None:
    nasty = (
        'x\n---\nlicense: mit\n<script>alert(1)</script> [a](javascript:alert(1)) | ``` `` ` **b** "\u202e'
    )
    run = make_run(
        tmp_path / "run",
        run_id=nasty,
        model={"path": nasty},
        objective={"name": nasty, "equation": nasty, "source": nasty, "beta": 0.1},
        reference={"kind": nasty, "description": nasty, "verified": nasty, "identity": {nasty: nasty}},
        data={"files": [{"path": nasty, "sha256": nasty}], "read": 2, "used": 1},
        events=({"step": 1, "text": nasty},),
        versions={nasty: nasty},
    )
    (run / "config.yaml").write_text(f"# {nasty}\n```\nend\n", encoding="utf-8")
    text = write_card(run).read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert "license" not in front and set(front) == {
        "base_model", "library_name", "pipeline_tag", "tags", "datasets"
    }  # fmt: skip
    assert "\u202e" not in text
    body = text[text.index("# ") :]
    outside = re.sub(r"(?ms)^(`{3,})[^\n]*\n.*?^\1$", "", body)
    outside = re.sub(r"`[^`\n]*`", "", outside)
    assert "<script" not in outside and "\n---\n" not in outside
    assert not re.search(r"(?<!\\)\]\(javascript", outside) and "**b**" not in outside
    tables = [line for line in outside.splitlines() if line.startswith("| ") and "alert" in line]
    assert tables and all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in tables if "U+202E" in line)


@given(st.text(st.sampled_from("`~a\n"), max_size=40))
def test_no_text_ends_its_code_block_early(text: str) -> None:
    block = fenced(text).split("\n")
    assert block[0] == block[-1] and set(block[0]) == {"`"} and len(block[0]) >= 3
    assert not [line for line in block[1:-1] if block[0] in line]
    assert str(code(text)).count("`") == 2


def test_a_run_without_a_model_has_no_card(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "model" / "config.json").unlink()
    (run / "model").rmdir()
    with pytest.raises(RunFolderError, match="no model/"):
        write_card(run)


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", measurements=(), results={}, data={}, versions={})
    for name in ("samples.jsonl", "preflight.json", "metrics.jsonl", "config.yaml"):
        (run / name).unlink()
    _, body = read_card(run)
    assert "KL from the start model was not measured." in body and "Nothing held out was evaluated." in body
    assert "Data: not recorded" in body
