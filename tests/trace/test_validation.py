"""The validation: what it must notice."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.groups import Axis, ChannelGroup, Structure
from autoprune.core.space import SearchSpace
from autoprune.cost.samples import find_samples
from autoprune.trace import trace, trace_space
from autoprune.trace.validation import pin_offenders, validate
from tests.trace.random_networks import NetworkSpec, build_network, example_input


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


def roll(axis: Axis, group: ChannelGroup, key: tuple[str, int]) -> Axis:
    """Return an axis in which every channel of a group is mistaken for the next one, if it is the axis meant."""
    inside = (axis.genes >= group.start) & (axis.genes < group.start + group.width)
    rolled = group.start + (axis.genes - group.start + 1) % group.width
    return Axis(axis.tensor, axis.dim, np.where(inside, rolled, axis.genes)) if axis.key == key else axis


def shuffled(structure: Structure, g: int, role: str) -> Structure:
    """Return a structure in which one axis of a group mistakes every channel for the next one."""
    group = structure.groups[g]
    key = next((tensor, dim) for tensor, dim, r, _ in group.axes if r == role)
    return replace(structure, axes=tuple(roll(axis, group, key) for axis in structure.axes))


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
    model = build_network(NetworkSpec(blocks))
    structure = trace(model, example_input(), validate=False)
    for g, group in enumerate(structure.groups):
        report = validate(model, shuffled(structure, g, role), example_input())
        assert not report.agreed
        assert group.name in {pin.module for pin in report.offenders}


def large() -> tuple[nn.Module, Tensor]:
    """A network on images so large that it is validated on smaller ones, and in single precision first."""
    norms = [nn.BatchNorm2d(n) for n in (24, 64, 48)]
    convs = [nn.Conv2d(3, 24, 3, 2, 1), nn.Conv2d(24, 64, 3, 1, 1), nn.Conv2d(64, 48, 3, 2, 1)]
    parts = [part for conv, norm in zip(convs, norms, strict=True) for part in (conv, norm, nn.ReLU())]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 4)), torch.randn(1, 3, 320, 320)


@pytest.mark.parametrize("role", ["in", "out"])
def test_large_models(role: str) -> None:
    """On smaller images and in single precision right groups stay and wrong ones are found, as on small models."""
    model, x = large()
    samples = find_samples(model, x)
    assert samples.large
    assert samples.small.shape == (1, 3, 64, 64)
    structure = trace(model, x)
    assert [group.width for group in structure.groups] == [24, 64, 48]
    wrong = validate(model, shuffled(structure, 1, role), x)
    assert {pin.module for pin in wrong.offenders} == {structure.groups[1].name}


class Chosen(nn.Module):
    """Puts out the best of many boxes, which nothing but the last digit tells apart."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        boxes = self.head(F.relu(self.b(F.relu(self.a(x))))).permute(0, 2, 3, 1).flatten(0, 2)
        return boxes[(boxes[:, 0] * 1e6).frac().argsort()[:3]]


def test_single_precision_rejects_nothing() -> None:
    """Where rounding to single precision turns the output, the layers and double precision decide."""
    torch.manual_seed(1)
    model, x = Chosen(), torch.randn(1, 3, 16, 16)
    structure = trace(model, x)
    samples = replace(find_samples(model, x), macs=10**9)
    assert pin_offenders(model, structure, samples) is structure
    for g, group in enumerate(structure.groups):
        left = pin_offenders(model, shuffled(structure, g, "in"), samples)
        assert group.name not in {other.name for other in left.groups}


class Padded(nn.Conv2d):
    """Pads as much as it reads off its weight's shape, as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        sizes = zip(x.shape[2:], self.weight.shape[2:], self.stride, strict=True)
        h, w = (max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in sizes)
        return F.conv2d(F.pad(x, [w // 2, w - w // 2, h // 2, h - h // 2]), self.weight, self.bias, self.stride)


def test_a_kernel_whose_shape_is_read_stays() -> None:
    """A model that reads the shape of a kernel gets no group of kernel positions, and its layers keep their roles."""
    model, x = (
        nn.Sequential(Padded(3, 8, 3, 2), nn.ReLU(), Padded(8, 6, 3), nn.Conv2d(6, 4, 1)),
        torch.randn(1, 3, 8, 8),
    )
    structure = trace(model, x, validate=False)
    axes = {group.name: {axis[:3] for axis in group.axes} for group in structure.groups}
    assert axes == {
        "0": {("0.weight", 0, "out"), ("0.bias", 0, "out"), ("2.weight", 1, "in")},
        "2": {("2.weight", 0, "out"), ("2.bias", 0, "out"), ("3.weight", 1, "in")},
    }


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


def test_a_dead_layer_is_cut_freely() -> None:
    """A layer whose output nobody reads is compared where it runs, and may be cut."""
    structure = trace(Idle(), torch.randn(2, 4))
    assert [group.name for group in structure.groups] == ["idle", "used"]


class Silent(nn.Module):
    """A layer whose output is multiplied with zero before it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.silent, self.out = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)
        self.reader = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.used(x))) + self.reader(self.silent(x) * 0)


