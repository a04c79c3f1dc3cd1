"""Weights that are computed from parameters: cut to the same function, or pinned with what to do about it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from autoprune.artifact import load, save
from autoprune.core.groups import Structure
from autoprune.reconstruct.consumers import survey
from autoprune.surgery.cut import copy_with, cut
from autoprune.trace import trace
from tests.surgery.surgery_laws import check_full_genome_is_identical, random_kept
from tests.trace.families import FAMILIES


class Rule(nn.Module):
    """A parametrization given as a function."""

    def __init__(self, rule: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, weight: Tensor) -> Tensor:
        return self.rule(weight)


class LowRank(nn.Module):
    """Adds a product of two small factors."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(shape[0], 2)), nn.Parameter(torch.randn(2, shape[1:].numel()))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.left @ self.right).view_as(weight)


class Computed(nn.Module):
    """A layer whose forward computes its weight by a rule."""

    def __init__(self, layer: nn.Module, rule: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.bias, self.rule = layer.weight, layer.bias, rule

    def forward(self, x: Tensor) -> Tensor:
        weight = self.rule(self.weight)
        return F.linear(x, weight, self.bias) if weight.dim() == 2 else F.conv2d(x, weight, self.bias, padding=1)


def ruled(rule: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], nn.Module]:
    """Return what registers ``rule`` as a parametrization."""

    def register(layer: nn.Module) -> nn.Module:
        parametrize.register_parametrization(layer, "weight", Rule(rule), unsafe=True)
        return layer

    return register


def low_rank(layer: nn.Module) -> nn.Module:
    """Register a low-rank update."""
    parametrize.register_parametrization(layer, "weight", LowRank(layer.weight.shape), unsafe=True)
    return layer


def standardized(w: Tensor) -> Tensor:
    """Rows of mean 0 and deviation 1."""
    dims = tuple(range(1, w.dim()))
    return (w - w.mean(dims, keepdim=True)) / (w.std(dims, keepdim=True) + 1e-5)


def standardized_in_steps(w: Tensor) -> Tensor:
    """The same as most people write it."""
    centered = w.mean(1, keepdim=True)
    for dim in range(2, w.dim()):
        centered = centered.mean(dim, keepdim=True)
    w = w - centered
    deviation = w.view(w.size(0), -1).std(1).view(-1, *(1,) * (w.dim() - 1)) + 1e-5
    return w / deviation.expand_as(w)


def with_a_gain(w: Tensor) -> Tensor:
    """Rows of mean 0 and deviation 3."""
    return 3 * standardized(w)


def centered(w: Tensor) -> Tensor:
    """All of it around zero: what a layer puts out cannot be cut then, what it reads can."""
    return w - w.mean()


def batch_normed(w: Tensor) -> Tensor:
    """The same as timm writes it."""
    return F.batch_norm(w.reshape(1, len(w), -1), None, None, training=True, momentum=0.0).reshape_as(w)


def layer_normed(w: Tensor) -> Tensor:
    """Rows as layer norm sees them."""
    return F.layer_norm(w, w.shape[1:])


def orthogonalized(w: Tensor) -> Tensor:
    """One Newton-Schulz step towards orthogonal rows."""
    m = w.flatten(1)
    return (1.5 * m - 0.5 * m @ m.T @ m).view_as(w)


STANDARDIZING = (standardized, standardized_in_steps, with_a_gain, centered, batch_normed)
"""Rules that standardize rows: over the inputs that are kept, in a cut model."""

REMOVE = "torch.nn.utils.parametrize.remove_parametrizations(model.b, 'weight')"
STORE = "store the computed weight in a plain layer"
# by kind: what makes the weight computed, and the remedy that is named where channels cannot be read by fewer weights;
# "" where everything can be cut, None where it depends on shape and side
KINDS: dict[str, tuple[Callable[[nn.Module], nn.Module], str | None]] = {
    "weight norm": (parametrizations.weight_norm, REMOVE),
    "weight norm over columns": (lambda m: parametrizations.weight_norm(m, dim=1), None),
    "weight norm over all": (lambda m: parametrizations.weight_norm(m, dim=None), REMOVE),
    "old weight norm": (old_weight_norm, "torch.nn.utils.remove_weight_norm(model.b)"),
    "old weight norm over columns": (lambda m: old_weight_norm(m, dim=1), None),
    "old weight norm over all": (lambda m: old_weight_norm(m, dim=None), "torch.nn.utils.remove_weight_norm(model.b)"),
    "spectral norm": (parametrizations.spectral_norm, REMOVE),
    "old spectral norm": (old_spectral_norm, "torch.nn.utils.remove_spectral_norm(model.b)"),
    "orthogonal": (parametrizations.orthogonal, None),
    "orthogonal by an exponential": (lambda m: parametrizations.orthogonal(m, orthogonal_map="matrix_exp"), None),
    "standardized": (lambda m: Computed(m, standardized), None),
    "standardized as a parametrization": (ruled(standardized), None),
    "standardized step by step": (lambda m: Computed(m, standardized_in_steps), None),
    "standardized with a gain": (lambda m: Computed(m, with_a_gain), None),
    "centered over everything": (lambda m: Computed(m, centered), None),
    "standardized by batch norm": (lambda m: Computed(m, batch_normed), None),
    "normed by layer norm": (lambda m: Computed(m, layer_normed), STORE),
    "unit rows": (lambda m: Computed(m, lambda w: F.normalize(w, dim=1)), STORE),
    "unit norm": (lambda m: Computed(m, lambda w: w / w.norm()), STORE),
    "scaled to a python number": (lambda m: Computed(m, lambda w: w / float(w.abs().sum())), STORE),
    "a step towards orthogonal": (lambda m: Computed(m, orthogonalized), STORE),
    "softmax": (ruled(lambda w: w.softmax(1)), REMOVE),
    "largest": (ruled(lambda w: w / w.abs().amax()), REMOVE),
    "cumulative": (ruled(lambda w: w.cumsum(1)), REMOVE),
    "element by element": (ruled(torch.tanh), ""),
    "centered columns": (ruled(lambda w: w - w.mean(0, keepdim=True)), None),
    "low rank": (low_rank, None),
}
SHAPES = {"linear": (2, 6), "conv": (2, 6, 5, 5)}


