"""Deep networks: nothing is pinned for its depth, and a wrong map is found however deep it lies."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.groups import Structure
from autoprune.trace import trace
from autoprune.trace.validation import validate
from tests.trace.test_validation import shuffled

DEPTH = 50


class Block(nn.Module):
    """A residual block without norms: its stream grows from block to block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.a(x)))


def plain(activation: type[nn.Module]) -> nn.Module:
    """Layer after layer, narrow: a signal forgets where it came from."""
    parts = [part for _ in range(DEPTH) for part in (nn.Linear(12, 12), activation())]
    return nn.Sequential(*parts, nn.Linear(12, 3))


def residual() -> nn.Module:
    """Block after block: a signal explodes."""
    return nn.Sequential(nn.Linear(12, 12), *(Block(12) for _ in range(DEPTH // 2)), nn.Linear(12, 3))


NETS = {"relu": lambda: plain(nn.ReLU), "tanh": lambda: plain(nn.Tanh), "residual": residual}


@cache
def traced(name: str) -> tuple[nn.Module, Tensor, Structure]:
    """Return a network, its input and its structure."""
    torch.manual_seed(0)
    model, x = NETS[name](), torch.randn(1, 12)
    return model, x, trace(model, x)


@pytest.mark.parametrize("name", NETS)
def test_only_the_output_is_pinned(name: str) -> None:
    """Every group of a deep network may be cut."""
    _, _, structure = traced(name)
    assert len(structure.groups) == (DEPTH if name != "residual" else DEPTH // 2 + 1)
    assert [pin.reason for pin in structure.pins] == ["is part of the model's output"]


@pytest.mark.parametrize(("place", "role"), [(0, "in"), (0.5, "out")])
@pytest.mark.parametrize("name", NETS)
def test_a_wrong_map_is_found_at_any_depth(name: str, place: float, role: str) -> None:
    """A shuffled map at the beginning, far from the output, or in the middle is found, and nothing else is accused."""
    model, x, structure = traced(name)
    g = round(place * (len(structure.groups) - 1))
    report = validate(model, shuffled(structure, g, role), x)
    assert {pin.module for pin in report.offenders} == {structure.groups[g].name}
