"""What the door to pymoo adds to the laws: generations, repair, failures, seeds."""

from __future__ import annotations

import numpy as np
import pytest
from pymoo.core.population import Population

from autoprune.errors import InvalidArgumentError
from autoprune.strategies._population import PopulationSettings, reference_partitions
from autoprune.strategies._pymoo import Nsga2Strategy, Nsga3Strategy, PymooSettings, SmsEmoaStrategy, _feasible_first
from autoprune.testing.strategy_laws import drive, genomes_of
from autoprune.testing.toys import failed_outcome, toy_accuracy, toy_outcome, toy_setup

STRATEGIES = [Nsga2Strategy, SmsEmoaStrategy, Nsga3Strategy]
SETTINGS = PymooSettings(population=10)


@pytest.mark.parametrize("make", STRATEGIES)
def test_one_generation_in_flight(make):
    """A generation is proposed at once; the next one when the last of it was told, and `window` says its size."""
    setup = toy_setup()
    strategy = make(setup, SETTINGS)
    assert strategy.window == 10
    first = strategy.ask(100)
    assert len(first) == 10
    strategy.tell([toy_outcome(setup, job) for job in first[:9]])
    assert strategy.ask(100) == []
    strategy.tell([toy_outcome(setup, first[9])])
    assert len(strategy.ask(100)) == 10


@pytest.mark.parametrize("make", STRATEGIES)
def test_the_algorithm_is_told_the_genomes_that_ran(make):
    """Under a limit that most offspring break, what survives is exactly among what was measured, with its values."""
    setup = toy_setup(limits={"macs": "25%"})
    strategy = make(setup, SETTINGS)
    jobs = drive(strategy, setup, 41)  # the 41st makes the algorithm hear of the fourth generation
    measured = {job.candidate.genome: toy_outcome(setup, job) for job in jobs}
    population = strategy._algorithm.pop
    assert len(population) == 10
    for genome, values in zip(population.get("X").tolist(), population.get("F"), strict=True):
        outcome = measured[tuple(genome)]
        np.testing.assert_allclose(values, setup.objectives.values(outcome.metrics, outcome.costs))


def test_first_generation_is_spread_over_cost():
    """The first generation covers the feasible range: some in each third of it."""
    setup = toy_setup(limits={"macs": "50%"})
    costs = setup.costs(np.array(genomes_of(Nsga2Strategy(setup, PymooSettings(population=30)).ask(30))))["macs"]
    low = setup.costs(setup.space.min_genome[None, :])["macs"][0]
    counts, _ = np.histogram(costs, bins=np.linspace(low, setup.limits["macs"], 4))
    assert counts.min() >= 4


@pytest.mark.parametrize("make", STRATEGIES)
def test_failed_candidates_do_not_survive(make):
    """With enough candidates that were measured, none that failed is a parent, whatever its cost."""
    setup = toy_setup()
    strategy = make(setup, SETTINGS)

    def run(setup, job):
        return failed_outcome(job) if job.id % 4 == 0 else toy_outcome(setup, job)

    jobs = drive(strategy, setup, 41, run=run)
    failed = {job.candidate.genome for job in jobs if job.id % 4 == 0}
    population = strategy._algorithm.pop
    assert not failed & {tuple(genome) for genome in population.get("X").tolist()}
    assert np.isfinite(population.get("F")).all()


def test_absorbed_run_gives_the_parents():
    """After taking over a run, the best of it are the parents: no generation is spent on starting anew."""
    setup = toy_setup()
    jobs = drive(Nsga2Strategy(setup, SETTINGS), setup, 60)
    heir = Nsga2Strategy(setup, SETTINGS)
    heir.absorb([toy_outcome(setup, job) for job in jobs])
    assert len(heir.ask(10)) == 10
    parents = heir._algorithm.pop.get("X")
    past = np.array(genomes_of(jobs))
    assert set(map(tuple, parents.tolist())) <= set(genomes_of(jobs))
    assert toy_accuracy(setup.space, parents).max() == toy_accuracy(setup.space, past).max()
    assert setup.costs(parents)["macs"].min() == setup.costs(past)["macs"].min()


def test_small_absorbed_run_is_filled_up():
    """Fewer candidates than a population are kept and completed, and only the new ones are asked."""
    setup = toy_setup()
    past = [toy_outcome(setup, job) for job in Nsga2Strategy(setup, SETTINGS).ask(4)]
    heir = Nsga2Strategy(setup, SETTINGS)
    heir.absorb(past)
    assert len(heir.ask(100)) == 6


def test_nsga3_tournament_is_seeded_and_prefers_what_ran():
    """Between equals the given stream decides, evenly; a failed parent loses against a measured one."""
    parents = Population.new(X=np.zeros((3, 1)), F=np.zeros((3, 1)), G=np.array([[0.0], [0.0], [1.0]]))
    pairs = np.array([[0, 1]] * 1000 + [[0, 2], [2, 1]])
    draws = [_feasible_first(parents, pairs, np.random.default_rng(seed))[:, 0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    assert draws[0][1000:].tolist() == [0, 1]
    assert 400 < draws[0][:1000].sum() < 600


@pytest.mark.parametrize("make", [Nsga2Strategy, SmsEmoaStrategy])
def test_one_objective_is_searched(make):
    """Where the limit does the work of the second objective, one objective is enough."""
    setup = toy_setup(objectives=["accuracy"], limits={"macs": "50%"})
    assert len(drive(make(setup, SETTINGS), setup, 35)) == 35


@pytest.mark.parametrize(("evaluations", "size"), [(None, 32), (50, 8), (300, 25), (10_000, 64)])
def test_population_is_sized_to_the_budget(evaluations, size):
    """About twelve generations, between 8 and 64 candidates."""
    assert PopulationSettings().size(evaluations) == size
    assert PopulationSettings(population=20).size(evaluations) == 20


def test_tiny_population_is_refused():
    """Fewer than four parents cannot be crossed over and selected from."""
    with pytest.raises(InvalidArgumentError, match="population to be at least 4, got 3"):
        PopulationSettings(population=3)


@pytest.mark.parametrize(
    ("objectives", "size", "partitions"),
    [(("accuracy", "macs"), 25, 24), (("accuracy", "macs", "params"), 25, 5), (("accuracy", "macs", "params"), 10, 3)],
)
def test_reference_directions_fit_the_population(objectives, size, partitions):
    """Two objectives: partitions + 1 directions; three: (p + 1)(p + 2) / 2, here 21 of 25 and 10 of 10."""
    assert reference_partitions(size, toy_setup(objectives=objectives)) == partitions
