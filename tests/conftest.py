"""Rules every test runs under: no network, one thread, shapes checked, fixed seeds."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

_HOOK = install_import_hook(["tether.records", "tether.objectives", "tether.policies"], "beartype.beartype")

import pytest
import torch
from hypothesis import settings

# The same examples every time, however long one takes: a busy machine is no failure.
settings.register_profile("tether", deadline=None, derandomize=True)
settings.load_profile("tether")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

torch.set_num_threads(1)


TIERS = ("oracle", "serve", "parity")
"""Tiers that compare with another program: where every test of one was skipped, nothing was compared."""


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a tier of which no test ran: a missing package must not read as agreement."""
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or session.config.option.markexpr not in TIERS or exitstatus != 0:
        return
    if not reporter.stats.get("passed"):
        reporter.write_line(f"{session.config.option.markexpr}: every test was skipped, nothing was compared")
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


class NetworkUsed(AssertionError):
    """A test tried to leave the machine."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that is not to this machine itself."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else address
        if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
            raise NetworkUsed(f"a test connected to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    """Start every test from the same random state."""
    torch.manual_seed(0)
    yield


@pytest.fixture
def real_data() -> Path:
    """Return the folder of real preference data, or skip where it is not beside the checkout."""
    if not DATA.is_dir():
        pytest.skip("real preference data is not redistributed with the project (see CONTRIBUTING.md)")
    return DATA
