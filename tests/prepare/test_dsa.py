"""DSA for one budget, on the digits: what the recipe laws do not say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.errors import InvalidArgumentError, UnknownNameError
from autoprune.prepare.dsa import DsaRecipe, DsaSettings
from autoprune.prepare.dsa.training import MaskSampler
from autoprune.prepare.recipe import Workbench
from autoprune.testing.digits_network import DigitsNetwork, digits_setup
from autoprune.testing.recipe_laws import MemoryBlobs, cost_share, digits_bench, run_recipe
from autoprune.trace import trace
from autoprune.weight_sets import WeightReader, put_weight_set

SCRATCH = {"from_scratch": True, "weights": "trained"}


def run(settings, bench_and_parent=None):
    """Return the outcome of a short job on a new bench without limits, and the bench."""
    return run_recipe(DsaRecipe, {"epochs": 1.2, "every": 3, **settings}, bench_and_parent)


@pytest.mark.parametrize("learns", [True, False])
def test_ratios_differ_where_they_learn(learns):
    """The twin keeps one ratio for all variables."""
    outcome, _ = run({"target": 0.5, "learns": learns})
    assert (outcome.metrics["ratio_spread"] > 1e-3) is learns


def test_from_scratch_forgets_the_parent():
    """Weights that are drawn anew do not depend on those given; without, they do."""
    made = []
    for settings in (SCRATCH, SCRATCH, {}, {}):
        bench, parent = digits_bench()
        if len(made) % 2:
            reader = WeightReader(bench.blobs, bench.setup.structure, "cpu")(parent)
            other = {name: tensor * 1.5 for name, tensor in reader.weights.items()}
            parent = put_weight_set(bench.blobs.put, bench.setup.structure, other, reader.orders)
        made.append(run({**settings, "learns": False}, (bench, parent))[0].weight_set)
    assert made[0] == made[1]
    assert made[2] != made[3]


class Frozen(DigitsNetwork):
    """Its first two layers run without gradients, as a frozen backbone does."""

    def forward(self, x):
        """Return (n, 10) logits of (n, 1, 8, 8) images."""
        with torch.no_grad():
            x = self.bn1(self.conv1(x)).relu()
            x = self.conv2(x)
        return self.linear(self.bn2(x).relu().flatten(1))


def test_where_no_derivative_arrives_the_scale_decides():
    """Channels of a frozen backbone are not ranked by derivatives that are all zero."""
    bench, _ = digits_bench()
    model = Frozen()
    with torch.no_grad():
        model.bn1.weight.copy_(torch.tensor([3.0, 8.0, 1.0, 6.0, 2.0, 7.0, 4.0, 5.0]))
    bench = replace(bench, setup=replace(bench.setup, model=model.eval()))
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    orders = [np.arange(group.width) for group in bench.setup.structure.groups]
    parent = put_weight_set(bench.blobs.put, bench.setup.structure, weights, orders)
    outcome, _ = run({"importance": "taylor", "weights": "trained", "weight_decay": 0.0}, (bench, parent))
    made = WeightReader(bench.blobs, bench.setup.structure, "cpu")(outcome.weight_set)
    assert made.orders[0].tolist() == [1, 5, 3, 7, 6, 0, 4, 2]
    assert made.orders[1].tolist() != list(range(12))


def test_training_helps():
    """From scratch on real digits, two epochs' worth of steps halve the loss although half of the network goes."""
    outcome, bench = run({**SCRATCH, "epochs": 6.0, "tune_share": 0.4, "batch_size": 64, "learning_rate": 0.1})
    inherited = WeightReader(bench.blobs, bench.setup.structure, "cpu")(outcome.weight_set)
    from autoprune.evaluate.inherited import InheritedWeights

    metrics = InheritedWeights(bench.setup).evaluate(outcome.found_genome, inherited)
    assert metrics["accuracy"] > 0.8


def test_without_batch_norm_it_still_runs():
    """A network without BatchNorm is pruned by the norms of its weights."""
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10)
    ).eval()
    space = SearchSpace.build(trace(model, torch.zeros(1, 1, 8, 8)), levels=4)
    setup = replace(digits_setup(), model=model, space=space, costs=CostModel(space.structure, space))
    blobs = MemoryBlobs()
    orders = tuple(np.arange(group.width) for group in space.structure.groups)
    parent = put_weight_set(blobs.put, space.structure, model.state_dict(), orders)
    outcome, bench = run({"target": 0.6}, (Workbench(setup, blobs), parent))
    assert cost_share(outcome, bench) <= 0.6
    inherited = WeightReader(blobs, space.structure, "cpu")(outcome.weight_set)
    assert any((order != np.arange(len(order))).any() for order in inherited.orders)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup": 1.0}, "leave something to search"),
        ({"ramp": -0.1}, "ramp to be a share in 0..1"),
        ({"sharpness": (1.0, 0.0)}, "two positive sharpnesses"),
        ({"from_scratch": True}, "weights='trained' with from_scratch"),
    ],
)
def test_settings_are_checked(settings, message):
    """A value that cannot be used is an error that names it."""
    with pytest.raises(InvalidArgumentError, match=message):
        DsaSettings(**settings)


def test_names_are_checked():
    """Costs that have no gradient and unknown kinds of importance are refused."""
    with pytest.raises(UnknownNameError, match="cost 'peak_bytes'"):
        DsaSettings(cost="peak_bytes")
    with pytest.raises(UnknownNameError, match="importance 'random'"):
        DsaSettings(importance="random")


@pytest.mark.parametrize("epochs", [0.05, 1.0, 7.3])
def test_schedule_reaches_its_ends(epochs):
    """The budget reaches its target within the ramp, sharpness rises, step sizes add up to the travel."""
    schedule = DsaSettings(epochs=epochs, warmup=0.1, every=2, travel=3.0).schedule(10_000)
    moves = [step for step in range(schedule.n_steps) if schedule.moves_ratios(step)]
    assert len(moves) == schedule.n_ratio_steps >= 1
    budgets = [schedule.budget_at(step, 1.0, 0.3) for step in moves]
    assert budgets[-1] == pytest.approx(0.3)
    assert (np.diff(budgets) <= 0).all()
    assert schedule.sharpness_at(schedule.warm) == pytest.approx(schedule.sharpness[0])
    assert schedule.sharpness_at(schedule.n_steps) == pytest.approx(schedule.sharpness[1])
    if len(moves) > 10:
        assert sum(schedule.size_at(step) for step in moves) == pytest.approx(3.0, rel=0.1)


def test_undriven_groups_stay_open():
    """Channels that no variable drives are kept in every draw; those that a sliced network lacks have no gate."""
    setup = digits_setup()
    space = SearchSpace.build(setup.structure, levels=4, locks=["conv1"])
    kept = np.ones(setup.structure.n_genes, dtype=np.bool_)
    kept[[9, 11]] = False
    sampler = MaskSampler(replace(setup, space=space), kept, torch.device("cpu"))
    sampler.rank(tuple(np.where(kept[group.genes], group.genes + 1.0, -1.0) for group in space.structure.groups))
    gates = sampler.draw(torch.tensor([1.0, 0.25], dtype=torch.float64), 500.0)
    assert gates.tolist() == [1.0] * 8 + [0.0] * 7 + [1.0] * 3  # a quarter of the 12 dense channels, the best there are
