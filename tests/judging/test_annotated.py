import json
from pathlib import Path

from tether.judging.annotated import annotated_verdicts


def _row(prompt: str, model: str, preference: float | None, **changes) -> dict:
    base = {
        "instruction": prompt, "output_1": "base says", "output_2": f"{model} says", "generator_1": "b",
        "generator_2": model, "annotator": "j", "preference": preference,
    }  # fmt: skip
    return {**base, **changes}


def test_rows_become_verdicts_of_the_model_against_its_baseline_by_prompt(tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(json.dumps([_row("p", "m", 1.25), _row("q", "m", 0), _row("r", "m", None)]))
    two.write_text(json.dumps([_row("q", "n", 2, annotator=None, generator_1=None), _row("p", "n", 1)]))
    found = annotated_verdicts([one, tmp_path / "numbers.parquet", two])
    assert [(v.id, v.model_a) for v in found] == [("p", "m"), ("p", "n"), ("q", "m"), ("q", "n"), ("r", "m")]
    assert [v.share for v in found] == [0.25, 0.0, 0.5, 1.0, None]
    assert all((v.orders, v.b_first) == (1, None) for v in found)
    assert (found[0].answer_a, found[0].answer_b, found[0].model_b, found[0].judge) == (
        "m says", "base says", "b", "j",
    )  # fmt: skip
    assert (found[3].model_b, found[3].judge) == ("baseline", "annotations")
