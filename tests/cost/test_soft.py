"""Costs of soft widths: the exact integers at whole widths, and a right slope everywhere."""

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.groups import Count
from autoprune.core.space import SearchSpace
from autoprune.core.terms import Term
from autoprune.cost.model import CostModel, PeakProfile
from autoprune.cost.soft import SoftCosts
from autoprune.errors import InvalidArgumentError
from autoprune.searchspaces.models.resnet_cifar import resnet20
from autoprune.testing.toys import chain
from autoprune.trace.tracer import trace


class Concatenated(nn.Module):
    """Two branches that one layer reads side by side: sums of widths in the costs."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 4, 3)
        self.both = nn.Conv2d(10, 8, 1)
        self.linear = nn.Linear(8, 5)

    def forward(self, x):
        """Return (n, 5) scores."""
        return self.linear(self.both(torch.cat([self.left(x), self.right(x)], 1).relu()).relu().mean((2, 3)))


def chained():
    """Structure and costs of a chain with a peak profile of two moments."""
    structure = chain((8, 16, 8))
    sizes = tuple(Term("", 40, (Count(0, ((i, 1),)),)) for i in range(3))
    peak = PeakProfile(sizes, np.array([[True, True, False], [False, True, True]]))
    return structure, CostModel(structure, SearchSpace.build(structure), peak)


def traced(model, size):
    """Structure and costs of a traced network."""
    structure = trace(model.eval(), torch.randn(2, 3, size, size), validate=False)
    return structure, CostModel(structure, SearchSpace.build(structure))


MODELS = {
    "chain with peak bytes": chained,
    "concatenation": lambda: traced(Concatenated(), 8),
    "resnet20": lambda: traced(resnet20(), 32),
}


@pytest.fixture(params=MODELS)
def model(request):
    """Every structure with its costs in turn."""
    return MODELS[request.param]()


def random_widths(structure, n):
    """Draw (n, g) whole widths."""
    full = structure.full_widths
    return np.random.default_rng(0).integers(1, full + 1, size=(n, len(full)))


def test_whole_widths_cost_the_exact_integers(model):
    """No rounding at all, for every cost that is counted."""
    structure, costs = model
    soft = SoftCosts(costs)
    widths = random_widths(structure, 20)
    exact = costs.at_widths(widths)
    assert soft.names == costs.names
    for i, row in enumerate(widths):
        found = soft(torch.from_numpy(row))
        assert tuple(found) == costs.names
        assert all(int(found[name]) == found[name].item() == exact[name][i] for name in costs.names)


def test_gradients_are_the_slopes(model):
    """Central differences over every width, at widths in between."""
    structure, costs = model
    soft = SoftCosts(costs)
    widths = torch.from_numpy(random_widths(structure, 1)[0] * 0.9 + 0.03)
    for name in soft.names:
        at = widths.clone().requires_grad_()
        soft(at)[name].backward()
        for i, width in enumerate(widths):
            step = torch.zeros_like(widths)
            step[i] = 1e-4 * width
            slope = (soft(widths + step)[name] - soft(widths - step)[name]).item() / (2e-4 * width.item())
            assert at.grad[i].item() == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_a_wrong_number_of_widths_is_refused():
    """There must be one width per group."""
    with pytest.raises(InvalidArgumentError, match=r"expected widths of shape \(3,\).*got \(2,\)"):
        SoftCosts(chained()[1])(torch.ones(2))
