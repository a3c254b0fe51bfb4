"""Models of the hub in every command: one commit from start to resume, named wherever it is recorded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from tests.hubcache import HubCache
from tests.hubcache import hub as hub
from tests.tiny import save_model, tiny_model
from tests.training.test_adapters import StopAfter
from tether import api
from tether.cli.main import main
from tether.config.train import TrainConfig
from tether.errors import Interrupted, ModelError, RunFolderError
from tether.policies.artifact import read_artifact
from tether.policies.load import load_model
from tether.records.results import read_run
from tether.training.run import train

Maker = Callable[..., TrainConfig]
FIRST, SECOND = "1" * 40, "2" * 40
NAME = f"owner/tiny@{FIRST}"


@pytest.fixture
def other_folder(tmp_path: Path) -> Path:
    """Save another model of the same tokenizer: what the branch moves to."""
    return save_model(tmp_path / "other", tiny_model("llama", seed=3))


def ran(words: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    return int(end.value.code or 0)


def test_a_run_keeps_its_commit_when_the_branch_moves(
    make_config: Maker, hub: HubCache, model_folder: Path, other_folder: Path, tmp_path: Path
) -> None:
    alone = train(make_config(output_dir=str(tmp_path / "alone")))
    hub.put("owner/tiny", FIRST, model_folder)
    config = make_config(model_name_or_path="owner/tiny", reference="model:owner/tiny")
    with pytest.raises(Interrupted):
        train(config, watcher=StopAfter(2))
    hub.put("owner/tiny", SECOND, other_folder)
    record = train(config)
    assert record.status == "finished" and record.hub == {"owner/tiny": NAME}
    assert record.model["path"] == record.config["model_name_or_path"] == NAME
    assert record.model["weights"] == alone.model["weights"]
    assert record.reference["identity"]["computed"]["published"] == NAME
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["model_name_or_path"] == NAME and saved["reference"] == f"model:{NAME}"
    # The same run once more is finished; another commit asked for by name is another run.
    assert train(config).status == "finished"
    assert train(TrainConfig.model_validate(saved)).hub == {"owner/tiny": NAME}
    with pytest.raises(RunFolderError, match=f"model_name_or_path was '{NAME}'"):
        train(make_config(model_name_or_path="owner/tiny@main", reference="model:owner/tiny"))


def test_a_model_of_the_hub_trains_to_the_bits_of_its_folder(
    make_config: Maker, hub: HubCache, model_folder: Path, tmp_path: Path
) -> None:
    hub.put("owner/tiny", FIRST, model_folder)
    options: dict[str, Any] = {"use_peft": True, "max_steps": 3, "lora_r": 4}
    train(make_config(output_dir=str(tmp_path / "folder"), **options))
    named = {**options, "model_name_or_path": "owner/tiny"}
    train(make_config(output_dir=str(tmp_path / "named"), **named))
    sides = [
        load_file(tmp_path / side / "model" / "adapter_model.safetensors") for side in ("folder", "named")
    ]
    assert all(bool((sides[0][key] == sides[1][key]).all()) for key in sides[0])
    # The adapter names its base as PEFT does, and is found again from the cache alone.
    settings = json.loads((tmp_path / "named" / "model" / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("owner/tiny", FIRST)
    loaded = load_model(tmp_path / "named" / "model")
    assert loaded.weights == load_model(model_folder).weights
    api.merge(tmp_path / "named", tmp_path / "merged")
    assert load_model(tmp_path / "merged").adapter is None


def test_a_base_that_only_an_adapter_names_is_never_fetched(
    make_config: Maker, hub: HubCache, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put("owner/tiny", FIRST, model_folder)
    train(make_config(use_peft=True, max_steps=1, model_name_or_path="owner/tiny"))
    asked: list[bool] = []

    def absent(name: str, **options: Any) -> str:
        asked.append(options["local_files_only"])
        raise FileNotFoundError(name)

    monkeypatch.setattr("tether.config.hub.snapshot_download", absent)
    with pytest.raises(ModelError, match=f"hf download owner/tiny --revision {FIRST}"):
        load_model(tmp_path / "run" / "model")
    assert asked == [True]


def test_every_command_takes_a_name(
    hub: HubCache, model_folder: Path, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.put("owner/tiny", FIRST, model_folder)
    data, model = str(data_file), "owner/tiny"
    scored = tmp_path / "scored"
    assert ran(["score", "--model", model, "--data", data, "--out", str(scored), "--quiet"]) == 0
    table, manifest = read_artifact(scored)
    assert manifest["source"]["model"] == NAME and table.identity.computed["published"] == NAME
    train_it = ["train", "--model", model, "--data", data, "--output-dir", str(tmp_path / "run"), "--quiet"]
    train_it += ["--max-steps", "1", "--measure-prompts", "0"]
    assert ran([*train_it, "--reference", f"artifact:{scored}"]) == 0
    # The artifact's model was at hand, in the cache: it was scored again and agrees.
    assert "rows scored again" in read_run(tmp_path / "run").reference["verified"]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Say bread."}\n')
    answer = ["generate", model, "--prompts", str(prompts), "--out", str(tmp_path / "answers.jsonl")]
    assert ran([*answer, "--max-new-tokens", "3", "--quiet"]) == 0
    assert json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])["model"] == NAME
    assert ran(["check", data, "--model", model, "--quiet"]) == 0
    assert ran([*train_it[:7], "--plan"]) == 0
    capsys.readouterr()
    compare = ["reference", "compare", "--model", model, "--data", data, "--reference", "self,owner/tiny"]
    assert ran([*compare, "--prompts", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["references"][1]["reference"] == f"model:{NAME}"


def test_a_plan_needs_no_weights(
    hub: HubCache, model_folder: Path, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model_folder / "model.safetensors").unlink()
    hub.put("owner/tiny", FIRST, model_folder)
    data = ["--data", str(data_file), "--output-dir", str(tmp_path / "run")]
    assert ran(["train", "--model", "owner/tiny", *data, "--plan"]) == 0
    assert ran(["train", "--model", "owner/tiny", *data]) == 3
    assert "publishes no safetensors weights" in capsys.readouterr().err


def test_a_study_keeps_its_commits(hub: HubCache, model_folder: Path, other_folder: Path, data_file: Path,
                                   tmp_path: Path) -> None:  # fmt: skip
    hub.put("owner/tiny", FIRST, model_folder)
    hub.put("owner/other", FIRST, other_folder)
    options: dict[str, Any] = {
        "beta": [0.1], "reference": ["self", "model:owner/other"], "max_steps": 1, "eval_fraction": 0.2,
        "measured_prompts": 1, "kl_max_new_tokens": 2, "train_batch_size": 4,
    }  # fmt: skip
    study = tmp_path / "study"
    first = api.run_study("owner/tiny", data_file, study, **options)
    assert first.hub == {"owner/tiny": NAME, "owner/other": f"owner/other@{FIRST}"}
    assert {cell.state for cell in first.cells} == {"finished"}
    hub.put("owner/tiny", SECOND, other_folder)
    again = api.run_study("owner/tiny", data_file, study, **options)
    assert again.cells == first.cells and again.hub == first.hub
    assert yaml.safe_load((study / "study.yaml").read_text())["model_name_or_path"] == NAME
