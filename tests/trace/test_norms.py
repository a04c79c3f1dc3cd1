"""Norms written by hand: their channels can be cut, and their statistics are of the channels that are left."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.groups import Structure
from autoprune.surgery.copying import copy_model
from autoprune.surgery.cut import cut
from autoprune.trace import trace
from autoprune.trace.validation import validate
from tests.surgery.surgery_laws import check_full_genome_is_identical, check_trains, random_kept

Mean = Callable[[Tensor], Tensor]  # over channels, which stay as a dimension of size 1
Rule = Callable[[Tensor, Mean, Tensor, Tensor], Tensor]


class Norm(nn.Module):
    """A norm by a rule, over dimension 1 of maps or over the last one of features.

    ``kept`` says which channels the statistics are taken over; None is what is under test: all that are there.
    """

    def __init__(self, width: int, rule: Rule) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(width) + 0.5), nn.Parameter(torch.randn(width))
        self.rule = rule
        self.kept: Tensor | None = None

    def mean(self, x: Tensor) -> Tensor:
        dim = 1 if x.dim() == 4 else -1
        if self.kept is None:
            return x.mean(dim, keepdim=True)
        mask = along(self.kept.to(x), x)
        return (x * mask).sum(dim, keepdim=True) / mask.sum()

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(x, self.mean, along(self.weight, x), along(self.bias, x))


def along(vector: Tensor, x: Tensor) -> Tensor:
    """Lay a vector along the channels of ``x``."""
    return vector[:, None, None] if x.dim() == 4 else vector


def rms(x: Tensor, mean: Mean, w: Tensor, b: Tensor) -> Tensor:
    """Root mean square, as language models write it."""
    return w * (x.float() if x.dtype == torch.float32 else x) * torch.rsqrt(mean(x.pow(2)) + 1e-6)


def two_pass(x: Tensor, mean: Mean, w: Tensor, b: Tensor) -> Tensor:
    """Layer norm in two passes."""
    x = x - mean(x)
    return w * (x / (mean(x**2) + 1e-6).sqrt()) + b


def moments(x: Tensor, mean: Mean, w: Tensor, b: Tensor) -> Tensor:
    """Layer norm by moments, with the scale joined to the weight first."""
    average = mean(x)
    scale = torch.rsqrt(mean(x * x) - average.square() + 1e-2) * w
    return x * scale + (b - average * scale)


def response(x: Tensor, mean: Mean, w: Tensor, b: Tensor) -> Tensor:
    """Global response normalization: how much each channel answers, relative to all."""
    size = x.abs().mean(tuple(range(2, x.dim())), keepdim=True) if x.dim() == 4 else x.abs()
    return x + w * (x * (size / (mean(size) + 1e-6))) + b


def in_place(x: Tensor, mean: Mean, w: Tensor, b: Tensor) -> Tensor:
    """By in-place functions."""
    return x.clone().div_(mean(x.abs()).add_(1e-3)).mul_(w).add_(b)


RULES: dict[str, Rule] = {f.__name__: f for f in (rms, two_pass, moments, response, in_place)}


class Sphere(nn.Module):
    """Length one over channels: a sum, in which a channel of zeros counts nothing."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        dim = 1 if x.dim() == 4 else -1
        return F.normalize(x, dim=dim) if self.how == "normalize" else x / (x.norm(dim=dim, keepdim=True) + 0.1)


class Network(nn.Module):
    """A residual stream with a norm before the branch and one at the end."""

    def __init__(self, norm: Callable[[int], nn.Module], maps: bool) -> None:
        super().__init__()

        def layer(n_in: int, n_out: int) -> nn.Module:
            return nn.Conv2d(n_in, n_out, 3, padding=1) if maps else nn.Linear(n_in, n_out)

        self.a, self.b, self.c, self.o = layer(3, 9), layer(9, 7), layer(7, 9), layer(9, 4)
        self.inner, self.outer = norm(9), norm(9)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.o(self.outer(x + self.c(torch.relu(self.b(self.inner(x))))))


def example(maps: bool) -> Tensor:
    """Return a map or a sequence."""
    return torch.randn((2, 3, 6, 6) if maps else (2, 5, 3)).double()


