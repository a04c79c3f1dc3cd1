"""Sweeps over budgets: which preparations are asked for, from where, how long, and what follows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from autoprune.core.jobs import Evaluate, Prepare, WeightSet
from autoprune.core.protocols import SearchSetup
from autoprune.errors import BudgetError, InfeasibleError, InvalidArgumentError
from autoprune.strategies.dais import DaisFrozenStrategy, DaisStrategy, DaisSweepSettings
from autoprune.testing.strategy_laws import drive
from autoprune.testing.toys import failed_outcome, toy_outcome, toy_setup

BUDGETS = (0.7, 0.5, 0.3)


def found(setup, job):
    """Run ``job``; a preparation finds the widest uniform network within its budget."""
    outcome = toy_outcome(setup, job)
    if not isinstance(job, Prepare):
        return outcome
    dense = int(setup.costs(setup.space.full_genome[None, :])["macs"][0])
    limits = {"macs": int(job.settings["target"] * dense)}
    genome = setup.space.repair(setup.space.full_genome[None, :], setup.costs, limits)[0]
    return replace(outcome, genome=tuple(genome.tolist()))


def preparations(jobs):
    """The Prepare jobs among ``jobs``."""
    return [job for job in jobs if isinstance(job, Prepare)]


def dense_macs(setup: SearchSetup) -> int:
    """What the toy recipe counts per epoch, divided by a hundred."""
    return int(setup.costs(setup.space.full_genome[None, :])["macs"][0])


def test_a_warm_sweep_goes_from_one_search_to_the_next():
    """Budgets fall; each search starts from the weights and the genome of the one before, which is measured first."""
    setup = toy_setup()
    jobs = drive(DaisStrategy(setup, DaisSweepSettings(budgets=BUDGETS)), setup, 12, run=found)
    searches = preparations(jobs)
    assert [job.settings["target"] for job in searches] == pytest.approx(BUDGETS)
    assert (searches[0].parent, searches[0].settings["start"]) == (setup.weight_set, None)
    for before, after in pairwise(searches):
        outcome = found(setup, before)
        assert (after.parent, tuple(after.settings["start"])) == (outcome.weight_set, outcome.genome)
        measured = [job.candidate for job in jobs[: jobs.index(after)] if isinstance(job, Evaluate)]
        assert (outcome.genome, outcome.weight_set) in [(item.genome, item.weight_set) for item in measured]


def test_a_cold_sweep_runs_side_by_side():
    """Without a warm start nothing waits, and everything starts from the given weights."""
    setup = toy_setup()
    strategy = DaisStrategy(setup, DaisSweepSettings(budgets=BUDGETS, warm_start=False))
    searches = preparations(strategy.ask(10))
    assert len(searches) == len(BUDGETS)
    assert {job.parent for job in searches} == {setup.weight_set}
    assert len({job.seed for job in searches}) == len(BUDGETS)


def test_a_failed_search_is_left_out():
    """The next one starts where the failed one did."""
    setup = toy_setup()

    def run(setup, job):
        return failed_outcome(job) if isinstance(job, Prepare) and job.settings["target"] > 0.6 else found(setup, job)

    searches = preparations(drive(DaisStrategy(setup, DaisSweepSettings(budgets=BUDGETS)), setup, 12, run=run))
    assert [job.settings["target"] for job in searches] == pytest.approx(BUDGETS)
    assert searches[1].parent == setup.weight_set
    assert searches[2].parent != setup.weight_set


def test_searches_share_what_may_be_spent():
    """They get equal parts of their share of the run's multiply-adds, and together nearly all of it."""
    setup = toy_setup()
    setup = replace(setup, macs=1000 * dense_macs(setup))
    settings = DaisSweepSettings(budgets=BUDGETS, preparation=0.6)
    searches = preparations(drive(DaisStrategy(setup, settings), setup, 12, run=found))
    assert setup.estimate is not None
    spent = [setup.estimate(job).macs for job in searches]
    assert sum(spent) == pytest.approx(600 * dense_macs(setup), rel=0.01)
    assert max(spent) == pytest.approx(min(spent), rel=0.01)
    assert sum(spent) <= 600 * dense_macs(setup)


def test_a_small_budget_is_refused_at_the_door():
    """Before anything is asked, with what a search needs at least."""
    setup = toy_setup()
    with pytest.raises(BudgetError, match="preparing weights by 'dais' needs at least"):
        DaisStrategy(replace(setup, macs=10 * dense_macs(setup)))


def test_budgets_within_limits():
    """Shares are of the largest feasible network, which is searched itself where a limit cuts the dense one."""
    setup = toy_setup(limits={"macs": "50%"})
    searches = preparations(drive(DaisStrategy(setup), setup, 40, run=found))
    targets = [job.settings["target"] for job in searches]
    assert 0.45 < targets[0] <= 0.5
    assert targets[1] == pytest.approx(0.85 * targets[0])


def test_unreachable_budgets_are_refused():
    """A given budget below the smallest network is an error that names it; the default series stops above."""
    setup = toy_setup()
    with pytest.raises(InfeasibleError, match=r"budget of 0\.0001.*smallest network"):
        DaisStrategy(setup, DaisSweepSettings(budgets=(0.5, 0.0001)))


@pytest.mark.parametrize(
    "wrong", [{"budgets": ()}, {"budgets": (1.5,)}, {"step": 0}, {"epochs": 0.0}, {"preparation": 0.0}]
)
def test_impossible_settings_are_refused(wrong):
    """Each is an error that shows the value."""
    with pytest.raises(InvalidArgumentError, match="expected"):
        DaisSweepSettings(**wrong)


def test_the_twin_asks_for_the_same_without_learning():
    """Same budgets, parents and lengths; only the learning is off."""
    setup = toy_setup()
    settings = DaisSweepSettings(budgets=BUDGETS, warm_start=False)
    ours, twins = (preparations(kind(setup, settings).ask(10)) for kind in (DaisStrategy, DaisFrozenStrategy))
    for our, twin in zip(ours, twins, strict=True):
        assert twin == replace(our, settings={**our.settings, "learn": False})


def test_steps_inherit_the_weights_they_start_from():
    """After the sweep, candidates near the front are measured with the weights that searches made."""
    setup = toy_setup()
    jobs = drive(DaisStrategy(setup, DaisSweepSettings(budgets=BUDGETS)), setup, 40, run=found)
    made = {found(setup, job).weight_set for job in preparations(jobs)}
    later = [job.candidate.weight_set for job in jobs[-20:] if isinstance(job, Evaluate)]
    assert len(later) == 20
    assert made & set(later)
    assert set(later) <= made | {setup.weight_set}
    assert all(isinstance(item, WeightSet) for item in later)
