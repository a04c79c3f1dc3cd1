"""What PruningNet and the supernet train, where they start, and what they leave alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.jobs import Prepare, WeightSet
from autoprune.core.limits import within_limits
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.errors import InvalidArgumentError, UnknownNameError
from autoprune.evaluate.inherited import Generated
from autoprune.prepare.recipe import Recipe, Workbench
from autoprune.prepare.width_learner import WidthLearner
from autoprune.prepare.width_training import PruningNetRecipe, PruningNetSettings, SupernetRecipe, SupernetSettings
from autoprune.surgery.matching import model_weights
from autoprune.testing.digits_network import digits_inherited, digits_setup
from autoprune.testing.recipe_laws import MemoryBlobs, digits_bench
from autoprune.trace.tracer import trace
from autoprune.train.job_setup import JobSetup
from autoprune.train.named_data import load_data
from autoprune.train.tasks import Classification
from autoprune.weight_sets import Inherited, WeightReader, put_weight_set

BOTH = ((PruningNetRecipe, PruningNetSettings), (SupernetRecipe, SupernetSettings))

FEW = {"epochs": 0.5, "batch_size": 130}


def made(recipe: Recipe, name: str, settings: dict[str, Any], parent: WeightSet) -> Inherited:
    """Run a job and return what it made."""
    outcome = recipe(Prepare(0, name, settings, parent))
    return WeightReader(recipe.bench.blobs, recipe.setup.structure, "cpu")(outcome.weight_set)


def setup_of(model: nn.Module) -> JobSetup:
    """Return the setup of a traced model on the digits."""
    data = load_data("digits")
    structure = trace(model.eval(), data.example_batch(1)[0], validate=False)
    space = SearchSpace.build(structure, levels=4)
    return JobSetup(model, space, CostModel(structure, space), data, Classification())


def stored(setup: JobSetup, blobs: MemoryBlobs) -> WeightSet:
    """Store the model's own weights with the leading channels first."""
    orders = tuple(np.arange(group.width) for group in setup.structure.groups)
    return put_weight_set(blobs.put, setup.structure, model_weights(setup.model, setup.structure), orders)


@pytest.mark.parametrize(("kind", "settings"), BOTH)
def test_structures_are_feasible_and_longer_trainings_begin_alike(kind: Any, settings: Any) -> None:
    """Every structure is within the limits; more epochs add structures and never change those before."""
    bench, _ = digits_bench()
    recipe = kind(bench)
    few, many = recipe.structures(settings(), 10), recipe.structures(settings(), 700)
    np.testing.assert_array_equal(many[:10], few)
    genomes = many.reshape(-1, bench.setup.space.n_variables)
    assert within_limits(bench.setup.costs(genomes), bench.limits).all()
    other = recipe.structures(settings(structures_seed=1), 10)
    assert not np.array_equal(other, few)


def test_a_pruningnet_sees_one_structure_of_any_cost_per_step() -> None:
    """Random structures, spread over the whole range of cost."""
    bench, _ = digits_bench()
    genomes = PruningNetRecipe(bench).structures(PruningNetSettings(), 400)
    assert genomes.shape == (400, 1, 2)
    macs = bench.setup.costs(genomes[:, 0])["macs"]
    low, high = bench.setup.macs(tuple(bench.setup.space.min_genome.tolist())), bench.limits["macs"]
    assert np.histogram(macs, bins=4, range=(low, high))[0].min() > 40


def test_a_sandwich_lies_between_the_largest_and_the_smallest() -> None:
    """The largest structure within the limits, the smallest, and the random ones asked for, in every step."""
    bench, _ = digits_bench()
    space, costs = bench.setup.space, bench.setup.costs
    for limits in (bench.limits, {}):
        recipe = SupernetRecipe(replace(bench, limits=limits))
        genomes = recipe.structures(SupernetSettings(n_random=3, sandwich=True), 20)
        assert genomes.shape == (20, 5, 2)
        assert (genomes[:, 0] == space.repair(space.full_genome[None, :], costs, limits)).all()
        assert (genomes[:, 1] == space.min_genome).all()
        assert recipe.structures(SupernetSettings(n_random=3), 20).shape == (20, 3, 2)


def test_only_what_a_crop_uses_is_trained() -> None:
    """Channels outside of the structure of a step do not move, in the model's own tensors."""
    setup = digits_setup()
    inherited = digits_inherited(setup)
    structures = np.array([[[1, 2]]])
    settings = PruningNetSettings(weight_decay=0.0)
    learner = WidthLearner(setup, inherited.weights, inherited.orders, structures, settings, device=torch.device("cpu"))
    learner.step(setup.data.example_batch(32), 0, 1)
    kept = setup.kept((1, 2), inherited)[:8]
    moved = (learner.tensors["conv1.weight"] != inherited.weights["conv1.weight"]).flatten(1).any(dim=1)
    np.testing.assert_array_equal(moved.numpy(), kept)