def masked(model: nn.Module, structure: Structure, kept: np.ndarray) -> nn.Module:
    """Return the dense model in which nothing reads what is removed, neither weights nor statistics."""
    dense = copy_model(model)
    for name in "abc":
        if name in {group.name for group in structure.groups}:
            group = structure.groups[structure.index(name)]
            mask = torch.from_numpy(kept[group.genes])
            for tensor, dim, role, _ in group.axes:
                if role == "in":
                    dense.get_parameter(tensor).data.index_fill_(dim, (~mask).nonzero()[:, 0], 0.0)
            if name == "a":
                for norm in (dense.inner, dense.outer):
                    norm.kept = mask
    return dense


@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_statistics_are_of_the_kept_channels(rule: str, maps: bool) -> None:
    """A cut norm computes what the dense one does with its statistics over the kept channels; everything trains."""
    torch.manual_seed(0)
    model = Network(lambda n: Norm(n, RULES[rule]), maps).double().eval()
    x = example(maps)
    structure = trace(model, x)
    assert {group.name for group in structure.groups} == {"a", "b"}
    check_full_genome_is_identical(model, structure)
    rng = np.random.default_rng(0)
    for _ in range(3):
        kept = random_kept(structure, rng)
        with torch.no_grad():
            expected, found = masked(model, structure, kept)(x), cut(model, structure, kept)(x)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
        check_trains(model, structure, kept, x)


@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.parametrize("how", ["normalize", "norm"])
def test_length_one(how: str, maps: bool) -> None:
    """Vectors of length one are those of the model whose removed channels are zero."""
    torch.manual_seed(0)
    model = Network(lambda _: Sphere(how), maps).double().eval()
    x = example(maps)
    structure = trace(model, x)
    assert {group.name for group in structure.groups} == {"a", "b"}
    kept = random_kept(structure, np.random.default_rng(0))
    dense = copy_model(model)
    for group in structure.groups:
        for tensor, dim, role, _ in group.axes:
            if role == "out":
                removed = torch.from_numpy(np.flatnonzero(~kept[group.genes]))
                dense.get_parameter(tensor).data.index_fill_(dim, removed, 0.0)
    with torch.no_grad():
        torch.testing.assert_close(cut(model, structure, kept)(x), dense(x), rtol=1e-8, atol=1e-8)


class Elsewhere(nn.Module):
    """A statistic over the channels of ``a`` that is used for more than these channels."""

    def __init__(self, use: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.o = nn.Sequential(nn.Conv2d(8, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 1))
        self.gate, self.mix = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(9, 8, 1)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.o(self.use(self, x, x.mean(1, keepdim=True)))


USES: dict[str, Callable[[Elsewhere, Tensor, Tensor], Tensor]] = {
    "of other channels": lambda m, x, s: m.b(x) / (s + 1),
    "read by a layer": lambda m, x, s: x * torch.sigmoid(m.gate(s)),
    "beside the channels": lambda m, x, s: m.mix(torch.cat([x, s], 1)),
    "added to other channels later": lambda m, x, s: m.b(x / (s + 1)) + s,
}


@pytest.mark.parametrize("use", USES)
def test_used_for_more_than_a_norm(use: str) -> None:
    """Where a statistic is used for more than the channels it was taken over, they stay, and the reason names it."""
    model = Elsewhere(USES[use]).eval()
    structure = trace(model, torch.randn(1, 3, 6, 6))
    assert "a" not in {group.name for group in structure.groups}
    assert "reduced over channels by `mean`" in next(pin.reason for pin in structure.pins if pin.module == "a")


def test_a_size_in_the_rule_that_does_not_follow() -> None:
    """A mean by a sum and a number that stays dense is no mean of the kept channels: found by validation."""
    model = Network(lambda n: Norm(n, lambda x, m, w, b: w * x / (x.square().sum(1, True) / x.shape[1] + 1) + b), True)  # noqa: ARG005
    structure = trace(model.eval(), torch.randn(1, 3, 6, 6))
    assert "a" not in {group.name for group in structure.groups}


def test_statistics_stay_with_the_structure() -> None:
    """A structure that was read from JSON validates as the traced one does; what runs twice is told apart."""
    torch.manual_seed(0)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.o = nn.Linear(3, 9), nn.Linear(9, 7), nn.Linear(7, 2)

        def norm(self, x: Tensor) -> Tensor:
            return x / (x.abs().mean(-1, keepdim=True) + 0.1)

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.norm(self.b(self.norm(self.a(x)))))

    model, x = Both().eval(), torch.randn(4, 3)
    structure = trace(model, x)
    assert [statistic.call for statistic in structure.statistics] == [0, 1]
    read = Structure.from_json(json.loads(json.dumps(structure.to_json())))
    assert read.fingerprint == structure.fingerprint
    assert validate(model, read, x).agreed
