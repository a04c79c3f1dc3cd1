"""The validation: what it must notice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.groups import Axis, Structure
from autoprune.testing.networks import Recipe, build_network, example_input
from autoprune.trace import trace
from autoprune.trace.validation import validate


def shuffled(structure: Structure, g: int, role: str) -> Structure:
    """Return a structure in which one axis of a group mistakes every channel for the next one."""
    group = structure.groups[g]
    key = next((tensor, dim) for tensor, dim, r, _ in group.axes if r == role)

    def roll(axis: Axis) -> Axis:
        inside = (axis.genes >= group.start) & (axis.genes < group.start + group.width)
        rolled = group.start + (axis.genes - group.start + 1) % group.width
        return Axis(axis.tensor, axis.dim, np.where(inside, rolled, axis.genes)) if axis.key == key else axis

    return replace(structure, axes=tuple(roll(axis) for axis in structure.axes))


class Residual(nn.Module):
    """A residual block whose last gamma is zero, as many recipes initialize it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.conv1 = nn.Conv2d(8, 6, 1)
        self.conv2 = nn.Conv2d(6, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        nn.init.zeros_(self.norm.weight)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.fc(F.relu(x + self.norm(self.conv2(F.relu(self.conv1(x))))).mean((2, 3)))


@pytest.mark.parametrize("role", ["in", "out"])
@pytest.mark.parametrize("blocks", [("residual", "concat"), ("split", "depthwise"), ("shuffle",), ("pixel_shuffle",)])
def test_shuffled_index_map_is_caught(blocks: tuple[str, ...], role: str) -> None:
    """A structure with one shuffled index map is rejected, and the shuffled group is among the offenders."""
    model = build_network(Recipe(blocks))
    structure = trace(model, example_input(), validate=False)
    for g, group in enumerate(structure.groups):
        report = validate(model, shuffled(structure, g, role), example_input())
        assert not report.agreed
        assert group.name in {pin.module for pin in report.offenders}


def test_zero_gamma_hides_nothing() -> None:
    """A wrong map behind a zero-initialized gamma is caught: weights are re-drawn."""
    model = Residual()
    x = torch.randn(1, 3, 8, 8)
    structure = trace(model, x)
    g = structure.index("conv1")
    assert "conv1" in {pin.module for pin in validate(model, shuffled(structure, g, "in"), x).offenders}


class Idle(nn.Module):
    """A layer whose output nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(4, 6)
        self.idle = nn.Linear(4, 6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.idle(x)
        return self.out(F.relu(self.used(x)))


def test_unverifiable_group_is_pinned() -> None:
    """A group whose channels do not reach the output cannot be verified and is pinned with that reason."""
    structure = trace(Idle(), torch.randn(2, 4))
    assert [group.name for group in structure.groups] == ["used"]
    assert any(pin.module == "idle" and "no check can tell" in pin.reason for pin in structure.pins)


class Fragile(nn.Module):
    """One of three layers insists on its width in a way that no trace can see."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        if len(x[0]) != 6:
            raise RuntimeError("six features please")
        return self.d(F.relu(self.c(x)))


def test_offender_is_found_by_bisection() -> None:
    """Only the group that breaks the forward is pinned, with the error and its source line."""
    structure = trace(Fragile(), torch.randn(2, 4))
    assert [group.name for group in structure.groups] == ["a", "c"]
    pin = next(pin for pin in structure.pins if pin.module == "b")
    assert "six features please" in pin.reason
    assert "test_validation.py:" in pin.source


def test_report_of_a_right_structure() -> None:
    """A right structure agrees in double precision at four genomes."""
    model = build_network(Recipe(("residual",)))
    structure = trace(model, example_input())
    report = validate(model, structure, example_input(), seed=3)
    assert report.agreed
    assert report.genomes == 4
    assert report.dtype == "float64"
    assert report.checked == tuple(group.name for group in structure.groups)


class SinglePrecision(nn.Module):
    """Code that insists on float32."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x.float())) + torch.zeros(1, dtype=torch.float32))


def test_falls_back_to_single_precision() -> None:
    """A model whose code needs float32 is validated in float32 with the stated tolerance."""
    x = torch.randn(2, 4)
    structure = trace(SinglePrecision(), x)
    report = validate(SinglePrecision(), structure, x)
    assert report.agreed
    assert report.dtype == "float32"
    assert report.tolerance == 1e-3