@pytest.mark.parametrize(("kind", "settings"), BOTH)
def test_from_scratch_nothing_is_inherited(kind: Any, settings: Any) -> None:
    """New weights and the leading channels; the same ones for the same seed (a law of all recipes)."""
    bench, parent = digits_bench()
    found = made(kind(bench), "any", {**FEW, "start": "scratch", "learning_rate": 1e-9}, parent)
    for group, order in zip(bench.setup.structure.groups, found.orders, strict=True):
        np.testing.assert_array_equal(order, np.arange(group.width))
    assert not torch.allclose(found.weights["conv1.weight"], bench.setup.model.conv1.weight)
    assert torch.allclose(found.weights["bn1.weight"], torch.ones(8))


@pytest.mark.parametrize(("kind", "settings"), BOTH)
def test_training_starts_at_the_parent(kind: Any, settings: Any) -> None:
    """With a learning rate of almost nothing, the made weights score as the parent's do, at any width."""
    bench, parent = digits_bench()
    found = made(kind(bench), "any", {**FEW, "learning_rate": 1e-12, "weight_decay": 0.0}, parent)
    evaluator = Generated(bench.setup)
    inherited = WeightReader(bench.blobs, bench.setup.structure, "cpu")(parent)
    for genome in ((1, 2), (3, 3)):
        expected = evaluator.evaluate(genome, inherited)
        assert evaluator.evaluate(genome, found)["loss"] == pytest.approx(expected["loss"], rel=1e-4)


@pytest.mark.parametrize(("kind", "settings"), BOTH)
def test_the_dense_model_teaches_at_its_price(kind: Any, settings: Any) -> None:
    """Learning from its answers is another training, and costs its forward passes."""
    bench, parent = digits_bench()
    recipe = kind(bench)
    labels = {**FEW, "distillation": 0.0}
    alone, taught = (made(recipe, "any", chosen, parent) for chosen in (labels, FEW))
    assert not torch.equal(alone.weights["conv1.weight"], taught.weights["conv1.weight"])
    costs = [recipe.estimate_macs(settings(**chosen)) for chosen in (labels, FEW)]
    n_steps = settings(**FEW).n_steps(len(bench.setup.data.train))
    assert costs[1] - costs[0] == n_steps * 130 * bench.setup.dense_macs


def test_a_sandwich_teaches_itself() -> None:
    """Its largest structure gives the answers: they cost nothing beside it, and they matter."""
    bench, parent = digits_bench()
    recipe = SupernetRecipe(bench)
    labels, taught = ({**FEW, "sandwich": True, "distillation": share} for share in (0.0, 1.0))
    weights = [made(recipe, "any", chosen, parent).weights["conv1.weight"] for chosen in (labels, taught)]
    assert not torch.equal(*weights)
    assert recipe.estimate_macs(SupernetSettings(**labels)) == recipe.estimate_macs(SupernetSettings(**taught))


def test_models_without_batch_norm_are_trained_as_they_are() -> None:
    """No statistics, no recalibration: training lowers the loss that the evaluator measures."""
    torch.manual_seed(0)
    layers = (nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10))
    setup, blobs = setup_of(nn.Sequential(nn.Flatten(), *layers)), MemoryBlobs()
    parent = stored(setup, blobs)
    inherited = WeightReader(blobs, setup.structure, "cpu")(parent)
    evaluator = Generated(setup)
    before = evaluator.evaluate((1, 1), inherited)["loss"]
    for recipe in (PruningNetRecipe, SupernetRecipe):
        settings = {"epochs": 4.0, "batch_size": 32, "learning_rate": 0.1, "distillation": 0.0}
        found = made(recipe(Workbench(setup, blobs)), "any", settings, parent)
        assert evaluator.evaluate((1, 1), found)["loss"] < 0.8 * before


def test_settings_out_of_range_are_refused() -> None:
    """Each names what it expected."""
    with pytest.raises(UnknownNameError, match="did you mean 'scratch'"):
        SupernetSettings(start="scrach")
    with pytest.raises(UnknownNameError, match="generator"):
        PruningNetSettings(generator="slimmable")
    for kind, wrong in (
        (SupernetSettings, {"epochs": -1.0}),
        (SupernetSettings, {"batch_size": 0}),
        (SupernetSettings, {"n_random": -1}),
        (PruningNetSettings, {"rank": 0}),
        (SupernetSettings, {"n_random": 0}),
    ):
        with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
            kind(**wrong)
    with pytest.raises(InvalidArgumentError, match="expected distillation to be a share"):
        PruningNetSettings(distillation=2.0)


@pytest.mark.slow
@pytest.mark.parametrize("generator", ["fc", "low_rank"])
def test_a_pruningnet_learns_from_scratch(generator: str) -> None:
    """As in the paper, without trained weights and without a teacher: generated networks of all sizes read digits."""
    bench, parent = digits_bench()
    settings = {"start": "scratch", "distillation": 0.0, "epochs": 15.0, "batch_size": 32, "learning_rate": 0.1}
    recipe = PruningNetRecipe(replace(bench, limits={}))
    found = made(recipe, "any", {**settings, "generator": generator, "hidden": 16}, parent)
    evaluator = Generated(bench.setup)
    for genome in ((1, 1), (2, 2), (3, 3)):
        assert evaluator.evaluate(genome, found)["accuracy"] > 0.7
