"""Evolutionary synthesis: who survives, with what probability, within which budget, and under which stress."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.core.jobs import Evaluate, Prepare, weight_sets_of
from autoprune.errors import InvalidArgumentError, UnknownNameError
from autoprune.prepare.synthesis import SynthesisRecipe, SynthesisSettings
from autoprune.regularizers.base import Channels
from autoprune.regularizers.stress import Stress, survival_probabilities
from autoprune.strategies.synthesis import SynthesisStrategy, UniformSynthesisStrategy
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_tensors
from autoprune.testing.recipe_laws import cost_share, digits_bench, run_recipe
from autoprune.testing.regularizer_laws import stream_network, stream_structure
from autoprune.testing.strategy_laws import drive
from autoprune.testing.toys import failed_outcome, toy_outcome, toy_setup
from autoprune.weight_sets import WeightReader

SHORT = {"epochs": 1.0, "batch_size": 130}


def stream() -> Channels:
    """Return the channels of a network with two residual blocks."""
    structure = stream_structure()
    return Channels(stream_network(), structure, [np.arange(group.width) for group in structure.groups])


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_probabilities_have_bounds(sharpness: float) -> None:
    """The strongest channel of every group has 1, a dead one exp(-sharpness); all others lie between."""
    channels = stream()
    first = channels.structure.groups[0]
    for axis in channels.structure.axes:
        gone = np.flatnonzero(axis.genes == first.start)
        channels.tensors[axis.tensor].data.index_fill_(axis.dim, torch.from_numpy(gone), 0.0)
    found = survival_probabilities(channels, sharpness, weak=0.1)
    for group in channels.structure.groups:
        own = found[group.start : group.start + group.width]
        assert float(own.max()) == 1.0
        assert float(own.min()) >= math.exp(-sharpness) - 1e-6
    assert float(found[first.start]) == pytest.approx(math.exp(-sharpness))


def test_a_dead_layer_kills_nobody() -> None:
    """Where nothing tells channels apart all survive alike."""
    channels = stream()
    for tensor in channels.tensors.values():
        if tensor.is_floating_point():
            tensor.data.zero_()
    assert (survival_probabilities(channels, 3.0, weak=0.1) == 1).all()


@pytest.mark.parametrize("target", [0.2, 0.5, 0.9])
def test_the_budget_is_hit(target: float) -> None:
    """In expectation exactly, and by what is drawn: within it, and no wider by any level."""
    outcome, bench = run_recipe(SynthesisRecipe, {**SHORT, "target": target})
    assert outcome.metrics["expected_share"] == pytest.approx(target, abs=1e-3)
    assert cost_share(outcome, bench) <= target
    setup = bench.setup
    genome = np.array(outcome.found_genome)
    for d in np.flatnonzero(genome < setup.space.full_genome):
        wider = genome + np.eye(len(genome), dtype=int)[d]
        assert setup.costs(wider[None])["macs"][0] > target * setup.dense_macs


def test_offspring_have_channels_of_their_parents_alone() -> None:
    """Over two generations: what the parent lost stays lost, whatever the mate has."""
    bench, ancestor = digits_bench()
    bench = replace(bench, limits={})
    recipe = SynthesisRecipe(bench)
    parents = [recipe(Prepare(i, "synthesis", {**SHORT, "target": 0.5}, ancestor, seed=i)) for i in range(2)]
    first, second = (parent.found for parent in parents)
    assert first is not None
    assert second is not None
    mate = [second.weight_set.weights, second.weight_set.order]
    given = {**SHORT, "target": 0.25, "start": first.genome, "mate": mate, "mate_start": second.genome}
    job = Prepare(2, "synthesis", given, first.weight_set, seed=2)
    assert weight_sets_of(job) == (first.weight_set, second.weight_set)
    child = recipe(job)
    assert child.found is not None
    inherited = WeightReader(bench.blobs, bench.setup.structure, "cpu")
    had, has = (bench.setup.kept(c.genome, inherited(c.weight_set)) for c in (first, child.found))
    assert not (has & ~had).any()
    alone = recipe(replace(job, settings={**given, "mate": None, "mate_start": None}))
    assert alone.metrics["environment"] != child.metrics["environment"]


def test_the_twin_keeps_one_share() -> None:
    """Without chance the strongest channels of every group stay, the same share of all, whatever the seed."""
    found = [run_recipe(SynthesisRecipe, {**SHORT, "learns": False, "target": t}) for t in (0.4, 0.4)]
    assert found[0][0].found_genome == found[1][0].found_genome
    bench = found[0][1]
    widths = bench.setup.space.widths(np.array([found[0][0].found_genome]))[0] / bench.setup.structure.full_widths
    assert np.ptp(widths) <= 0.26  # a level of four


@pytest.mark.parametrize("stress", ["rehearsal", "decay"])
def test_stress_falls_on_the_weak(stress: str) -> None:
    """At full stress: a channel of probability 1 is untouched, others fail or shrink as often as they should."""
    channels = stream()
    regularizer = Stress(channels, {"stress": stress, "rho": 1.0, "eta": 1.0})
    chances = regularizer.probabilities()
    before = {key: rows.detach().clone() for key, rows in channels.producing().items()}
    regularizer.after_step(0, 1)
    if stress == "decay":
        assert any(not torch.equal(rows, before[key]) for key, rows in channels.producing().items())
        stem = channels.producing()["stem.weight:0"].detach()
        group = next(g for g in channels.structure.groups if ("stem.weight", 0) in {a[:2] for a in g.axes})
        expected = before["stem.weight:0"] * chances[group.start : group.start + group.width, None]
        torch.testing.assert_close(stem, expected)
        return
    model = channels.model.train()
    alive = []
    for _ in range(300):
        model(torch.zeros(2, 1, 8, 8))
        assert regularizer._alive is not None
        alive.append(regularizer._alive)
    assert torch.stack(alive).mean(0).sub(chances).abs().max() < 0.12
    strongest = chances == 1
    assert torch.stack(alive)[:, strongest].all()
    model.eval()
    model(torch.zeros(2, 1, 8, 8))
    assert regularizer._alive is None  # nobody fails where it is only measured
    regularizer.close()


def test_a_failed_channel_puts_out_zero() -> None:
    """The layer that produces it, and no other."""
    channels = stream()
    regularizer = Stress(channels, {"rho": 1.0})
    seen = {}
    for name, module in channels.model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda *given, name=name: seen.__setitem__(name, given[-1]))
    regularizer.after_step(0, 1)
    channels.model.train()(torch.rand(2, 1, 8, 8))
    assert regularizer._alive is not None
    group = next(g for g in channels.structure.groups if ("stem.weight", 0) in {a[:2] for a in g.axes})
    alive = regularizer._alive[group.start : group.start + group.width] > 0
    assert torch.equal(seen["stem"].flatten(2).abs().amax((0, 2)) > 0, alive)
    regularizer.close()


def test_the_structure_of_a_cut_network() -> None:
    """Its tensors are those of the cut model, and its channels those that were kept, in their order."""
    structure, model = stream_structure(), stream_network()
    kept = structure.kept_genes([np.arange(g.width)[::-1] for g in structure.groups], structure.full_widths // 2)
    small = cut(model, structure, kept)
    own = structure.cut(kept)
    assert set(model_tensors(small, own)) == {info.name for info in structure.tensors}
    genes = np.flatnonzero(kept)
    for dense, axis in zip(structure.axes, own.axes, strict=True):
        expected = dense.genes[structure.kept_positions(dense, kept)]
        np.testing.assert_array_equal(np.where(axis.genes < 0, -1, genes[axis.genes]), expected)
    assert [group.width for group in own.groups] == [int(kept[group.genes].sum()) for group in structure.groups]


def test_a_dropped_block_has_no_say() -> None:
    """The structure of a network without the channels of one group: all others have their probabilities."""
    structure = stream_structure()
    kept = np.ones(structure.n_genes, dtype=bool)
    kept[structure.groups[1].genes] = False
    own = structure.cut(kept)
    small = stream_network()
    for name, tensor in [*small.named_parameters(), *small.named_buffers()]:
        for axis in structure.axes_of.get(name, ()):
            at = torch.from_numpy(structure.kept_positions(axis, kept))
            tensor.data = tensor.data.index_select(axis.dim, at)
    found = survival_probabilities(Channels(small, own, []), 3.0, weak=0.1)
    assert len(found) == own.n_genes
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"stress": "hunger"}, UnknownNameError),
        ({"cost": "peak_bytes"}, UnknownNameError),
        ({"sharpness": 0.0}, InvalidArgumentError),
        ({"say": 2.0}, InvalidArgumentError),
        ({"mate": ["one"]}, InvalidArgumentError),
        ({"rho": -0.1}, InvalidArgumentError),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], error: type[Exception]) -> None:
    """Refused at the door."""
    with pytest.raises(error):
        SynthesisSettings(**settings)


# ---------------------------------------------------------------------------- generations


def births(jobs: list[Any]) -> list[Prepare]:
    """Return the Prepare jobs."""
    return [job for job in jobs if isinstance(job, Prepare)]


def test_generations_follow_each_other() -> None:
    """Parents are measured members of the last generation, every other child has a mate, budgets fall."""
    setup = toy_setup()
    jobs = drive(SynthesisStrategy(setup, {"generations": 3, "offspring": 4}), setup, 60)
    made = births(jobs)
    assert len(made) == 12
    targets = [job.settings["target"] for job in made]
    assert targets == sorted(targets, reverse=True)
    assert len({job.seed for job in made}) == 12
    for generation in (1, 2):
        last = {toy_outcome(setup, job).weight_set for job in made[4 * generation - 4 : 4 * generation]}
        children = made[4 * generation : 4 * generation + 4]
        assert len({child.parent for child in children}) == 1
        assert children[0].parent in last
        assert [job.settings.get("mate") is not None for job in children] == [False, True, False, True]
    measured = [job.candidate for job in jobs if isinstance(job, Evaluate)]
    assert len(measured) == 13


def test_a_failed_generation_has_the_old_parent() -> None:
    """All of the second generation fail: the third descends from the best of the first; all fail: it ends."""
    setup = toy_setup()
    strategy = SynthesisStrategy(setup, {"generations": 3, "offspring": 2})
    targets: list[float] = []

    def run(setup: Any, job: Any) -> Any:
        if isinstance(job, Prepare):
            targets.append(job.settings["target"])
            if len(set(targets)) == 2:
                return failed_outcome(job)
        return toy_outcome(setup, job)

    made = births(drive(strategy, setup, 60, run=run))
    assert len(made) == 6
    assert made[4].parent == made[2].parent
    none = drive(SynthesisStrategy(setup, {"generations": 2}), setup, 60, run=lambda _, job: failed_outcome(job))
    assert len(births(none)) == 8


def test_the_twin_trains_as_many() -> None:
    """Its control has the same trainings, without chance."""
    setup = toy_setup()
    made = births(drive(UniformSynthesisStrategy(setup, {"generations": 3}), setup, 60))
    assert [job.settings["learns"] for job in made] == [False] * 12
