"""YAML is read as data: no tags, no bombs, no key twice; every refusal is one line that names the file."""

from pathlib import Path

import pytest

from tether.config.parse import MAX_YAML_BYTES, read_yaml
from tether.errors import UsageError

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)

MERGES = "a0: &a0 {x: 1, y: 2}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("beta: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("beta: !custom 1", "could not determine a constructor"),
        ("beta: 0.1\nbeta: 0.2", "'beta' is given twice"),
        (LAUGHS, "aliases stand for more than"),
        (MERGES, "more than 10000 values are merged in line 5"),
        ("a: &a {<<: *a}", "nested too deeply"),
        ("a: &a [*a]", "aliases stand for more than"),
        ("? [a, b]\n: 1", "not readable as YAML"),
        ("when: 2026-99-99", "not readable as YAML"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("- a\n- b", "found a list"),
        ("a: b: c", "not readable as YAML"),
        ("a: \x00", "not readable as YAML"),
        ("#" + "x" * (MAX_YAML_BYTES + 1), "larger than 1 MiB"),
    ],
)
def test_what_is_no_config_is_refused_in_one_line(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        read_yaml(path)
    message = str(refused.value)
    assert message.startswith(str(path)) and named in message and "\n" not in message


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tune.yaml"
    path.write_bytes(b"beta: \xff")
    with pytest.raises(UsageError, match="not readable as YAML"):
        read_yaml(path)


def test_anchors_and_merges_of_an_ordinary_config_are_read(tmp_path: Path) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text("base: &base {beta: 0.1, learning_rate: 1e-5}\nrun:\n  <<: *base\n  beta: 0.3\n")
    assert read_yaml(path)["run"] == {"beta": 0.3, "learning_rate": 1e-5}
