"""Keep ratios under a budget: costs, projection, descent, rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.core.space import SearchSpace
from autoprune.cost.counter import count_macs
from autoprune.cost.model import CostModel
from autoprune.cost.soft import SoftCosts
from autoprune.prepare.dsa.keep_ratios import DENSE_THETA, LearnedRatios, RatioCost, UniformRatios
from autoprune.searchspaces.models.mobilenetv2_cifar import mobilenet_v2
from autoprune.searchspaces.models.resnet_cifar import resnet20
from autoprune.surgery.cut import cut
from autoprune.testing.toys import chain
from autoprune.trace import trace
from tests.trace.random_networks import NetworkSpec, build_network, example_input


def ratio_cost(space, name="macs"):
    """Return the cost of a space's keep ratios."""
    soft = SoftCosts(CostModel(space.structure, space))
    return RatioCost(space, lambda widths: soft(widths)[name])


def chain_cost(widths=(8, 16, 16, 32), levels=8):
    """Return a chain's space and the cost of its ratios."""
    space = SearchSpace.build(chain(widths), levels=levels)
    return space, ratio_cost(space)


def zoo(name):
    """Return a network and an input: padding shortcuts, depthwise convolutions, concatenations."""
    if name == "concat":
        return build_network(NetworkSpec(("concat", "residual", "conv"))), example_input()
    return {"resnet20": resnet20, "mobilenetv2": mobilenet_v2}[name]().eval(), torch.zeros(1, 3, 32, 32)


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "concat"])
def test_one_ratio_per_coupled_channels_and_exact_cost(name):
    """The cost at whole widths is what a counter finds on the cut network, however channels are coupled."""
    model, inputs = zoo(name)
    structure = trace(model, inputs)
    space = SearchSpace.build(structure, levels=4)
    cost = ratio_cost(space)
    dense = count_macs(model, inputs)
    rng = np.random.default_rng(0)
    for genome in space.sample(3, rng):
        ratios = torch.from_numpy(space.keep_ratios(genome[None, :])[0])
        kept = structure.kept_genes(
            [rng.permutation(group.width) for group in structure.groups], space.widths(genome[None, :])[0]
        )
        assert round(float(cost.share(ratios)) * dense) == count_macs(cut(model, structure, kept), inputs)


def test_tied_groups_share_one_ratio():
    """A variable that drives two groups is one coordinate, whose cost counts both."""
    tied = SearchSpace.build(chain((8, 8, 4)), ties=[("fc0", "fc1")])
    cost = ratio_cost(tied)
    of_groups = cost.of_groups(torch.tensor([0.5, 0.25], dtype=torch.float64))
    assert of_groups.tolist() == [0.5, 0.5, 0.25]


