"""Complex numbers: traced, cut, counted, ranked and re-solved as real ones are."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.core.groups import Structure
from autoprune.core.space import SearchSpace
from autoprune.cost.counter import count_macs, count_params, count_peak_bytes
from autoprune.cost.model import CostModel
from autoprune.cost.multiply_adds import COMPLEX, MacCounter
from autoprune.criteria import scores
from autoprune.criteria.independence import independence
from autoprune.criteria.registry import CRITERIA
from autoprune.errors import MetricError, TraceError
from autoprune.export import export
from autoprune.reconstruct import LeastSquares, collect, find_consumers
from autoprune.reconstruct.least_squares import DAMPING
from autoprune.regularizers.base import Channels
from autoprune.regularizers.registry import REGULARIZERS, make_regularizer
from autoprune.searchspaces.models.complex_layers import (
    Cardioid,
    ComplexAvgPool2d,
    ComplexBatchNorm2d,
    ComplexMaxPool2d,
    CReLU,
    ModReLU,
    complex_conv2d,
)
from autoprune.searchspaces.models.polsar import example_patches, polsar_complex, polsar_real
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_tensors, model_weights
from autoprune.surgery.precision import as_real, to_precision
from autoprune.trace import trace
from autoprune.train.distill import answers_of
from autoprune.train.recalibrate import batch_norms, move_by_difference, norm_statistics, recalibrate
from autoprune.train.tasks import Classification

C64, C128 = torch.complex64, torch.complex128


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    """Networks are the same in every run."""
    torch.manual_seed(0)


class Head(nn.Module):
    """A real linear layer that reads moduli, or both parts of every channel."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(2 * width if kind == "parts" else width, 4)

    def forward(self, z: Tensor) -> Tensor:
        z = z.mean((2, 3))
        return self.linear(torch.cat([z.real, z.imag], 1) if self.kind == "parts" else z.abs())


