"""A command as a person types it, in 80 columns and in this process."""

from collections.abc import Callable

import pytest

from tether.cli.main import main

Call = Callable[..., tuple[int, str, str]]
Printed = Callable[..., str]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command; return its exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, out, err

    return run


@pytest.fixture
def printed(call: Call) -> Printed:
    """Run a command that succeeds; return what it printed."""

    def run(*words: object) -> str:
        code, out, err = call(*words)
        assert code == 0, err
        return out

    return run
