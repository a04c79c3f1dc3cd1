"""ACP: what happens before the swarm, where it starts, and whom it follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.budget import Spending
from autoprune.core.jobs import Evaluate, Evaluation, Job, Outcome, Preparation, Prepare
from autoprune.core.protocols import SearchSetup
from autoprune.errors import BudgetError, InvalidArgumentError, UnknownNameError
from autoprune.strategies.acp import AcpSettings, AcpStrategy, AcpUnclusteredStrategy, SwarmSettings
from autoprune.strategies.warm_start import WarmStartSettings, WarmStartStrategy
from autoprune.testing.strategy_laws import LEARNING_WIDTHS, candidates_of, dominated_share, drive, genomes_of
from autoprune.testing.toys import failed_outcome, toy_outcome, toy_setup, toy_space

IMAGE = 1000
"""Multiply-adds of one calibration image, in these tests."""


def priced_setup(macs: int | None) -> SearchSetup:
    """Return a toy setup in which a clustering costs `IMAGE` an image."""

    def estimate(job: Job) -> Spending:
        return Spending(macs=IMAGE * job.settings["images"] if isinstance(job, Prepare) else 10)

    return replace(toy_setup(evaluations=40), macs=macs, estimate=estimate)


def clustered(setup: SearchSetup) -> tuple[AcpStrategy, list[Preparation]]:
    """Return a strategy that was told its clusterings, and their outcomes."""
    strategy = AcpStrategy(setup)
    outcomes = [toy_outcome(setup, job) for job in strategy.ask(16)]
    strategy.tell(outcomes)
    return strategy, outcomes


def test_clusterings_come_first_and_are_waited_for() -> None:
    """One job per target, costs falling from the limit to the smallest network; nothing else until all are told."""
    setup = toy_setup(limits={"macs": "50%"}, evaluations=40)
    strategy = AcpStrategy(setup)
    jobs = strategy.ask(3) + strategy.ask(16)
    assert all(isinstance(job, Prepare) and job.recipe == "clusters" for job in jobs)
    targets = [job.settings["target"] for job in jobs if isinstance(job, Prepare)]
    assert len(targets) == 5
    assert targets == sorted(targets, reverse=True)
    assert 0 < targets[-1] < targets[0] < 0.5
    for job in jobs:
        assert strategy.ask(1) == []
        strategy.tell([toy_outcome(setup, job)])
    assert isinstance(strategy.ask(1)[0], Evaluate)


def test_particle_0_is_the_clustering() -> None:
    """The first particle of each clustering measures just what was found, with the order that was found."""
    setup = toy_setup(evaluations=40)
    strategy, outcomes = clustered(setup)
    jobs = strategy.ask(len(outcomes))
    for job, outcome in zip(jobs, outcomes, strict=True):
        assert isinstance(job, Evaluate)
        assert job.candidate.genome == outcome.found_genome
        assert job.candidate.weight_set == outcome.weight_set


def test_others_start_around_it_ever_farther() -> None:
    """Particle i moves each gene of the clustering by -i, 0 or i levels, clipped to the space."""
    setup = toy_setup(evaluations=40)
    strategy = AcpStrategy(setup, AcpSettings(particles=6, clusterings=1))
    found = np.full(setup.space.n_variables, 5)
    strategy.tell([replace(toy_outcome(setup, job), found_genome=tuple(found.tolist())) for job in strategy.ask(1)])
    for i, genome in enumerate(genomes_of(strategy.ask(4))):
        allowed = np.clip(found + i * np.array([[-1], [0], [1]]), 0, setup.space.n_levels - 1)
        assert (np.array(genome) == allowed).any(axis=0).all()


@pytest.mark.parametrize("cls", [AcpStrategy, AcpUnclusteredStrategy])
def test_two_particles_start_at_the_ends(cls: type[AcpUnclusteredStrategy]) -> None:
    """The largest network within the limits and the smallest of all are among the first to be measured."""
    setup = toy_setup(limits={"macs": "60%"}, evaluations=40)
    genomes = genomes_of(drive(cls(setup), setup, 15, window=10))[:10]
    largest = setup.space.repair(setup.space.full_genome[None, :], setup.costs, setup.limits)[0]
    assert {tuple(largest), tuple(setup.space.min_genome)} <= set(genomes)


def test_the_swarm_keeps_the_weights_of_its_clustering() -> None:
    """Wherever a particle goes, its candidates inherit the order that its clustering made."""
    setup = toy_setup(evaluations=60)
    strategy, outcomes = clustered(setup)
    jobs = drive(strategy, setup, 40, window=strategy.window)
    used = {job.candidate.weight_set for job in jobs if isinstance(job, Evaluate)}
    assert used == {outcome.weight_set for outcome in outcomes}


def test_failed_clusterings_are_left_out() -> None:
    """Particles gather around those that worked; without any the swarm starts at random, as its twin does."""
    setup = toy_setup(evaluations=40)
    for n_working in (2, 0):
        strategy = AcpStrategy(setup)
        jobs = strategy.ask(16)
        outcomes = [toy_outcome(setup, job) if i < n_working else failed_outcome(job) for i, job in enumerate(jobs)]
        strategy.tell(outcomes)
        evaluations = [job for job in strategy.ask(10) if isinstance(job, Evaluate)]
        assert len(evaluations) == 10
        working = {outcome.weight_set for outcome in outcomes[:n_working]} or {setup.weight_set}
        assert {job.candidate.weight_set for job in evaluations} == working


def test_each_particle_has_one_candidate_in_flight() -> None:
    """Asked for more, it waits; a particle moves on as soon as its own candidate was measured."""
    setup = toy_setup(evaluations=40)
    strategy = AcpUnclusteredStrategy(setup, SwarmSettings(particles=4))
    jobs = strategy.ask(16)
    assert len(jobs) == strategy.window == 4
    strategy.tell([toy_outcome(setup, jobs[2])])
    assert len(strategy.ask(16)) == 1


def test_the_twin_prepares_nothing() -> None:
    """It measures random genomes with the weights of the setup from the first job on."""
    setup = toy_setup(evaluations=40)
    jobs = drive(AcpUnclusteredStrategy(setup), setup, 30)
    assert all(isinstance(job, Evaluate) and job.candidate.weight_set == setup.weight_set for job in jobs)


def images_of(jobs: Sequence[Job]) -> set[int]:
    """Return how many images the clusterings look at."""
    return {job.settings["images"] for job in jobs if isinstance(job, Prepare)}


def test_images_fit_the_budget() -> None:
    """All clusterings together take at most their share; the default where nothing limits them."""
    assert images_of(AcpStrategy(priced_setup(None)).ask(5)) == {500}
    assert images_of(AcpStrategy(priced_setup(100_000_000)).ask(5)) == {500}
    (images,) = images_of(AcpStrategy(priced_setup(5_000_000)).ask(5))
    assert 99 <= images <= 100  # a tenth of the budget for five clusterings


def test_a_budget_too_small_to_cluster_is_refused() -> None:
    """Before any work, and with what is needed."""
    with pytest.raises(BudgetError, match="'clusters' needs at least 50,000 MACs"):
        AcpStrategy(priced_setup(1_000_000))


def test_a_given_eps_means_one_clustering() -> None:
    """All targets would give the same."""
    setup = toy_setup(evaluations=40)
    (job,) = AcpStrategy(setup, AcpSettings(preparation={"eps": 0.1, "method": "dbscan"})).ask(9)
    assert isinstance(job, Prepare)
    assert (job.settings["eps"], job.settings["method"]) == (0.1, "dbscan")


def test_an_heir_asks_for_missing_clusterings_only() -> None:
    """What was clustered before a run was interrupted is not clustered again."""
    setup = toy_setup(evaluations=40)
    jobs = AcpStrategy(setup).ask(5)
    heir = AcpStrategy(setup)
    heir.absorb([toy_outcome(setup, job) for job in jobs[:3]])
    rest = heir.ask(16)
    assert [job.settings for job in rest if isinstance(job, Prepare)] == [job.settings for job in jobs[3:]]
    heir.tell([toy_outcome(setup, job) for job in rest])
    assert len(genomes_of(heir.ask(10))) == 10


def from_knapsack(name: str, setup: SearchSetup, settings: object = None) -> WarmStartStrategy:
    """Return a swarm behind the knapsack's sensitivities and optima."""
    return WarmStartStrategy(setup, WarmStartSettings(name, settings))


