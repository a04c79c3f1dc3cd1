"""What the door to Optuna adds to the laws: samplers learn from what ran, and nothing of Optuna's leaks."""

from __future__ import annotations

import logging

import numpy as np
import optuna
import pytest
from optuna.samplers import TPESampler

from autoprune.core.jobs import Status
from autoprune.errors import InvalidArgumentError
from autoprune.strategies._optuna import GpStrategy, NsgaIIIStrategy, NsgaIIStrategy, TpeSettings, TpeStrategy
from autoprune.strategies._population import PopulationSettings
from autoprune.testing.strategy_laws import drive, genomes_of
from autoprune.testing.toys import failed_outcome, toy_outcome, toy_setup, toy_space

STRATEGIES = [TpeStrategy, NsgaIIStrategy, NsgaIIIStrategy]


@pytest.mark.parametrize("make", STRATEGIES)
def test_trials_hold_the_genomes_that_ran(make):
    """Under a limit that most proposals break, each trial's parameters are the repaired genome of its job."""
    setup = toy_setup(limits={"macs": "25%"}, evaluations=60)
    strategy = make(setup)
    jobs = drive(strategy, setup, 60)
    trials = strategy._study.trials
    assert [tuple(trial.params.values()) for trial in trials] == genomes_of(jobs)
    for trial, job in zip(trials, jobs, strict=True):
        outcome = toy_outcome(setup, job)
        np.testing.assert_allclose(trial.values, setup.objectives.values(outcome.metrics, outcome.costs))


def test_failed_candidates_are_failed_trials():
    """A failure is neither dropped nor turned into a figure."""
    setup = toy_setup()
    strategy = TpeStrategy(setup)
    first, second = strategy.ask(2)
    strategy.tell([failed_outcome(second), toy_outcome(setup, first)])
    states = [trial.state for trial in strategy._study.trials]
    assert states == [optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL]


@pytest.mark.parametrize("make", [NsgaIIStrategy, NsgaIIIStrategy])
def test_absorbed_run_continues_its_generation(make):
    """A genetic sampler that takes over twenty candidates with a population of eight is in its third generation."""
    setup = toy_setup(limits={"macs": "50%"})
    settings = PopulationSettings(population=8)
    donor = make(setup, settings)
    heir = make(setup, settings)
    heir.absorb([toy_outcome(setup, job) for job in drive(donor, setup, 20)])
    heir.ask(1)
    (generations,) = (
        [value for key, value in trial.system_attrs.items() if key.endswith(":generation")]
        for trial in heir._study.trials[-1:]
    )
    assert generations == [2]


def test_absorb_skips_failures():
    """Failed candidates of the earlier run are neither learned from nor tried again."""
    setup = toy_setup()
    past = [toy_outcome(setup, job) for job in drive(TpeStrategy(setup), setup, 6)]
    past[2] = failed_outcome(past[2].job)
    heir = TpeStrategy(setup)
    heir.absorb(past)
    assert len(heir._study.trials) == sum(outcome.status is Status.OK for outcome in past) == 5


def test_start_is_spread_over_cost():
    """Before the first model, candidates cover the feasible range: some in each third of it."""
    setup = toy_setup(limits={"macs": "50%"})
    jobs = TpeStrategy(setup, TpeSettings(n_startup=30)).ask(30)
    costs = setup.costs(np.array(genomes_of(jobs)))["macs"]
    low = setup.costs(setup.space.min_genome[None, :])["macs"][0]
    counts, _ = np.histogram(costs, bins=np.linspace(low, setup.limits["macs"], 4))
    assert counts.min() >= 4


@pytest.mark.parametrize(
    ("widths", "evaluations", "named"), [((4,) * 21, 100, "got 21 and 100"), ((4,) * 3, 201, "got 3 and 201")]
)
def test_gaussian_processes_are_refused_where_they_are_too_slow(widths, evaluations, named):
    """Above 20 variables or 200 evaluations the error gives the numbers, the reason and the way out."""
    with pytest.raises(InvalidArgumentError, match=f"{named}.*longer than the evaluation.*optuna:tpe"):
        GpStrategy(toy_setup(toy_space(widths, levels=4), evaluations=evaluations))
    GpStrategy(toy_setup(toy_space((4,) * 20, levels=4), evaluations=200))


def test_nsga3_needs_two_objectives():
    """Reference directions mean nothing for one objective; the error names the way out."""
    with pytest.raises(InvalidArgumentError, match=r"at least two objectives.*NSGA-II"):
        NsgaIIIStrategy(toy_setup(objectives=["accuracy"]))


@pytest.mark.parametrize("make", STRATEGIES)
def test_nothing_of_optuna_is_heard_or_left_behind(make, capfd):
    """No line is printed, and the user's verbosity is as it was."""
    optuna.logging.set_verbosity(optuna.logging.INFO)
    setup = toy_setup()
    drive(make(setup), setup, 5)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == logging.INFO


def test_substitutes_are_the_same_after_a_resumption(monkeypatch):
    """A sampler that has nothing new to say: what is drawn instead does not depend on which trials were repeated.

    Killed after more substitutes than a search draws in a row, and repeated from the record, the search goes on as it
    would have.
    """
    monkeypatch.setattr(TPESampler, "sample_relative", lambda *_: dict.fromkeys(("v0", "v1", "v2", "v3"), 0))
    setup = toy_setup(toy_space((8, 8, 8, 8)))
    undisturbed, resumed = TpeStrategy(setup), TpeStrategy(setup)
    for _ in range(150):
        jobs = undisturbed.ask(4)
        assert resumed.repeat(4, jobs) == jobs
        for strategy in (undisturbed, resumed):
            strategy.tell([toy_outcome(setup, job) for job in jobs])
    jobs = undisturbed.ask(4)
    assert undisturbed.substitutes(jobs) == [job.id for job in jobs]
    assert resumed.ask(4) == jobs