def test_unverifiable_group_is_pinned() -> None:
    """A group whose consumer's map could be shuffled unnoticed cannot be verified and is pinned with that reason."""
    structure = trace(Silent(), torch.randn(2, 4))
    assert [group.name for group in structure.groups] == ["used"]
    assert any(pin.module == "silent" and "no check can tell" in pin.reason for pin in structure.pins)


class NoBoxes(nn.Module):
    """A detector that finds nothing: its output is empty whatever the layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        boxes = self.head(F.relu(self.b(F.relu(self.a(x))))).permute(0, 2, 3, 1).flatten(0, 2)
        return boxes[boxes[:, 0] > 1e9]


@pytest.mark.parametrize("role", ["in", "out"])
def test_empty_outputs(role: str) -> None:
    """Where the output shows nothing, the layers do: right groups stay, wrong ones are found."""
    x = torch.randn(1, 3, 8, 8)
    structure = trace(NoBoxes(), x)
    assert [group.name for group in structure.groups] == ["a", "b"]
    for g, group in enumerate(structure.groups):
        offenders = {pin.module for pin in validate(NoBoxes(), shuffled(structure, g, role), x).offenders}
        assert group.name in offenders


class TrainOnly(nn.Module):
    """An auxiliary head that exists in training mode only, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.aux, self.norm, self.out = nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.a(x))
        if not self.training:
            return self.b(x)
        return self.b(x), self.out(F.dropout(F.relu(self.norm(self.aux(x)))))


def test_train_only_layers_are_compared_in_training_mode() -> None:
    """What runs in training only is cut, and a wrong map in it is found, at its own and at shared channels."""
    x = torch.randn(1, 3, 8, 8)
    structure = trace(TrainOnly(), x)
    assert [group.name for group in structure.groups] == ["a", "aux"]
    wrong_aux = validate(TrainOnly(), shuffled(structure, 1, "in"), x)
    assert {pin.module for pin in wrong_aux.offenders} == {"aux"}
    shared = replace(
        structure, axes=tuple(roll(axis, structure.groups[0], ("aux.weight", 1)) for axis in structure.axes)
    )
    assert {pin.module for pin in validate(TrainOnly(), shared, x).offenders} == {"a"}


def test_activations_in_place() -> None:
    """What is seen of a layer is not what an activation in place makes of it, whatever the width."""
    convs = [part for _ in range(3) for part in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True))]
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), *convs, nn.Conv2d(8, 4, 1)), torch.randn(2, 3, 8, 8)
    assert len(trace(model, x).groups) == 4


class IllConditioned(nn.Module):
    """Rounding is blown up by a difference of two nearly equal numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 24), nn.Linear(24, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.relu(self.a(x)))
        return self.c(((1e8 + x) - 1e8 - x) * 1e8)


def test_rounding_is_no_offence() -> None:
    """A model that blows rounding up keeps its groups: a second look measures what rounding alone does."""
    structure = trace(IllConditioned(), torch.randn(2, 4))
    assert "a" in {group.name for group in structure.groups}


def single_positions() -> tuple[nn.Module, Tensor]:
    """Norms over the two samples of a batch, one behind the other: all but a step function in training mode."""
    parts = [part for _ in range(8) for part in (nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())]
    return nn.Sequential(nn.Conv2d(3, 16, 3), *parts, nn.Conv2d(16, 4, 1)), torch.randn(1, 3, 3, 3)


def test_norms_over_two_samples_keep_their_groups() -> None:
    """Statistics over two values blow nothing up: right groups stay, and a wrong one is found."""
    model, x = single_positions()
    structure = trace(model, x)
    assert len(structure.groups) == 9
    for g in (0, 8):
        wrong = {pin.module for pin in validate(model, shuffled(structure, g, "in"), x).offenders}
        assert wrong == {structure.groups[g].name}


class Squeezed(nn.Module):
    """`squeeze()` before the head drops the channels when only one is left."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(F.relu(self.b(F.relu(self.a(x))))).squeeze())