THETAS = st.lists(st.floats(-4, 6), min_size=4, max_size=4).map(lambda v: torch.tensor(v, dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(THETAS, st.floats(0.05, 1.0))
def test_projection_is_feasible_and_fills_the_budget(theta, budget):
    """The projected point is within the budget, and at it unless everything is kept already."""
    _, cost = chain_cost()
    projected = cost.project(theta, budget)
    share = float(cost.share(cost.ratios(projected)))
    assert share <= budget or budget < float(cost.share(cost.low))
    assert share > budget - 1e-6 or float(projected.min()) >= DENSE_THETA - 1e-9


def test_projection_leaves_differences_as_they_are():
    """What the variables had learned about each other survives, from the flat ends of the sigmoid, too."""
    _, cost = chain_cost()
    theta = torch.tensor([6.0, 1.0, 2.0, -0.5], dtype=torch.float64)
    projected = cost.project(theta, 0.2)
    torch.testing.assert_close(projected - projected[0], theta - theta[0])
    assert abs(float(cost.share(cost.ratios(projected))) - 0.2) < 1e-6


@settings(max_examples=40, deadline=None)
@given(st.floats(0.02, 1.0))
def test_uniform_ratios_fill_the_budget(budget):
    """All variables keep the same share, but for smallest widths, and a little more would not fit."""
    _, cost = chain_cost((10, 20, 20, 40))
    ratios = UniformRatios(cost)
    ratios.step(budget)
    free = ratios.ratios > cost.low + 1e-9
    assert float(ratios.ratios[free].std(correction=0)) < 1e-9 if free.any() else True
    smallest = float(cost.share(cost.low))
    assert float(cost.share(ratios.ratios)) <= max(budget, smallest + 1e-9)
    if smallest < budget < 1:
        assert float(cost.share((ratios.ratios + 1e-4).clamp(max=1))) > budget


def test_descent_finds_the_optimum_under_the_budget():
    """On a known loss the ratios end where no exchange between two variables at equal cost helps."""
    _, cost = chain_cost()
    sensitivity = torch.tensor([1.0, 0.1, 0.3, 0.03], dtype=torch.float64)
    learned = LearnedRatios(cost)

    def loss(ratios):
        return (sensitivity * (1 - ratios) ** 2).sum()

    n = 300
    for i in range(n):
        trial = learned.ratios.requires_grad_()
        (slope,) = torch.autograd.grad(loss(trial), trial)
        learned.step(slope, max(0.4, 1 - 1.2 * i / n), 0.2 * (1 - i / n))
    found = loss(learned.ratios)
    assert float(cost.share(learned.ratios)) <= 0.4
    uniform = cost.uniform(0.4)
    assert float(found) < 0.5 * float(loss(uniform))
    generator = torch.Generator().manual_seed(0)
    near = learned.state()["theta"]
    others = [
        cost.project(near + 0.3 * torch.randn(4, generator=generator, dtype=torch.float64), 0.4) for _ in range(300)
    ]
    assert float(found) < min(float(loss(cost.ratios(other))) for other in others) + 0.01


def test_noise_does_not_travel():
    """Slopes that are noise alone leave all variables together; a known slope shows through the same noise."""
    _, cost = chain_cost()
    generator = torch.Generator().manual_seed(0)
    spreads = []
    for known in (0.0, 1.0):
        learned = LearnedRatios(cost)
        for i in range(100):
            noise = torch.randn(4, generator=generator, dtype=torch.float64)
            worth = noise - known * torch.tensor([3.0, 0.0, 0.0, -3.0], dtype=torch.float64)
            learned.step(worth * cost.slope(learned.ratios), 0.5, 0.06 * (1 - i / 100))
        theta = learned.state()["theta"]
        spreads.append(float(theta[0] - theta[3]))
    assert abs(spreads[0]) < 0.5
    assert spreads[1] > 3


def test_state_restores_the_future():
    """Ratios that were restored take the very steps of those that went on."""
    _, cost = chain_cost()
    slopes = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = LearnedRatios(cost)
    for slope in slopes[:4]:
        one.step(slope, 0.5, 0.1)
    other = LearnedRatios(cost)
    other.restore(one.state())
    for slope in slopes[4:]:
        one.step(slope, 0.4, 0.1)
        other.step(slope, 0.4, 0.1)
    assert torch.equal(one.ratios, other.ratios)


def test_nothing_grows_beyond_the_start():
    """With a genome to start from, ratios begin there, never exceed it, and uniform ones stop at it."""
    space, _ = chain_cost()
    soft = SoftCosts(CostModel(space.structure, space))
    start = np.array([7, 2, 4, 3])
    cost = RatioCost(space, lambda widths: soft(widths)["macs"], start)
    high = torch.from_numpy(space.keep_ratios(start[None, :])[0])
    assert torch.equal(cost.high, high)
    learned, uniform = LearnedRatios(cost), UniformRatios(cost)
    torch.testing.assert_close(learned.ratios, high, rtol=0.01, atol=0)
    budget = 0.6 * float(cost.share(high))
    for slope in torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64):
        learned.step(slope, budget, 1.0)
        assert (learned.ratios <= high).all()
    uniform.step(budget)
    assert (uniform.ratios <= high).all()
    assert float(cost.share(uniform.ratios)) == pytest.approx(budget, abs=1e-6)
