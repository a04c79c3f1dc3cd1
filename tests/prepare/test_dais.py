"""DAIS for one budget, on the digits: what the recipe laws do not say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.jobs import Prepare
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.errors import InvalidArgumentError
from autoprune.prepare.dais import DaisRecipe
from autoprune.prepare.dais.search import LEAST_STEPS, DaisSettings
from autoprune.prepare.recipe import Workbench
from autoprune.surgery.cut import cut
from autoprune.testing.digits_network import digits_setup
from autoprune.testing.recipe_laws import MemoryBlobs, cost_share, digits_bench, run_recipe
from autoprune.testing.toys import TermCosts
from autoprune.trace import trace
from autoprune.train.job_setup import JobSetup
from autoprune.weight_sets import WeightReader, put_weight_set


def run(settings, bench_and_parent=None):
    """Return the outcome of a short job on a new bench without limits, and the bench."""
    return run_recipe(DaisRecipe, {"epochs": 1.0, **settings}, bench_and_parent)


def made(outcome, bench):
    """Return the weights and orders of an outcome."""
    return WeightReader(bench.blobs, bench.setup.structure, "cpu")(outcome.weight_set)


@pytest.mark.parametrize("target", [0.7, 0.4])
def test_the_expected_cost_follows_the_budget(target):
    """With enough steps, the gates alone come to the budget: little is left for rounding and repair to do."""
    outcome, _ = run({"target": target, "epochs": 4.0, "tune_share": 0.0})
    assert outcome.metrics["soft_cost"] == pytest.approx(target, rel=0.15)


def test_hard_limits_bind_beside_the_target():
    """A limit on another cost is met, although the target alone allows more."""
    bench, parent = digits_bench()
    limit = int(0.3 * bench.setup.costs(bench.setup.space.full_genome[None, :])["params"][0])
    bench = replace(bench, limits={"params": limit})
    outcome = DaisRecipe(bench)(Prepare(0, "dais", {"epochs": 1.0, "target": 0.9}, parent))
    assert bench.setup.costs(np.array([outcome.found_genome]))["params"][0] <= limit


def test_the_twin_keeps_order_and_proportions():
    """Without learning, the order is the parent's and all levels shrink by one factor into the budget."""
    bench, parent = digits_bench()
    outcome, bench = run({"target": 0.4, "learns": False}, (bench, parent))
    given = WeightReader(bench.blobs, bench.setup.structure, "cpu")(parent)
    for ours, theirs in zip(made(outcome, bench).orders, given.orders, strict=True):
        assert np.array_equal(ours, theirs)
    space, costs = bench.setup.space, bench.setup.costs
    limit = int(0.4 * costs(space.full_genome[None, :])["macs"][0])
    assert outcome.found_genome == tuple(space.repair(space.full_genome[None, :], costs, {"macs": limit})[0].tolist())


def test_a_search_too_short_to_learn_is_not_begun():
    """Fewer steps than teach anything give what the twin gives, to the last bit and for the same multiply-adds."""
    epochs = (LEAST_STEPS - 1.4) * 64 / len(digits_bench()[0].setup.data.train)
    found = [run({"target": 0.4, "epochs": epochs, "learns": learns}) for learns in (True, False)]
    (short, bench), (twin, other) = found
    assert "soft_cost" not in short.metrics
    assert (short.found_genome, short.spent.macs) == (twin.found_genome, twin.spent.macs)
    ours, theirs = made(short, bench).weights, made(twin, other).weights
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    longer, _ = run({"target": 0.4, "epochs": epochs * (LEAST_STEPS + 1) / (LEAST_STEPS - 1.4)})
    assert "soft_cost" in longer.metrics


class Branches(nn.Module):
    """A residual stream that two layers and the classifier read; no BatchNorm anywhere."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.first, self.second = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 1)
        self.linear = nn.Linear(8 * 4, 10)

    def forward(self, x):
        """Return (n, 10) logits."""
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.second(torch.relu(self.first(x))))
        return self.linear(torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def branches_bench():
    """Return a bench for the network without BatchNorm, and its own weights in their own order."""
    base, blobs = digits_setup(), MemoryBlobs()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Branches().eval()
    structure = trace(model, torch.randn(2, 1, 8, 8))
    space = SearchSpace.build(structure, levels=8)
    setup = JobSetup(model, space, CostModel(structure, space), base.data, base.task)
    orders = [np.arange(group.width) for group in structure.groups]
    return Workbench(setup, blobs), put_weight_set(blobs.put, structure, model.state_dict(), orders)


@pytest.mark.parametrize("shared", [True, False])
def test_a_model_without_batchnorm_learns(shared):
    """It is searched and trained like any other: what is found is far better than a guess."""
    outcome, bench = run(
        {"target": 0.5, "epochs": 4.0, "tune_share": 0.7, "learning_rate": 0.05, "shared": shared}, branches_bench()
    )
    setup, found = bench.setup, made(outcome, bench)
    small = cut(setup.model, setup.structure, setup.kept(outcome.found_genome, found), found.weights).eval()
    assert setup.task.metric(small, setup.data.score.loader(100))["accuracy"] > 0.5
    assert cost_share(outcome, bench) <= 0.5


def test_what_no_reader_keeps_is_zero_in_it():
    """With indicators of their own, readers that closed a channel read zeros, so that the union may be kept."""
    settings = {
        "target": 0.4,
        "epochs": 3.0,
        "shared": False,
        "tune_share": 0.0,
        "symmetry_weight": 0.0,
        "weights": "trained",
    }
    outcome, bench = run(settings, branches_bench())
    weights = made(outcome, bench).weights
    readers = [
        weights[name].abs().sum(dim=[d for d in range(weights[name].dim()) if d != 1])
        for name in ("first.weight", "second.weight")
    ]
    assert any((slices == 0).any() for slices in readers)
    assert all((slices > 0).any() for slices in readers)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [({"lasso_weight": -1.0}, "lasso_weight"), ({"spread": 1.0}, "spread"), ({"hottest": 0.1, "coldest": 0.2}, "fall")],
)
def test_wrong_settings_are_refused(wrong, match):
    """Each is an error that names the setting."""
    with pytest.raises(InvalidArgumentError, match=match):
        DaisSettings(**wrong)


def test_costs_without_a_closed_form_are_refused():
    """Counting by other means than the cost model gives no gradient."""
    bench, parent = digits_bench()
    bench = replace(bench, setup=replace(bench.setup, costs=TermCosts(bench.setup.space)))
    with pytest.raises(InvalidArgumentError, match="closed form"):
        run({}, (bench, parent))
