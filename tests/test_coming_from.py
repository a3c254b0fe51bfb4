"""docs/coming-from.md is true: every file on it is written, every command is run, to a trained model."""

import json
import re
import shlex
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.tiny import gentle_model, save_model
from tether.cli.main import main
from tether.config.parse import read_yaml
from tether.config.translate import TOOLS, tool_of, translate

PAGE = Path(__file__).resolve().parents[1] / "docs" / "coming-from.md"
FAST = ["--max-steps", "2", "--measure-prompts", "0", "--quiet"]


def pieces() -> list[tuple[str, str]]:
    """Return the page's files and commands, in order: (name, text) and ("", command)."""
    found: list[tuple[str, str]] = []
    for kind, text in re.findall(
        r"^```(yaml|sh)\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    ):
        if kind == "yaml":
            name = re.match(r"# (\S+)\n", text)
            assert name is not None, "a config on this page begins with its file's name"
            found.append((name[1], text))
        else:
            found += [("", line) for line in text.splitlines()]
    return found


def make_files(folder: Path) -> None:
    save_model(folder / "base", gentle_model(), chat=True)

    def said(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    asked = [
        (f"What about {word}?", f"Gladly: {word}.", f"No {word}.")
        for word in ("bread", "jam", "tea", "rice", "figs", "oil")
    ]
    pairs = [
        {"prompt": said("user", p), "chosen": said("assistant", c), "rejected": said("assistant", r)}
        for p, c, r in asked
    ]
    openai = [
        {
            "input": {"messages": row["prompt"], "tools": [], "parallel_tool_calls": True},
            "preferred_output": row["chosen"],
            "non_preferred_output": row["rejected"],
        }
        for row in pairs
    ]
    for name, rows in (("pairs", pairs), ("openai", openai)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_walk_ends_with_a_trained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    runs: list[str] = []
    for name, text in pieces():
        if name:
            Path(name).write_text(text)
            continue
        program, *words = shlex.split(text)
        assert program == "tether"
        more = FAST if words[0] == "train" else ["--max-new-tokens", "4"] if words[0] == "generate" else []
        with pytest.raises(SystemExit) as end:
            main([*words, *more])
        assert end.value.code == 0, f"{text}: {capsys.readouterr().err}"
        if words[0] == "train":
            runs.append(text)
    folders = sorted(path.parent for path in Path().glob("*/run.json"))
    assert len(folders) == len(runs) == 5
    for folder in folders:
        assert json.loads((folder / "run.json").read_text())["status"] == "finished"
        weights = next((folder / "model").glob("*.safetensors"))
        moved = [tensor for name, tensor in load_file(weights).items() if "lora_B" in name]
        assert moved and all(bool(tensor.count_nonzero()) for tensor in moved)
        assert (folder / "report.html").is_file()
    assert len(Path("answers.jsonl").read_text().splitlines()) == 6


def test_the_three_configs_are_of_the_three_tools_and_convert_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    tools: list[str] = []
    for name, text in pieces():
        if name:
            Path(name).write_text(text)
            values = read_yaml(Path(name))
            tools.append(tool_of(values))
            assert translate(values).refused == []
    assert tools == list(TOOLS)
