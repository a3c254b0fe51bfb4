"""`tether demo` in a folder that holds something else."""

from pathlib import Path

from tests.cli.conftest import Call
from tether.cli.demo import WORLD
from tether.worlds import WORLDS


def test_a_demo_folder_with_another_world_is_refused_not_studied(call: Call, tmp_path: Path) -> None:
    WORLDS[WORLD].make(tmp_path / "world", pairs=2, eval_pairs=200, prompts=64, seed=0)
    code, out, err = call("demo", "--output-dir", tmp_path)
    assert code == 3 and out == ""
    said = f"{tmp_path / 'world'}: holds a world with pairs 2, not 1000; name a new folder"
    assert said in " ".join(err.split())
    assert not (tmp_path / "study").exists()
