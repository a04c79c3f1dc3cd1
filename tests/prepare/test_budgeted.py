"""What holds for every search for one budget, on the digits, beyond the recipe laws."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.errors import InfeasibleError, InvalidArgumentError, UnknownNameError
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.prepare.budgeted import BudgetedSettings, StructureRecipe
from autoprune.prepare.dais import DaisRecipe
from autoprune.prepare.dsa import DsaRecipe
from autoprune.prepare.recipe import Workbench
from autoprune.testing.digits_network import digits_network
from autoprune.testing.recipe_laws import MemoryBlobs, MemorySlot, StoppedError, cost_share, digits_bench, run_recipe
from autoprune.trace import trace
from autoprune.train.job_setup import JobSetup
from autoprune.train.loop import fit
from autoprune.train.named_data import load_data
from autoprune.train.settings import FitSettings
from autoprune.weight_sets import WeightReader, put_weight_set

SHORT = {DaisRecipe: {"epochs": 0.5, "tune_share": 0.5}, DsaRecipe: {"epochs": 1.2, "tune_share": 0.4, "every": 3}}
TRAINED = {"weights": "trained"}
VARIANTS = {
    DaisRecipe: (
        {},
        {"toward": (2, 1)},
        {"shared": False, **TRAINED},
        {"straight_through": True, "weights": "given"},
        {"learns": False, **TRAINED},
        {"tune_share": 0.0, **TRAINED},
    ),
    DsaRecipe: (
        {},
        {"toward": (2, 1)},
        {"importance": "taylor", "weights": "given"},
        {"learns": False, "from_scratch": True, "warmup": 0.3, **TRAINED},
        {"tune_share": 0.0, **TRAINED},
    ),
}
CHARGED = {
    DaisRecipe: (
        {},
        {"learns": False},
        {"learns": False, **TRAINED},
        {"tune_share": 0.0, "batch_size": 100, **TRAINED},
        {"indicator_every": 3, "weights": "given"},
    ),
    DsaRecipe: ({}, {"learns": False}, {"warmup": 0.3, "tune_share": 0.0, **TRAINED}),
}
CHARGED = {name: (*items, {"epochs": 4.0, "most_steps": 3}) for name, items in CHARGED.items()}
RECIPES = list(SHORT)


def runner(recipe):
    """Return `run_recipe` for short settings with changes."""

    def run(changes, bench_and_parent=None, slot=None):
        return run_recipe(recipe, {**SHORT[recipe], **changes}, bench_and_parent, slot)

    return run


@pytest.fixture(params=RECIPES)
def recipe(request):
    """A recipe that searches for one budget."""
    return request.param


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("cost", ["macs", "params"])
def test_what_is_found_is_within_the_budget(recipe, learns, cost):
    """The genome costs at most the target, whichever cost has one, and not much less."""
    outcome, bench = runner(recipe)({"target": 0.5, "learns": learns, "cost": cost})
    assert 0.25 < cost_share(outcome, bench, cost) <= 0.5
    assert outcome.metrics["cost_share"] == pytest.approx(cost_share(outcome, bench, cost))


@pytest.mark.parametrize("toward", [[3, 0], [0, 3]])
def test_a_proposal_is_where_widths_begin(recipe, toward):
    """The twin cuts to it, raised to where the budget is used up; a search too short to learn does not leave it."""
    for changes in ({"learns": False}, {"learns": False, **TRAINED}, {"epochs": 0.01}):
        outcome, bench = runner(recipe)({"target": 0.5, "toward": toward, **changes})
        space, costs = bench.setup.space, bench.setup.costs
        found = np.array(outcome.found_genome)
        assert 0.3 < cost_share(outcome, bench, "macs") <= 0.5
        assert np.argmax(found) == np.argmax(toward)
        higher = found + np.eye(len(found), dtype=np.int64)
        fits = costs(np.minimum(higher, space.full_genome))["macs"] <= 0.5 * costs(space.full_genome[None])["macs"]
        assert not (fits & (higher <= space.full_genome).all(1)).any()
    with pytest.raises(InvalidArgumentError, match="genome"):
        runner(recipe)({"toward": [9, 9]})


@pytest.mark.parametrize("start", [None, [2, 1]])
@pytest.mark.parametrize(("recipe", "settings"), [(name, item) for name in RECIPES for item in CHARGED[name]])
def test_what_is_charged_is_what_runs(recipe, settings, start):
    """Every item that goes through a network is charged what that network costs: once forward, twice backward.

    Gates on what layers read need no gradients of weights, so once backward (`tests/train/test_soft_gates.py`). Those
    that BatchNorm statistics are recomputed on in the end only go forward.
    """
    bench, parent = digits_bench()
    structure, space = bench.setup.structure, bench.setup.space
    macs = []

    def count(module, inputs):
        if len(inputs[0]) > 3:  # not where a few items are run to count what one costs
            found = np.array([[module.conv1.out_channels, module.conv2.out_channels]])
            modes = [type(mode).__name__ for mode in torch.overrides._get_current_function_mode_stack()]
            passes = 1 + module.training * (1 if "_GatedInputs" in modes else 2)
            macs.append(passes * int(CostModel(structure, space).at_widths(found)["macs"][0]) * len(inputs[0]))

    bench.setup.model.register_forward_pre_hook(count)
    outcome, _ = runner(recipe)({"target": 0.4, "start": start, **settings}, (bench, parent))
    assert outcome.spent.macs == sum(macs)


def test_where_gates_are_does_not_change_what_is_found(recipe, monkeypatch):
    """Gates on what layers read find the network that gates on weights find, for less."""
    found = []
    for can in (False, True):
        monkeypatch.setattr(StructureRecipe, "_can_gate_inputs", can)
        outcome, _ = runner(recipe)({"target": 0.4, "tune_share": 0.5})
        found.append(outcome)
    assert found[0].found_genome == found[1].found_genome
    assert found[1].spent.macs < found[0].spent.macs


def test_what_a_search_leaves_trains(recipe):
    """A search in frozen weights ends at `most_steps`; a longer preparation costs as ever, and trains for longer."""
    bench, _ = digits_bench()
    made, n_items = recipe(bench), len(bench.setup.data.train)
    settings = recipe.Settings(**SHORT[recipe] | {"epochs": 4.0, "most_steps": 5, "target": 0.4})
    assert settings.n_steps(n_items) == 5 < replace(settings, most_steps=None).n_steps(n_items)
    assert replace(settings, weights="trained").n_steps(n_items) == replace(settings, most_steps=None).n_steps(n_items)
    assert made.estimate_macs(settings) == made.estimate_macs(replace(settings, most_steps=None))
    assert made._search_macs(settings) < 0.5 * made._search_macs(replace(settings, most_steps=None))
    outcome, _ = runner(recipe)({"epochs": 4.0, "most_steps": 5, "target": 0.4})
    assert outcome.spent.macs == pytest.approx(made.estimate_macs(settings), rel=0.1)


@pytest.mark.parametrize(("recipe", "settings"), [(name, item) for name in RECIPES for item in VARIANTS[name]])
def test_every_variant_resumes(recipe, settings):
    """Stopped after a save of the search or of the tuning and started again: the end of an undisturbed run."""
    run = partial(runner(recipe), settings)
    undisturbed, _ = run()
    for stop in (1, 3, 7):
        slot = MemorySlot(writes_left=stop)
        try:
            run(slot=slot)
        except StoppedError:
            slot.writes_left = None
        else:
            assert stop > 1  # fewer saves than that
            continue
        resumed, _ = run(slot=slot)
        assert resumed.identity() == undisturbed.identity()


def test_a_start_is_never_left(recipe):
    """Channels outside of the start are not used again: they keep the parent's weights and come last."""
    bench, parent = digits_bench()
    start = np.array([2, 1])
    outcome, _ = runner(recipe)({"start": start.tolist(), "target": 0.3}, (bench, parent))
    reader = WeightReader(bench.blobs, bench.setup.structure, "cpu")
    before, after = reader(parent), reader(outcome.weight_set)
    assert (np.array(outcome.found_genome) <= start).all()
    widths = bench.setup.space.widths(start[None, :])[0]
    for width, old, new in zip(widths, before.orders, after.orders, strict=True):
        assert set(new[:width]) == set(old[:width])
        np.testing.assert_array_equal(new[width:], old[width:])
    outside, name = before.orders[0][widths[0] :], "conv1.weight"
    assert after.weights[name][outside].equal(before.weights[name][outside])
    assert not after.weights[name].equal(before.weights[name])


