"""One tiny enumerable world and its base model, trained once for all tests of a worker."""

from typing import Any

import pytest

from tether.worlds import WORLDS, Enumerable


@pytest.fixture(scope="session")
def tiny() -> Enumerable:
    world = WORLDS["enumerable-tiny"]
    assert isinstance(world, Enumerable)
    return world


@pytest.fixture(scope="session")
def tiny_base(tiny: Enumerable) -> tuple[Any, Any]:
    return tiny.base_model()


@pytest.fixture
def quick_base(monkeypatch: pytest.MonkeyPatch, tiny_base: tuple[Any, Any]) -> None:
    """Let `make` reuse the base model trained above."""
    monkeypatch.setattr(Enumerable, "base_model", lambda self, report=None: tiny_base)
