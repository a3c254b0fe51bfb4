"""A run that takes over what another made gives the same bits as one that made it itself."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import spoil_reference
from tether.records.results import file_digest, read_lines
from tether.training.run import Given, train
from tether.training.sharing import Kept

Make = Callable[..., Any]
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")


def digest(folder: Path) -> str:
    (path,) = (folder / "model" / name for name in WEIGHTS if (folder / "model" / name).is_file())
    return file_digest(path)


def lines(folder: Path) -> list[dict[str, Any]]:
    return list(read_lines(folder / "metrics.jsonl"))


@pytest.mark.parametrize("peft", [False, True])
def test_runs_that_share_give_the_bits_of_runs_alone(
    make_config: Make, eval_file: Path, tmp_path: Path, peft: bool
) -> None:
    kept = Kept(tmp_path / "shared")
    cells = [
        {"beta": 0.5, "max_steps": 3},
        {"beta": 0.05, "max_steps": 3, "seed": 8, "split_seed": 7},
        {"loss_type": "ipo", "max_steps": 3},
        {"beta": 0.1, "reference": "prior", "max_steps": 3},
        {"beta": 0.1, "reference": "none", "max_steps": 3},
    ]
    for number, options in enumerate(cells):
        options = {"eval_dataset_name": str(eval_file), "use_peft": peft, "lora_r": 4, **options}
        folders = [tmp_path / f"{kind}-{number}" for kind in ("alone", "shared")]
        train(make_config(output_dir=str(folders[0]), **options))
        train(make_config(output_dir=str(folders[1]), **options), given=Given(shared=kept))
        assert digest(folders[0]) == digest(folders[1])
        assert lines(folders[0]) == lines(folders[1])
    # One split for both seeds, one base model, its layout chosen once, `self` scored once and `prior` once.
    assert kept.made == {"rows": 1, "models": 1, "layouts": 1, "references": 2, "step 0": 1}


def test_another_process_takes_rows_and_references_from_disk(
    make_config: Make, eval_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"eval_dataset_name": str(eval_file), "max_steps": 2}
    train(make_config(output_dir=str(tmp_path / "a"), **options), given=Given(shared=Kept(tmp_path / "s")))
    from tether.training import prepare, references

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(prepare, "read", never)
    monkeypatch.setattr(references, "write_artifact", never)
    other = Kept(tmp_path / "s")
    train(make_config(output_dir=str(tmp_path / "b"), **options), given=Given(shared=other))
    assert other.made == {"models": 1, "layouts": 1, "step 0": 1}
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_reference_of_fewer_rows_is_another_reference(make_config: Make, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "shared")
    for name, fraction in (("whole", 1.0), ("half", 0.5)):
        options = {"data_fraction": fraction, "max_steps": 2, "output_dir": str(tmp_path / name)}
        record = train(make_config(**options), given=Given(shared=kept))
        alone = train(make_config(**{**options, "output_dir": str(tmp_path / f"{name}-alone")}))
        assert digest(tmp_path / name) == digest(tmp_path / f"{name}-alone")
        assert record.data["used"] == alone.data["used"] == 24 * fraction
    assert kept.made["references"] == 2
    (finding,) = (f for f in record.data["findings"] if f["kind"] == "data_fraction")
    assert finding["count"] == 12


def test_of_entries_that_hold_a_model_only_the_last_stays_loaded(tmp_path: Path) -> None:
    class Model:
        pass

    kept = Kept(tmp_path)
    for name in ("scorers", "reference tokens"):
        first, second = (weakref.ref(kept.once(name, {"path": path}, Model)) for path in "ab")
        gc.collect()
        assert first() is None and second() is not None
    assert kept.once("scorers", {"path": "b"}, Model) is not None
    assert kept.made == {"scorers": 2, "reference tokens": 2}


def test_a_reference_that_failed_its_check_is_kept_for_nobody(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tether.errors import GuardStop

    spoil_reference(monkeypatch, 0.5)
    kept = Kept(tmp_path / "shared")
    with pytest.raises(GuardStop, match="step 0"):
        train(make_config(), given=Given(shared=kept))
    assert "references" not in kept.made
    assert not list((tmp_path / "shared" / "references").glob("*/manifest.json"))
