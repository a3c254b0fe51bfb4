"""The page of a task says what its numbers say, by a rule that looks at every temperature."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.reports.reading import Page
from tether.errors import DataError
from tether.records.comparison import Estimate
from tether.records.results import write_json
from tether.records.task import Example, FrontierPoint, Gap, TaskPolicy, TaskRecord, WinRate
from tether.reports.task_page import csv_tables, verdict, write_task_page

TEMPERATURES = (0.0, 0.5, 1.0)
KINDS: dict[str, Any] = {
    "model": ("base", None),
    "preferred-ft": ("preferred-ft", None),
    "dpo-beta-0.1": ("dpo", 0.1),
    "unlikelihood-0.1": ("unlikelihood", 0.1),
    "best-of-4": ("best-of-n", 4),
    "best-of-4-true": ("best-of-n-true", 4),
}
BAD = "<script>alert(1)</script> \u202egnp.exe"


def number(value: float, reach: float = 5.0) -> Estimate:
    return Estimate(value=value, low=value - reach, high=value + reach, se=reach / 2)


def record(dpo: tuple[float, ...] = (80, 70, 50), *, known: bool = True, **changes: Any) -> TaskRecord:
    """A task whose DPO model wins this much at each temperature, the others 50 %."""
    rates = [
        WinRate(
            policy=name,
            temperature=temperature,
            win_rate=number(dpo[i] if name == "dpo-beta-0.1" else 50),
            ties=1.0,
            prompts=200,
            failed=0,
            reward=number(1.5, 0.2) if known else None,
            reference_reward=0.5 if known else None,
            chars=40.0,
            cut=0.0,
        )
        for i, temperature in enumerate(TEMPERATURES)
        for name in KINDS
    ]
    gaps = [
        Gap(
            policy="dpo-beta-0.1",
            other=name,
            temperature=temperature,
            points=number(dpo[i] - 50),
            distinguishable=abs(dpo[i] - 50) > 5,
            prompts=200,
        )
        for i, temperature in enumerate(TEMPERATURES)
        for name in KINDS
        if name != "dpo-beta-0.1"
    ]
    points = [
        FrontierPoint(
            policy=name,
            kind=KINDS[name][0],
            setting=KINDS[name][1],
            step=step,
            kl=number(step / 10, 0.1),
            reward=number(step / 20, 0.2),
            prompts=64,
        )
        for name in ("dpo-beta-0.1", "unlikelihood-0.1")
        for step in (0, 10, 20)
    ]
    values: dict[str, Any] = {
        "task": "dialogue",
        "title": "Dialogue, made up",
        "size": "world",
        "tether_version": "0.1.0",
        "created": "2026-11-21T00:00:00+00:00",
        "config": {"task": "dialogue", "beta": 0.1, "differences": ["AdamW; the paper used RMSprop"]},
        "judge": "world:dialogue",
        "reward": "the known reward of the world dialogue" if known else None,
        "references": "texts",
        "data": {"test_prompts": 200},
        "policies": tuple(
            TaskPolicy(name=name, kind=kind, text=f"what {name} is", setting=setting, compared=True)
            for name, (kind, setting) in KINDS.items()
        ),
        "win_rates": tuple(rates),
        "gaps": tuple(gaps),
        "frontier": tuple(points) if known else (),
        "examples": tuple(
            Example(
                prompt=({"role": "user", "content": f"{i}: {BAD}"},),
                reference=BAD,
                reference_score=0.5 if known else None,
                answers={name: f"answer {i} of {name} {BAD}" for name in KINDS},
                scores={name: 1.25 for name in KINDS} if known else {},
            )
            for i in range(5)
        ),
        "example_temperature": 1.0,
        "stages": ({"name": "data", "seconds": 3.0},),
        **changes,
    }
    return TaskRecord.model_validate(values)


@pytest.mark.parametrize(
    ("dpo", "headline"),
    [
        ((80, 70, 60), "DPO beats the references at every temperature"),
        ((80, 70, 52), "DPO beats the references at temperatures 0 and 0.5"),
        ((80, 52, 30), "DPO beats the references at temperature 0 and loses to them at temperature 1"),
        ((40, 30, 20), "DPO loses to the references at every temperature"),
        ((50, 48, 20), "DPO loses to the references at temperature 1"),
        ((54, 46, 50), "DPO and the references cannot be told apart"),
        ((55, 45, 50), "DPO and the references cannot be told apart"),
    ],
)
def test_the_headline_follows_from_every_interval(dpo: tuple[float, ...], headline: str) -> None:
    found, sentences = verdict(record(dpo))
    assert found == headline
    assert f"wins {dpo[0]} % ({dpo[0] - 5} to {dpo[0] + 5}) at temperature 0" in sentences[0]


def test_what_dpo_is_compared_with_is_said_with_what_is_not_told_apart() -> None:
    sentences = verdict(record((80, 30, 52)))[1]
    assert sentences[1].startswith("Against the start model on the same prompts: ahead at temperature")
    assert sentences[2] == (
        "Against Preferred-FT on the same prompts: ahead at temperature 0, behind at temperature 0.5, "
        "not distinguishable at the others."
    )
    assert len(sentences) == 5


def test_the_page_is_one_file_that_runs_and_fetches_nothing(tmp_path: Path) -> None:
    write_json(tmp_path / "task.json", record())
    html = write_task_page(tmp_path).read_text(encoding="utf-8")
    page = Page(html)
    assert not page.find("script") and not page.find("img")
    assert all(not e.attributes.get("src") for e in page.elements)
    assert "alert(1)" in page.text and "<script>alert" not in html
    assert "\u202e" not in html
    assert "Not as published: AdamW; the paper used RMSprop." in page.text
    assert page.text.count("what dpo-beta-0.1 is") == 1
    assert len([e for e in page.find("svg") if e.attributes.get("role") == "img"]) == 3
    assert "80 (75 to 85)" in page.text and "+30 (+25 to +35)" in page.text
    for link in page.find("a"):
        assert (tmp_path / link.attributes["href"]).is_file()


def test_without_a_known_reward_nothing_of_it_is_shown(tmp_path: Path) -> None:
    write_json(tmp_path / "task.json", record(known=False))
    page = Page(write_task_page(tmp_path).read_text(encoding="utf-8"))
    assert "Mean reward" not in page.text and "Reward against KL" not in page.text
    assert len([e for e in page.find("svg") if e.attributes.get("role") == "img"]) == 1


def test_every_number_is_in_a_csv(tmp_path: Path) -> None:
    whole = record()
    write_json(tmp_path / "task.json", whole)
    write_task_page(tmp_path)
    for name, rows in csv_tables(whole).items():
        with (tmp_path / "report" / f"{name}.csv").open(newline="") as stream:
            read = list(csv.DictReader(stream))
        assert len(read) == len(rows) > 0
    with (tmp_path / "report" / "table_win_rates.csv").open(newline="") as stream:
        first = next(csv.DictReader(stream))
    assert (first["win_rate"], first["win_rate_low"], first["win_rate_high"]) == ("50.0", "45.0", "55.0")


def test_a_folder_without_a_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished task here"):
        write_task_page(tmp_path)
    (tmp_path / "task.json").write_text(json.dumps({"task": 3}))
    with pytest.raises(DataError, match=r"not a task\.json of this version"):
        write_task_page(tmp_path)