class Stream(nn.Module):
    """A residual stream of complex numbers, a depthwise convolution and a complex linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = complex_conv2d(6, 8, 3), ComplexBatchNorm2d(8)
        self.inner, self.back = complex_conv2d(8, 10, 1), complex_conv2d(10, 8, 3)
        self.again, self.last = complex_conv2d(8, 10, 1), complex_conv2d(10, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, dtype=C64)
        self.linear = nn.Linear(8, 5, dtype=C64)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = x + self.back(torch.tanh(self.inner(x)))
        x = x + self.last(torch.tanh(self.again(x)))
        return self.linear(self.depthwise(x).mean((2, 3))).abs()


BETWEEN: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: ComplexBatchNorm2d(8),
    "crelu": CReLU,
    "modrelu": lambda: ModReLU(8),
    "cardioid": Cardioid,
    "average": lambda: ComplexAvgPool2d(2),
    "maximum": lambda: ComplexMaxPool2d(2),
}


def chain(between: str, head: str) -> nn.Module:
    """Return two convolutions with a layer between them."""
    return nn.Sequential(complex_conv2d(6, 8, 3), BETWEEN[between](), complex_conv2d(8, 12, 3), Head(12, head)).eval()


def patches(n: int = 8) -> Tensor:
    """Return random patches."""
    return torch.randn(n, 6, 9, 9, dtype=C64, generator=torch.Generator().manual_seed(1))


def half(structure: Structure, seed: int = 0) -> np.ndarray:
    """Return kept genes of half of every group, at random."""
    rng = np.random.default_rng(seed)
    return structure.kept_genes([rng.permutation(g.width) for g in structure.groups], structure.full_widths // 2)


@pytest.mark.parametrize(("between", "head"), [*zip(BETWEEN, itertools.cycle(["modulus", "parts"]), strict=False)])
def test_every_layer_is_traced(between: str, head: str) -> None:
    """Both convolutions can be cut whatever stands between them, and `trace` has compared masked and sliced models."""
    structure = trace(chain(between, head), patches(2))
    assert [group.width for group in structure.groups] == [8, 12]


def test_the_layers_of_torchcvnn_are_traced() -> None:
    """Its activations and average pools let channels vanish; its batch norm, of matrix products, keeps them whole."""
    layers = pytest.importorskip("torchcvnn.nn")
    for name in ("CReLU", "zReLU", "Cardioid", "modReLU", "CGELU", "CPReLU"):
        net = nn.Sequential(complex_conv2d(6, 8, 3), getattr(layers, name)(), complex_conv2d(8, 12, 3), Head(12, ""))
        assert [group.width for group in trace(net.eval(), patches(2)).groups] == [8, 12], name


def test_a_stream_is_one_group() -> None:
    """Additions, depthwise kernels and complex linear layers couple complex channels as they do real ones."""
    structure = trace(Stream().eval(), patches(2))
    assert sorted(group.width for group in structure.groups) == [8, 10, 10]


@pytest.mark.parametrize("make", [lambda: chain("batch norm", "parts"), Stream, polsar_complex, polsar_real])
def test_formula_and_counter_agree(make: Callable[[], nn.Module]) -> None:
    """MACs, parameters and peak bytes of cut models are those that the formula says, as integers."""
    model = make().eval()
    space = SearchSpace.build(trace(model, patches(1), validate=False), levels=4)
    genomes = space.sample(4, np.random.default_rng(0))
    costs = CostModel(space.structure, space)(genomes)
    for i, widths in enumerate(space.widths(genomes)):
        orders = [np.arange(group.width) for group in space.structure.groups]
        small = cut(model, space.structure, space.structure.kept_genes(orders, widths)).eval()
        assert costs["macs"][i] == count_macs(small, patches(1))
        assert costs["params"][i] == count_params(small)
        if "peak_bytes" in costs:
            assert costs["peak_bytes"][i] == count_peak_bytes(small, patches(1))


@pytest.mark.parametrize("layer", ["conv", "linear"])
def test_a_complex_layer_costs_three_real_ones_and_twice_the_parameters(layer: str) -> None:
    """The factor is the same for convolutions, which torch runs as three real ones, and for matrix products."""
    found = []
    for dtype in (torch.float32, C64):
        module = nn.Conv2d(3, 5, 3, dtype=dtype) if layer == "conv" else nn.Linear(3, 5, dtype=dtype)
        x = torch.zeros((2, 3, 7, 7) if layer == "conv" else (2, 3), dtype=dtype)
        with MacCounter() as counter:
            module(x)
        found.append((counter.macs, count_params(module)))
    assert found[1] == (COMPLEX * found[0][0], 2 * found[0][1])


def blocks(conv: nn.Conv2d, z: Tensor) -> Tensor:
    """Return what the real block form of a convolution makes of real and imaginary parts laid side by side."""
    a, b = conv.weight.real, conv.weight.imag
    weight = torch.cat([torch.cat([a, -b], 1), torch.cat([b, a], 1)], 0)
    found = nn.functional.conv2d(torch.cat([z.real, z.imag], 1), weight, padding=conv.padding)
    return torch.complex(*found.chunk(2, 1))


def test_cuts_commute_with_the_real_block_form() -> None:
    """A cut convolution is its block form with channels c and C + c cut together."""
    model = chain("crelu", "modulus")
    structure = trace(model, patches(2), validate=False)
    small = cut(model, structure, half(structure))
    for net in (model, small):
        first, act, second, head = net.children()
        z = act(blocks(first, patches(2)))
        assert torch.allclose(head(blocks(second, z)), net(patches(2)), atol=1e-5)


# ---------------------------------------------------------------------------- criteria


@pytest.mark.filterwarnings("ignore:the criterion 'batchnorm' says nothing")
@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "fpgm"])
def test_criteria_do_not_see_phases(name: str) -> None:
    """Turning a channel's weights by a phase, and its readers back, changes no score but distances of filters."""
    model = nn.Sequential(complex_conv2d(6, 8, 3), complex_conv2d(8, 12, 3), Head(12, "modulus")).eval()
    structure = trace(model, patches(2), validate=False)
    batches = [(patches(), torch.arange(8) % 4)]
    found = []
    for turned in (False, True):
        if turned:
            phase = torch.polar(torch.ones(8), torch.linspace(0, 3, 8))
            with torch.no_grad():
                model[0].weight.mul_(phase[:, None, None, None])
                model[1].weight.mul_(phase.conj()[None, :, None, None])
        found.append(scores(name, model, structure, batches=batches, loss=Classification().loss, seed=0))
    for before, after in zip(*found, strict=True):
        np.testing.assert_allclose(after, before, rtol=2e-3)


@pytest.mark.parametrize("name", ["l1", "l2", "oicsr", "fpgm", "cpmc"])
def test_imaginary_parts_count(name: str) -> None:
    """A channel whose weights are purely imaginary is worth what it would be worth if they were real."""
    model = nn.Sequential(complex_conv2d(6, 8, 3), complex_conv2d(8, 12, 3), Head(12, "modulus")).eval()
    with torch.no_grad():
        for conv in (model[0], model[1]):
            conv.weight.copy_(conv.weight.real)
    structure = trace(model, patches(2), validate=False)
    real = scores(name, model, structure)
    with torch.no_grad():
        for conv in (model[0], model[1]):
            conv.weight.mul_(1j)
    for before, after in zip(real, scores(name, model, structure), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-6)


