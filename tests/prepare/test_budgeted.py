"""What holds for every search for one budget, on the digits, beyond the recipe laws."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from autoprune.cost.model import CostModel
from autoprune.errors import InfeasibleError, InvalidArgumentError, UnknownNameError
from autoprune.prepare.budgeted import BudgetedSettings
from autoprune.prepare.dais import DaisRecipe
from autoprune.prepare.dsa import DsaRecipe
from autoprune.testing.digits_network import digits_network
from autoprune.testing.recipe_laws import MemorySlot, StoppedError, cost_share, digits_bench, run_recipe
from autoprune.train.loop import fit
from autoprune.train.named_data import load_data
from autoprune.train.settings import FitSettings
from autoprune.weight_sets import WeightReader, put_weight_set

SHORT = {DaisRecipe: {"epochs": 1.0}, DsaRecipe: {"epochs": 1.2, "every": 3}}
VARIANTS = {
    DaisRecipe: ({"shared": False}, {"straight_through": True}, {"learns": False}, {"tune_share": 0.0}),
    DsaRecipe: ({"importance": "taylor"}, {"learns": False, "from_scratch": True, "warmup": 0.3}, {"tune_share": 0.0}),
}
CHARGED = {
    DaisRecipe: ({}, {"learns": False}, {"tune_share": 0.0, "batch_size": 100}, {"indicator_every": 3}),
    DsaRecipe: ({}, {"learns": False}, {"warmup": 0.3, "tune_share": 0.0}),
}
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


@pytest.mark.parametrize("start", [None, [2, 1]])
@pytest.mark.parametrize(("recipe", "settings"), [(name, item) for name in RECIPES for item in CHARGED[name]])
def test_what_is_charged_is_what_runs(recipe, settings, start):
    """Every item that goes through a network is charged what that network costs: once forward, twice backward.

    The items that BatchNorm statistics are recomputed on in the end only go forward.
    """
    bench, parent = digits_bench()
    structure, space = bench.setup.structure, bench.setup.space
    macs = []

    def count(module, inputs):
        if module.bn1.training and len(inputs[0]) > 1:  # not where one item is run to count what it costs
            found = np.array([[module.conv1.out_channels, module.conv2.out_channels]])
            passes = 3 if module.training else 1
            macs.append(passes * int(CostModel(structure, space).at_widths(found)["macs"][0]) * len(inputs[0]))

    bench.setup.model.register_forward_pre_hook(count)
    outcome, _ = runner(recipe)({"target": 0.4, "start": start, **settings}, (bench, parent))
    assert outcome.spent.macs == sum(macs)


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
    ("recipe", "settings"), [(DaisRecipe, {}), (DaisRecipe, {"straight_through": True}), (DsaRecipe, {})]
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
    frozen = {"target": 0.6, "epochs": 4.0, "weight_decay": 0.0, "learning_rate": 1e-6, "tune_share": 0.0}
    outcome, _ = run_recipe(recipe, {**frozen, **settings}, (bench, parent))
    ratios = bench.setup.space.keep_ratios(np.array([outcome.found_genome]))[0]
    assert ratios[group] <= 0.5 < ratios[1 - group]


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