class Network(nn.Module):
    """Four layers; the first or the second has its weight computed."""

    def __init__(self, shape: str, which: str, change: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        layers = [
            nn.Linear(n_in, n_out) if shape == "linear" else nn.Conv2d(n_in, n_out, 3, padding=1)
            for n_in, n_out in ((6, 8), (8, 7), (7, 5), (5, 3))
        ]
        self.a, self.b, self.c, self.d = (
            change(layer) if name == which else layer for name, layer in zip("abcd", layers, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.d(torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x)))))))


def made(kind: str, shape: str, which: str) -> tuple[nn.Module, Tensor]:
    """Return a network in float64 and its input."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old forms are deprecated
        model = Network(shape, which, KINDS[kind][0])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + torch.rand(parameter.shape))
    return model.double().eval(), torch.randn(SHAPES[shape]).double()


def check_dead_channels_do_not_matter(model: nn.Module, structure: Structure, x: Tensor) -> None:
    """The cut model computes what the dense one does when the channels that go are zero where they are read."""
    rng = np.random.default_rng(0)
    for _ in range(3):
        kept = random_kept(structure, rng)
        masked = copy_with(model, ())
        _standardize_what_is_kept(masked, structure, kept)
        for group in structure.groups:
            if group.name not in "abc":  # the rank of a low-rank factor
                kept[group.genes] = True
                continue
            mask = torch.from_numpy(kept[group.genes]).double().reshape(-1, *(1,) * (x.dim() - 2))
            masked.get_submodule(group.name).register_forward_hook(lambda _m, _x, y, mask=mask: y * mask)
        with torch.no_grad():
            torch.testing.assert_close(cut(model, structure, kept)(x), masked(x), rtol=1e-9, atol=1e-9)


def _standardize_what_is_kept(masked: nn.Module, structure: Structure, kept: np.ndarray) -> None:
    """Let what standardizes a weight see the inputs that are kept."""
    layer = masked.get_submodule("b")
    rule = layer.rule if isinstance(layer, Computed) else None
    if parametrize.is_parametrized(layer) and isinstance(layer.parametrizations.weight[0], Rule):
        layer = layer.parametrizations.weight[0]
        rule = layer.rule
    if rule in STANDARDIZING and "a" in {group.name for group in structure.groups}:
        group = structure.groups[structure.index("a")]
        kept[group.genes[:2]] = True  # of one number there is no deviation
        columns = torch.from_numpy(np.flatnonzero(kept[group.genes]))
        layer.rule = lambda w: torch.zeros_like(w).index_copy(1, columns, rule(w[:, columns]))


@pytest.mark.parametrize("which", ["a", "b"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_cut_to_the_same_function_or_pinned(kind: str, shape: str, which: str) -> None:
    """Whatever is cut computes the same, on the side that produces channels and on the side that reads them.

    Without validation, too: the trace alone must know. Where reading channels is pinned, the reason names the remedy.
    """
    model, x = made(kind, shape, which)
    structure = trace(model, x, validate=False)
    check_full_genome_is_identical(model, structure)
    check_dead_channels_do_not_matter(model, structure, x)
    remedy = KINDS[kind][1]
    structure = trace(model, x)
    cuttable = {group.name for group in structure.groups}
    assert "c" in cuttable
    if remedy == "":
        assert cuttable == {"a", "b", "c"}
    elif which == "b" and remedy is not None:
        assert "a" not in cuttable
        assert remedy in next(pin.reason for pin in structure.pins if pin.module == "a")


@pytest.mark.parametrize("kind", ["weight norm", "old weight norm", "element by element"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_built_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    """What loses rows stays of the user's class in the artifact, too, with equal outputs."""
    model, x = made(kind, "conv", "a")
    structure = trace(model, x)
    assert "a" in {group.name for group in structure.groups}
    kept = random_kept(structure, np.random.default_rng(1))
    small = cut(model, structure, kept)
    save(tmp_path / "small.pruned", small, structure, kept=kept)
    loaded = load(tmp_path / "small.pruned", made(kind, "conv", "a")[0])
    assert type(loaded) is Network
    assert torch.equal(loaded(x), small(x))


def test_standardized_weights_are_not_solved() -> None:
    """A weight that its layer standardizes is no unknown of a least-squares problem: what is set is not what acts."""
    model = FAMILIES["standardized by batch norm"].make().eval()
    found = survey(model, trace(model, FAMILIES["standardized by batch norm"].example()))
    assert [consumer.weight for consumer in found.consumers] == ["c.weight"]
    assert set(found.left_out) == {"b.weight"}