@pytest.mark.parametrize("name", ["acp", "acp:unclustered"])
def test_a_swarm_starts_from_what_the_knapsack_has_measured(name: str) -> None:
    """All particles begin at measured optima, the ends among them, spread over cost, and know what these are worth.

    Those of the twin inherit what they were measured with, and measure nothing again; every second one of `acp` has the
    order of the one clustering, and measures its place in that: no candidate, genome and order, is measured twice.
    """
    setup = toy_setup(limits={"macs": "70%"}, evaluations=60)
    strategy = from_knapsack(name, setup)
    jobs = drive(strategy, setup, 60, window=10)
    swarm = strategy._successor
    assert isinstance(swarm, AcpUnclusteredStrategy)
    candidates = candidates_of(jobs)
    assert len(candidates) == len(set(candidates))
    again = len(candidates) - len(set(genomes_of(jobs)))
    assert sum(isinstance(job, Prepare) for job in jobs) == (1 if name == "acp" else 0)
    fresh = from_knapsack(name, setup)
    while fresh._successor is None or not fresh._successor._particles:  # up to the moment in which the swarm is made
        fresh.tell([toy_outcome(setup, job) for job in fresh.ask(1)])
    swarm = fresh._successor
    assert isinstance(swarm, AcpUnclusteredStrategy)
    begun = [i for i, known in enumerate(swarm._values_of) if known is not None]
    n = swarm.settings.particles
    assert len(begun) == n
    own = [swarm._weight_sets[i] == setup.weight_set for i in begun]
    assert own == ([True, False] * (n // 2) if name == "acp" else [True] * n)
    assert again == own.count(False)
    costs = setup.costs(np.array([swarm._particles[i].best for i in begun]))["macs"]
    assert costs.max() > 2 * costs.min()


@pytest.mark.parametrize("gain", [-0.05, 0.05])
def test_all_go_on_in_the_better_order(gain: float) -> None:
    """Where the clustered order is worth more, all moves are in it; where it is worth less, none is.

    The toy's accuracy is raised or lowered by as much for all candidates in that order.
    """
    setup = toy_setup(limits={"macs": "70%"}, evaluations=60)

    def outcome(_: SearchSetup, job: Job) -> Outcome:
        found = toy_outcome(setup, job)
        if not isinstance(found, Evaluation) or found.job.candidate.weight_set == setup.weight_set:
            return found
        return replace(found, metrics={**found.metrics, "accuracy": found.metrics["accuracy"] + gain})

    jobs = drive(from_knapsack("acp", setup), setup, 60, window=10, run=outcome)
    assert {candidate.weight_set == setup.weight_set for candidate in candidates_of(jobs)[-10:]} == {gain < 0}


def test_steps_from_a_start_stay_between_particle_and_leader() -> None:
    """A cost-aware move costs no more than the dearer of the two (and 2 % for the levels); others may cost anything."""
    setup = toy_setup(evaluations=60)
    for is_aware in (True, False):
        swarm = AcpUnclusteredStrategy(setup, SwarmSettings(cost_aware=is_aware))
        drive(swarm, setup, 40, window=10)
        beyond = 0
        for particle in swarm._particles * 20:
            leader = swarm._leader(particle)
            swarm._leader = lambda _, leader=leader: leader  # type: ignore[method-assign]
            moved = swarm._moved(particle)
            del swarm._leader
            *ends, cost = setup.costs(np.stack([particle.position, leader, moved]))["macs"].tolist()
            beyond += cost > 1.02 * max(ends)
        assert (beyond == 0) is is_aware


def test_a_start_and_cost_aware_steps_are_worth_something() -> None:
    """At 60 evaluations of eight variables the swarm from the knapsack dominates more than from random widths."""
    space = toy_space(LEARNING_WIDTHS)
    setups = [toy_setup(space, seed=seed, limits={"macs": "70%"}, evaluations=60) for seed in range(3)]
    started = [dominated_share(s, drive(from_knapsack("acp:unclustered", s), s, 60, window=10)) for s in setups]
    alone = [dominated_share(s, drive(AcpUnclusteredStrategy(s), s, 60, window=10)) for s in setups]
    assert np.mean(started) > np.mean(alone) + 0.02


@pytest.mark.parametrize(
    ("items", "score", "by_distance"),
    [
        (None, "auto", False),
        (5000, "auto", False),
        (200, "auto", True),
        (200, "objectives", False),
        (None, "distance", True),
    ],
)
def test_few_items_are_scored_by_distance(items: int | None, score: str, by_distance: bool) -> None:
    """Where accuracy is a coin flip, the archive holds what is near the dense outputs; costs count as ever."""
    setup = replace(toy_setup(evaluations=40), items=items)
    swarm = AcpUnclusteredStrategy(setup, SwarmSettings(particles=4, score=score))

    def outcome(job: Job) -> Evaluation:
        told = toy_outcome(setup, job)
        assert isinstance(told, Evaluation)
        distance = 1.0 - told.metrics["accuracy"]
        return replace(told, metrics={"accuracy": float(job.id), "distance": distance})

    for _ in range(8):
        swarm.tell([outcome(job) for job in swarm.ask(4)])
    accuracies = [values[0] for values in swarm._archive.values()]
    assert all(0 <= value <= 1 for value in accuracies) is by_distance


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [(AcpSettings, {"clusterings": 0}), (AcpSettings, {"images": 3}), (AcpSettings, {"share": 1.5})]
    + [(cls, {"particles": 3}) for cls in (SwarmSettings, AcpSettings)],
)
def test_impossible_settings_are_refused(settings: type, wrong: dict[str, float]) -> None:
    """The message names the value."""
    with pytest.raises(InvalidArgumentError, match=str(next(iter(wrong.values())))):
        settings(**wrong)


def test_an_unknown_score_is_refused() -> None:
    """The message names those that there are."""
    with pytest.raises(UnknownNameError, match="did you mean 'distance'"):
        SwarmSettings(score="distanse")