def test_independence_is_a_difference_of_nuclear_norms() -> None:
    """Of complex maps, too: a channel that is a complex multiple of another is redundant."""
    maps = torch.randn(2, 5, 20, dtype=C128, generator=torch.Generator().manual_seed(0))
    maps[:, 1] = 1j * maps[:, 0]
    whole = torch.linalg.matrix_norm(maps, "nuc")
    for c in range(5):
        without = maps.clone()
        without[:, c] = 0
        expected = whole - torch.linalg.matrix_norm(without, "nuc")
        torch.testing.assert_close(independence(maps)[:, c], expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------- reconstruction


@pytest.mark.parametrize("size", [1, 3])
def test_least_squares_is_the_minimum(size: int) -> None:
    """Re-solved complex weights are numpy's least squares with the same damping, on the same features."""
    model = nn.Sequential(complex_conv2d(6, 8, 3), complex_conv2d(8, 12, size), Head(12, "modulus")).eval()
    structure = trace(model, patches(2), validate=False)
    consumers = [c for c in find_consumers(model, structure) if c.module == "1"]
    moments = collect(model, consumers, [patches(4)])
    kept = half(structure)
    solved = LeastSquares(model_weights(model, structure), consumers, moments, max_bytes=2**20)(kept)["1.weight"]
    z = model[0](patches(4)).detach().to(C128)
    x = nn.functional.unfold(torch.view_as_real(z).movedim(-1, 0).flatten(0, 1), size, padding=size // 2)
    x = torch.complex(*x.unflatten(0, (2, 4))).movedim(1, 0).flatten(1).numpy()  # (features, rows)
    w = model[1].weight.detach().to(C128).flatten(1).numpy()
    stays = np.repeat(kept[structure.groups[0].genes], size * size)
    own = x[stays]
    gram = own @ own.conj().T / own.shape[1]
    more = DAMPING * np.abs(np.diag(gram)).mean() * np.eye(len(gram))
    lost = (w[:, ~stays] @ x[~stays]) @ own.conj().T / own.shape[1]
    expected = w[:, stays] + lost @ np.linalg.inv(gram + more)
    np.testing.assert_allclose(solved.flatten(1)[:, stays].numpy(), expected, atol=2e-4)


def test_fresh_statistics_of_complex_norms() -> None:
    """`recalibrate` finds the statistics of all items, in however many batches, and the difference of nothing is 0."""
    model = polsar_complex(width=4, n_layers=2).eval()
    stored = norm_statistics(model)
    assert len(batch_norms(model)) == 2
    recalibrate(model, [(patches(8), None)])
    dense = norm_statistics(model)
    z = model.features[0](patches(8)).detach().movedim(1, 0).flatten(1)
    torch.testing.assert_close(dense["features.1.running_mean"], z.mean(1))
    torch.testing.assert_close(dense["features.1.running_var"][0], torch.cov(torch.view_as_real(z[0]).T))
    move_by_difference(model, dense, stored)
    for name, moved in norm_statistics(model).items():
        torch.testing.assert_close(moved, stored[name], atol=1e-6, rtol=1e-5)


def test_batch_norm_whitens() -> None:
    """In training the parts of every channel come out uncorrelated, of variance a half each: a modulus of one."""
    z = patches(64) * torch.tensor([1, 2, 3, 4, 5, 6])[:, None, None]
    z = torch.complex(z.real + 0.8 * z.imag, z.imag) + 3
    out = torch.view_as_real(ComplexBatchNorm2d(6)(z).detach()).movedim(1, 0).reshape(6, -1, 2)
    for channel in out:
        torch.testing.assert_close(torch.cov(channel.T), torch.eye(2) / 2, atol=1e-3, rtol=0)
    assert out.mean(1).abs().max() < 1e-5


# ---------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("name", [name for name in REGULARIZERS if name != "bn_l1"])
def test_regularizers_take_complex_weights(name: str) -> None:
    """Every penalty is one real number with a finite gradient for every weight."""
    model = Stream()
    structure = trace(model.eval(), patches(2), validate=False)
    channels = Channels(model, structure, [np.arange(group.width) for group in structure.groups])
    regularizer = make_regularizer(name, channels, {})
    model(patches(4))
    penalty = regularizer.penalty(0, 10)
    assert penalty.dim() == 0
    assert not penalty.is_complex()
    if penalty.requires_grad:
        penalty.backward()
        assert all(bool(torch.isfinite(as_real(p.grad)).all()) for p in model.parameters() if p.grad is not None)
    regularizer.after_step(0, 10)
    regularizer.finish()
    regularizer.close()


def test_precision_keeps_imaginary_parts() -> None:
    """A model in double precision has complex128 weights and answers as before."""
    model = Stream().eval()
    before = model(patches(2))
    doubled = to_precision(model, torch.float64)
    assert model_tensors(doubled, trace(doubled, patches(2).to(C128), validate=False))["stem.weight"].dtype == C128
    torch.testing.assert_close(doubled(patches(2).to(C128)).float(), before, rtol=1e-4, atol=1e-5)


def test_doors(tmp_path: Path) -> None:
    """Complex logits are no logits, complex answers are compared by both parts, and ONNX is refused with a way out."""
    with pytest.raises(MetricError, match="real logits"):
        Classification().loss(nn.Identity(), (torch.zeros(2, 3, dtype=C64), torch.zeros(2, dtype=torch.int64)))
    assert answers_of(torch.zeros(2, 3, dtype=C64))[""].shape == (2, 3, 2)
    with pytest.raises(TraceError, match="no complex numbers"):
        export(polsar_complex(), example_patches(), tmp_path / "net.onnx")
    export(polsar_complex(), example_patches(), tmp_path / "net.pt2", form="torch")
