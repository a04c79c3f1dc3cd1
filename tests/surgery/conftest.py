"""Small networks with their structures written by hand, each made anew for every test."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.core.groups import Attribute, Axis, ChannelGroup, Count, Structure, TensorInfo
from autoprune.surgery.matching import named_tensors


@dataclass
class Case:
    """A network, what a trace of it finds, and an input."""

    model: nn.Module
    structure: Structure
    example: torch.Tensor


class Residual(nn.Module):
    """A residual stream of 6 channels, an inner group of 5, flattened to a linear layer by 2x2 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.conv1 = nn.Conv2d(6, 5, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(5)
        self.conv2 = nn.Conv2d(5, 6, 1)
        self.head = nn.Linear(24, 4)
        self.register_buffer("scale", torch.ones(1, 3, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x * self.scale)))
        x = x + self.conv2(F.relu(self.bn1(self.conv1(x))))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Tied(nn.Module):
    """An encoder whose weight is also the transposed decoder; the hidden layer has 5 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 5, bias=False)
        self.middle = nn.Linear(5, 5)
        self.again = nn.Linear(5, 5)
        self.again.weight = self.middle.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.again(self.middle(self.encoder(x)))
        return hidden @ self.encoder.weight


class WeightNormed(nn.Module):
    """A weight-normalized convolution of 6 channels and its consumer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3))
        self.second = nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


Axes = dict[tuple[str, int], tuple[str, str, np.ndarray]]


def structure_of(model: nn.Module, widths: dict[str, int], axes: Axes, attributes: dict[str, Count]) -> Structure:
    """Write down a structure: ``axes`` give (group, role, genes) by (tensor, dim), ``attributes`` counts by path."""
    names: dict[int, list[str]] = {}
    tensors = named_tensors(model)
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    infos = tuple(
        TensorInfo(
            aliases[0],
            tuple(tensors[aliases[0]].shape),
            "parameter" if isinstance(tensors[aliases[0]], nn.Parameter) else "buffer",
            tuple(aliases),
        )
        for aliases in names.values()
    )
    starts = dict(zip(widths, np.cumsum([0, *widths.values()]).tolist(), strict=False))
    groups = tuple(
        ChannelGroup(
            group,
            starts[group],
            width,
            tuple((t, d, role, len(genes) // width) for (t, d), (g, role, genes) in axes.items() if g == group),
        )
        for group, width in widths.items()
    )
    return Structure(
        groups=groups,
        axes=tuple(Axis(t, d, starts[group] + np.asarray(genes)) for (t, d), (group, _, genes) in axes.items()),
        tensors=infos,
        attributes=tuple(
            Attribute(path.rpartition(".")[0], path.rpartition(".")[2], (count,)) for path, count in attributes.items()
        ),
    )


def _residual() -> Case:
    model = Residual().eval()
    with torch.no_grad():
        for norm in (model.norm, model.bn1):
            for tensor in (norm.weight, norm.running_var):
                tensor.uniform_(0.5, 2.0)
            for tensor in (norm.bias, norm.running_mean):
                tensor.normal_()
    six, five = np.arange(6), np.arange(5)
    stream = {
        (name, 0): ("stem", "thru" if name.startswith("norm") else "out", six)
        for name in ("stem.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    }
    stream |= {(name, 0): ("stem", "out", six) for name in ("conv2.weight", "conv2.bias")}
    stream |= {("conv1.weight", 1): ("stem", "in", six), ("head.weight", 1): ("stem", "in", np.repeat(six, 4))}
    inner = {
        (name, 0): ("conv1", "thru" if name.startswith("bn1") else "out", five)
        for name in ("conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var")
    }
    inner |= {("conv2.weight", 1): ("conv1", "in", five)}
    zero, one = Count(0, ((0, 1),)), Count(0, ((1, 1),))
    attributes = {
        "stem.out_channels": zero,
        "norm.num_features": zero,
        "conv1.in_channels": zero,
        "conv1.out_channels": one,
        "bn1.num_features": one,
        "conv2.in_channels": one,
        "conv2.out_channels": zero,
        "head.in_features": Count(0, ((0, 4),)),
    }
    structure = structure_of(model, {"stem": 6, "conv1": 5}, stream | inner, attributes)
    return Case(model, structure, torch.randn(2, 3, 8, 8))


def _tied() -> Case:
    model = Tied().eval()
    five = np.arange(5)
    axes: Axes = {
        ("encoder.weight", 0): ("middle", "in", five),
        ("middle.weight", 0): ("middle", "out", five),
        ("middle.weight", 1): ("middle", "in", five),
        ("middle.bias", 0): ("middle", "out", five),
        ("again.bias", 0): ("middle", "out", five),
    }
    count = Count(0, ((0, 1),))
    paths = ("encoder.out_features", "middle.in_features", "middle.out_features", "again.in_features")
    attributes = dict.fromkeys((*paths, "again.out_features"), count)
    return Case(model, structure_of(model, {"middle": 5}, axes, attributes), torch.randn(3, 4))


def _weight_normed() -> Case:
    model = WeightNormed().eval()
    six = np.arange(6)
    axes: Axes = {
        ("first.bias", 0): ("first", "out", six),
        ("first.parametrizations.weight.original0", 0): ("first", "out", six),
        ("first.parametrizations.weight.original1", 0): ("first", "out", six),
        ("second.weight", 1): ("first", "in", six),
    }
    count = Count(0, ((0, 1),))
    attributes = {"first.out_channels": count, "second.in_channels": count}
    return Case(model, structure_of(model, {"first": 6}, axes, attributes), torch.randn(2, 3, 5, 5))


MAKERS: dict[str, Callable[[], Case]] = {"residual": _residual, "tied": _tied, "weight_normed": _weight_normed}


@pytest.fixture(params=MAKERS)
def case(request: Any) -> Case:
    """Every hand-written network in turn."""
    torch.manual_seed(0)
    return MAKERS[request.param]()


@pytest.fixture
def residual() -> Case:
    """The residual network."""
    torch.manual_seed(0)
    return _residual()


@pytest.fixture
def tied() -> Case:
    """The network with tied weights."""
    torch.manual_seed(0)
    return _tied()


def _masked(case: Case, kept: np.ndarray) -> nn.Module:
    """Return the dense network with every weight of the removed channels zeroed."""
    model = copy.deepcopy(case.model)
    tensors = named_tensors(model)
    with torch.no_grad():
        for axis in case.structure.axes:
            if axis.tensor.endswith(("running_mean", "running_var", "original1")):
                continue  # a zero variance or a zero direction would not be a zero channel
            removed = np.flatnonzero((axis.genes >= 0) & ~kept[axis.genes])
            tensors[axis.tensor].index_fill_(axis.dim, torch.from_numpy(removed), 0.0)
    return model


@pytest.fixture
def masked() -> Callable[[Case, np.ndarray], nn.Module]:
    """The reference for a cut: the same network, with the removed channels zeroed instead of gone."""
    return _masked


def _draw(structure: Structure, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(group.width) for group in structure.groups]
    return structure.kept_genes(orders, [int(rng.integers(1, group.width + 1)) for group in structure.groups])


@pytest.fixture
def draw() -> Callable[[Structure, int], np.ndarray]:
    """Draws kept channels: every group keeps a random number of random channels, at least one."""
    return _draw