@pytest.fixture(scope="module")
def trained_digits():
    """Tensors of a digits network that has learned."""
    setup, model = digits_bench()[0].setup, digits_network()
    fit(model, setup.data, setup.task, FitSettings(epochs=6, batch_size=64, learning_rate=0.1, device="cpu"), seed=0)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        (DaisRecipe, {}),
        (DaisRecipe, {"straight_through": True}),
        (DaisRecipe, TRAINED),
        (DsaRecipe, {}),
        (DsaRecipe, TRAINED),
    ],
)
def test_widths_follow_the_channels_that_work(trained_digits, group, recipe, settings):
    """Where the worse half of one group does nothing, that half goes and most of the other group stays.

    A search can tell because opening a closed channel that does nothing gains nothing.
    """
    bench, _ = digits_bench()
    bench = replace(bench, setup=replace(bench.setup, data=load_data("digits", val_size=0.4)))  # 288 items steer
    orders = [np.arange(other.width) for other in bench.setup.structure.groups]
    weights = {name: tensor.clone() for name, tensor in trained_digits.items()}
    for name in (f"bn{group + 1}.weight", f"bn{group + 1}.bias"):
        weights[name][len(weights[name]) // 2 :] = 0.0
    parent = put_weight_set(bench.blobs.put, bench.setup.structure, weights, orders)
    # Weights that hardly learn: else, the channels would begin to work.
    hardly = {"target": 0.6, "epochs": 4.0, "weight_decay": 0.0, "learning_rate": 1e-6, "tune_share": 0.0}
    outcome, _ = run_recipe(recipe, {**hardly, **settings}, (bench, parent))
    ratios = bench.setup.space.keep_ratios(np.array([outcome.found_genome]))[0]
    assert ratios[group] <= 0.5 < ratios[1 - group]


class Planted(nn.Module):
    """A residual block that adds nothing beside layers that everything passes through."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.idle, self.bn2 = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.back, self.bn3 = nn.Conv2d(16, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.vital, self.bn4 = nn.Conv2d(8, 16, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(64, 10)
        for parameter in self.bn3.parameters():
            parameter.data.zero_()
            parameter.requires_grad_(False)

    def forward(self, x):
        """Return (n, 10) logits of (n, 1, 8, 8) images."""
        x = self.bn1(self.stem(x)).relu()
        x = x + self.bn3(self.back(self.bn2(self.idle(x)).relu()))
        x = self.bn4(self.vital(x)).relu()
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def test_learned_widths_beat_equal_ones_where_a_layer_is_idle():
    """At 35 % of the MACs, before any training, by 5 points of accuracy: the idle layer pays, not the vital one."""
    base, blobs = digits_bench()[0].setup, MemoryBlobs()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Planted()
    fit(model, base.data, base.task, FitSettings(epochs=6, batch_size=64, learning_rate=0.1), seed=0)
    structure = trace(model.eval(), torch.randn(2, 1, 8, 8))
    space = SearchSpace.build(structure, levels=8)
    setup = JobSetup(model, space, CostModel(structure, space), base.data, base.task)
    orders = [np.arange(group.width) for group in structure.groups]
    made = Workbench(setup, blobs), put_weight_set(blobs.put, structure, model.state_dict(), orders)
    hardly = {"weight_decay": 0.0, "learning_rate": 1e-6, "tune_share": 0.0}  # the twin has something to train for
    accuracy = []
    for recipe, learns in ((DaisRecipe, True), (DsaRecipe, True), (DaisRecipe, False)):
        settings = {"target": 0.35, "epochs": 3.0, "batch_size": 32, "learns": learns, **hardly}
        outcome, _ = run_recipe(recipe, settings, made)
        inherited = WeightReader(blobs, structure, "cpu")(outcome.weight_set)
        accuracy.append(InheritedWeights(setup).evaluate(outcome.found_genome, inherited)["accuracy"])
    assert min(accuracy[:2]) >= accuracy[2] + 0.05


def test_unreachable_targets_are_refused(recipe):
    """The error names what can be reached and what blocks."""
    with pytest.raises(InfeasibleError, match="the smallest has"):
        runner(recipe)({"target": 0.001})


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        ({"target": 0.0}, InvalidArgumentError, "target to be a share of the dense model's cost"),
        ({"target": 1.5}, InvalidArgumentError, "target to be a share of the dense model's cost"),
        ({"epochs": 0.0}, InvalidArgumentError, "epochs to be positive"),
        ({"weights": "thawed"}, UnknownNameError, "weights 'thawed'"),
        ({"tune_share": 1.0}, InvalidArgumentError, "tune_share"),
        ({"momentum": -0.1}, InvalidArgumentError, "momentum"),
        ({"cost": "mac"}, UnknownNameError, "macs"),
        ({"start": [0]}, InvalidArgumentError, "genomes"),
    ],
)
def test_wrong_settings_are_refused(recipe, wrong, error, match):
    """Each is an error that names the setting."""
    with pytest.raises(error, match=match):
        runner(recipe)(wrong)


def test_lists_become_tuples():
    """A start that went through JSON is the start that was given."""
    assert BudgetedSettings(start=[1, 2]) == BudgetedSettings(start=(1, 2))