class Even(nn.Module):
    """Insists on an even width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        if x.shape[1] % 2:
            raise RuntimeError("even, please")
        return self.c(F.relu(self.b(x)))


@pytest.mark.parametrize(
    ("make", "shape", "rules", "group", "advice"),
    [
        (Squeezed, (2, 3, 8, 8), {"min_width": 8}, "b", r"width 1 .* `flatten\(1\)` .* `min_width=2`"),
        (Even, (2, 4), {"divisor": 2}, "a", "even widths: pass `divisor=2`"),
    ],
)
def test_widths_that_the_space_excludes(
    make: type[nn.Module], shape: tuple[int, ...], rules: dict[str, int], group: str, advice: str
) -> None:
    """A model that breaks at some widths is right in a space without them; otherwise the reason names the way out."""
    x = torch.randn(shape)
    space = trace_space(make(), x, partial(SearchSpace.build, **rules))
    assert group in {g.name for g in space.structure.groups}
    everywhere = trace(make(), x)
    assert any(pin.module == group and re.search(advice, pin.reason) for pin in everywhere.pins)


def test_mistakes_within_the_widths_of_a_space_are_found() -> None:
    """Restricting the widths weakens nothing: a shuffled map is found at the widths that are left."""
    model, x = build_network(NetworkSpec(("residual", "concat"))), example_input()
    space = trace_space(model, x, partial(SearchSpace.build, divisor=4, min_width=4))
    for g in np.flatnonzero(space.variable_of >= 0).tolist():
        group = space.structure.groups[g]
        report = validate(model, shuffled(space.structure, g, "in"), x, space=space)
        assert group.name in {pin.module for pin in report.offenders}


class Noisy(nn.Module):
    """Draws noise in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.c(F.relu(self.b(x + torch.randn_like(x))))


def test_random_numbers_are_called_that() -> None:
    """A forward that draws noise per channel is told so."""
    pin = next(pin for pin in trace(Noisy(), torch.randn(2, 4)).pins if pin.module == "a")
    assert "draws random numbers" in pin.reason
    assert "switch that off" in pin.reason


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
    model = build_network(NetworkSpec(("residual",)))
    structure = trace(model, example_input())
    report = validate(model, structure, example_input(), seed=3)
    assert report.agreed
    assert report.genomes == 4
    assert report.dtype == "float64"
    assert report.checked == tuple(group.name for group in structure.groups)


class Casting(nn.Module):
    """Halves the precision on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(self.a(x).to(torch.bfloat16).relu(), self.b.weight.to(torch.bfloat16))
        return self.c(x.type_as(self.c.weight).relu())


class Autocast(Casting):
    """Runs under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.c(F.relu(self.b(F.relu(self.a(x)))))


@pytest.mark.parametrize("make", [Casting, Autocast])
def test_casts_in_forward(make: type[nn.Module]) -> None:
    """Casts inside the forward cast nothing while cut and masked models are compared: double precision tells more."""
    x = torch.randn(2, 4)
    report = validate(make(), trace(make(), x, validate=False), x)
    assert report.agreed
    assert (report.dtype, report.tolerance) == ("float64", 1e-8)


class Insisting(nn.Module):
    """Takes one precision only."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 3)
        self.dtype = dtype
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != self.dtype:
            raise TypeError(f"{self.dtype} only")
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


@pytest.mark.parametrize("role", ["in", "out"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 3e-2), (torch.float16, 1e-2)])
def test_falls_back_to_the_precision_that_runs(dtype: torch.dtype, tolerance: float, role: str) -> None:
    """A model whose code needs its precision is validated in it with the stated tolerance, and wrong maps are found."""
    x = torch.randn(2, 4, dtype=dtype)
    model = Insisting(dtype)
    structure = trace(model, x)
    report = validate(model, structure, x)
    assert report.agreed
    assert (report.dtype, report.tolerance) == (str(dtype).removeprefix("torch."), tolerance)
    for g, group in enumerate(structure.groups):
        assert group.name in {pin.module for pin in validate(model, shuffled(structure, g, role), x).offenders}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_of_every_precision(dtype: torch.dtype) -> None:
    """The structure of a model does not depend on the precision of its weights."""
    x = example_input()
    plain = trace(build_network(NetworkSpec(("residual", "split"))), x)
    other = trace(build_network(NetworkSpec(("residual", "split"))).to(dtype), x.to(dtype))
    assert plain.fingerprint == other.fingerprint
