"""One tiny enumerable world and its base model, trained once for all tests of a worker."""

import copy
from typing import Any

import pytest
import torch

from tether.worlds import WORLDS, Conditionals, Enumerable

Both = tuple[Conditionals, Conditionals]
"""The exact laws of the policy and of the base model."""


@pytest.fixture(scope="session")
def tiny() -> Enumerable:
    world = WORLDS["enumerable-tiny"]
    assert isinstance(world, Enumerable)
    return world


@pytest.fixture(scope="session")
def tiny_base(tiny: Enumerable) -> tuple[Any, Any]:
    return tiny.base_model()


@pytest.fixture(scope="session")
def policy(tiny_base: tuple[Any, Any]) -> Any:
    """The base model pushed off, as far as training would: KL, ends and strays all differ clearly."""
    model = copy.deepcopy(tiny_base[0])
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.add_(0.08 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="session")
def tables(tiny: Enumerable, tiny_base: tuple[Any, Any], policy: Any) -> Both:
    return tiny.conditionals(policy, tiny_base[1]), tiny.conditionals(*tiny_base)


@pytest.fixture
def quick_base(monkeypatch: pytest.MonkeyPatch, tiny_base: tuple[Any, Any]) -> None:
    """Let `make` reuse the base model trained above."""
    monkeypatch.setattr(Enumerable, "base_model", lambda self, report=None: tiny_base)
