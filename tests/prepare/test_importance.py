"""The importance of channels while weights change: gammas where they say something, norms where not."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from autoprune.criteria.scoring import scores
from autoprune.prepare.dsa.training import scale_importance
from autoprune.surgery.matching import model_tensors
from autoprune.testing.digits_network import digits_network, digits_structure
from autoprune.trace import trace
from tests.trace.random_networks import NetworkSpec, build_network, example_input


class TwoScales(nn.Module):
    """A residual stream that two BatchNorms of very different scale feed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.conv, self.conv_norm = nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.linear = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem_norm(self.stem(x))
        return self.linear((x + self.conv_norm(self.conv(torch.relu(x)))).relu().mean((2, 3)))


def test_every_batch_norm_has_the_same_say():
    """A group's importance is the mean of the relative absolute gammas, whatever the scale of each BatchNorm."""
    model = TwoScales().eval()
    small, large = torch.tensor([1.0, -2, 3, 4, 5, 6]), 1000 * torch.tensor([6.0, 5, 4, -3, 2, 1.5])
    with torch.no_grad():
        model.stem_norm.weight.copy_(small)
        model.conv_norm.weight.copy_(large)
    (found,) = scale_importance(model, trace(model, torch.zeros(1, 3, 4, 4)))
    expected = (small.abs() / small.abs().mean() + large.abs() / large.abs().mean()) / 2
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)


def test_untrained_gammas_say_nothing():
    """Where all gammas of a group are equal, as in a fresh network, its L2 norms rank; the other groups keep theirs."""
    model, structure = digits_network(), digits_structure()
    norms = scores("l2", model, structure)
    for values, expected in zip(scale_importance(model, structure), norms, strict=True):
        np.testing.assert_array_equal(values, expected)
    with torch.no_grad():
        model.bn2.weight.copy_(torch.linspace(0.5, 1.5, len(model.bn2.weight)))
    first, second = scale_importance(model, structure)
    np.testing.assert_array_equal(first, norms[0])
    np.testing.assert_allclose(second, np.linspace(0.5, 1.5, len(second)), rtol=1e-6)


def test_without_batch_norm_norms_rank():
    """A network without BatchNorm is ranked by L2 norms throughout."""
    model = build_network(NetworkSpec(("conv", "residual", "concat")))
    structure = trace(model, example_input())
    for values, expected in zip(scale_importance(model, structure), scores("l2", model, structure), strict=True):
        np.testing.assert_array_equal(values, expected)


def test_a_sliced_network_is_ranked_among_its_own():
    """Channels that a sliced network lacks come last; the others are relative to those that are there."""
    model, structure = digits_network(), digits_structure()
    with torch.no_grad():
        model.bn1.weight.copy_(torch.arange(1.0, 9.0))
    kept = np.ones(structure.n_genes, dtype=np.bool_)
    kept[[1, 4, 7]] = False
    first, _ = scale_importance(model, structure, model_tensors(model, structure), kept)
    np.testing.assert_allclose(first, np.array([1, -4.2, 3, 4, -4.2, 6, 7, -4.2]) / 4.2, rtol=1e-6)
