"""A sweep of preparations: which budgets, in what order, from which weights, and what comes after."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.jobs import Evaluate, Prepare
from autoprune.errors import BudgetError, InfeasibleError, InvalidArgumentError
from autoprune.strategies._sweep import DsaStrategy, SweepSettings, UniformDsaStrategy
from autoprune.strategies.registry import find_strategy
from autoprune.strategies.warm_start import WarmStartSettings, WarmStartStrategy
from autoprune.testing.strategy_laws import drive
from autoprune.testing.toys import failed_outcome, toy_outcome, toy_setup

DENSE = 100  # dense forward passes per epoch of the toy recipe


def preparations(jobs):
    """Return the Prepare jobs."""
    return [job for job in jobs if isinstance(job, Prepare)]


def targets(jobs):
    """Return what they aim at."""
    return [job.settings["target"] for job in preparations(jobs)]


def dense_macs(setup):
    """Return the MACs of the dense toy."""
    return int(setup.costs(setup.space.full_genome[None, :])["macs"][0])


def test_budgets_are_spread_evenly_in_width():
    """From below the largest feasible network down to above the smallest, in equal steps of the cost's root."""
    setup = toy_setup(limits={"macs": "60%"})
    roots = np.sqrt(targets(drive(DsaStrategy(setup, SweepSettings(n_targets=5)), setup, 12)))
    assert len(roots) == 5
    assert roots[0] < np.sqrt(0.6)
    np.testing.assert_allclose(np.diff(roots, 2), 0, atol=1e-12)
    assert np.diff(roots)[0] < 0


def test_warm_starts_go_down_the_sweep():
    """Each preparation waits for the larger one and starts from its network and weights; the networks are measured."""
    setup = toy_setup()
    settings = SweepSettings(n_targets=3)
    jobs = drive(DsaStrategy(setup, settings), setup, 30)
    made = preparations(jobs)
    assert [made[0].parent, made[0].settings["start"]] == [setup.weight_set, None]
    for before, after in itertools.pairwise(made):
        found = toy_outcome(setup, before)
        assert after.parent == found.weight_set
        assert tuple(after.settings["start"]) == found.found_genome
    measured = [job.candidate for job in jobs if isinstance(job, Evaluate)]
    for job in made:
        found = toy_outcome(setup, job)
        assert any(c == found.found for c in measured)


def test_cold_starts_run_side_by_side():
    """Without warm starts all preparations are asked at once, from the given weights."""
    setup = toy_setup()
    jobs = DsaStrategy(setup, SweepSettings(n_targets=4, warm_start=False)).ask(20)
    assert len(preparations(jobs)) == 4
    assert {job.parent for job in preparations(jobs)} == {setup.weight_set}
    assert {tuple(job.settings["start"] or ()) for job in preparations(jobs)} == {()}
    assert len({job.seed for job in preparations(jobs)}) == 4


def test_steps_stay_next_to_the_front():
    """After the preparations, candidates differ in at most two levels from one measured with the same weights."""
    setup = toy_setup(limits={"macs": "70%"})
    jobs = drive(DsaStrategy(setup, SweepSettings(n_targets=2)), setup, 40)
    known = [job.candidate for job in jobs if isinstance(job, Evaluate)][:3]
    for job in [job for job in jobs if isinstance(job, Evaluate)][3:]:
        near = [np.array(c.genome) for c in known if c.weight_set == job.candidate.weight_set]
        distance = [np.abs(np.array(job.candidate.genome) - genome) for genome in near]
        feasible = any((d > 0).sum() <= 2 and d.max() <= 1 for d in distance)
        assert feasible or setup.costs(np.array([job.candidate.genome]))["macs"][0] > 0.5 * setup.limits["macs"]
        known.append(job.candidate)


def test_steps_never_leave_the_network_that_was_prepared():
    """No weight reads a channel beyond it: such a step costs more and computes the same."""
    setup = toy_setup()
    jobs = drive(DsaStrategy(setup, SweepSettings(n_targets=3)), setup, 60)
    found = {toy_outcome(setup, job).weight_set: toy_outcome(setup, job).found_genome for job in preparations(jobs)}
    steps = [job.candidate for job in jobs if isinstance(job, Evaluate) and job.candidate.weight_set in found]
    assert len(steps) > 3 + len(found)
    assert all((np.array(step.genome) <= found[step.weight_set]).all() for step in steps)


def test_preparations_fill_their_share_of_the_budget():
    """All preparations together cost at most their share, and nearly that."""
    setup = toy_setup()
    macs = 30 * DENSE * dense_macs(setup)
    setup = replace(setup, macs=macs)
    made = preparations(drive(DsaStrategy(setup, SweepSettings(n_targets=4, share=0.5)), setup, 12))
    spent = sum(setup.estimate(job).macs for job in made)
    assert 0.499 * macs < spent <= 0.5 * macs


def test_a_large_budget_is_used_up_however_small_the_networks():
    """No number of epochs limits preparations that multiply-adds pay for, unless one is given; four without these."""
    setup = toy_setup()
    macs = 1000 * DENSE * dense_macs(setup)
    paid = replace(setup, macs=macs)
    made = preparations(drive(DsaStrategy(paid, SweepSettings(targets=(0.5, 0.2))), paid, 12))
    assert 0.849 * macs < sum(setup.estimate(job).macs for job in made) <= 0.85 * macs
    for limited, settings in ((paid, {"epochs": 2.5}), (setup, {"epochs": 2.5}), (setup, {})):
        sweep = DsaStrategy(limited, SweepSettings(targets=(0.5, 0.2), **settings))
        made = preparations(drive(sweep, limited, 12))
        assert [job.settings["epochs"] for job in made] == [settings.get("epochs", 4.0)] * 2


@pytest.mark.parametrize("recorded", [1, 2, 3])
@pytest.mark.parametrize("name", ["dais", "dais:frozen", "dsa", "dsa:uniform"])
def test_runs_from_before_train_on_as_they_began(name, recorded):
    """Those of the first revision for four epochs at most, and of the first two at one learning rate for all networks.

    Their jobs say so; those of today's runs leave the rate to the recipe, unless it is given.
    """
    former = find_strategy(name)[0].former_settings({"revision": recorded} if recorded > 1 else {})
    assert former == [{"epochs": 4.0, "learning_rate": 0.02}, {"learning_rate": 0.02}, {}][recorded - 1]
    setup = toy_setup()
    (first, *_) = preparations(drive(DsaStrategy(setup, SweepSettings(targets=(0.5,), **former)), setup, 4))
    assert first.settings.get("learning_rate") == former.get("learning_rate")


@pytest.mark.parametrize(("epochs", "n"), [(3.1, 3), (3.9, 3), (9.0, 4)])
def test_little_budget_means_fewer_targets(epochs, n):
    """Where not all preparations of the least length fit, fewer are made, spread over the range."""
    setup = toy_setup()
    setup = replace(setup, macs=2 * round(epochs * DENSE * dense_macs(setup)))
    settings = SweepSettings(n_targets=4, share=0.5, min_epochs=1.0)
    assert len(targets(drive(DsaStrategy(setup, settings), setup, 12))) == n


def test_too_little_budget_is_an_error():
    """Where not even three fit, or those that were asked for, the error says what would do, and that does."""
    setup = replace(toy_setup(), macs=DENSE * dense_macs(toy_setup()))
    for settings in (SweepSettings(min_epochs=1.0), SweepSettings(min_epochs=1.0, targets=(0.5,))):
        with pytest.raises(BudgetError, match="a sweep by 'dsa' needs at least") as error:
            DsaStrategy(setup, settings)
        enough = re.search(r"a budget of ([\d,]+) MACs", str(error.value))
        DsaStrategy(replace(setup, macs=int(enough[1].replace(",", ""))), settings)


def test_what_is_found_can_be_measured():
    """However much preparations may take, enough is left to measure what every one of them found."""
    setup = toy_setup()
    for macs in (8 * DENSE * dense_macs(setup), 30 * DENSE * dense_macs(setup)):
        setup = replace(setup, macs=macs)
        jobs = drive(DsaStrategy(setup, SweepSettings(share=0.99, min_epochs=0.5)), setup, 20)
        made = [job for job in jobs if isinstance(job, Prepare)]
        measured = [job for job in jobs if isinstance(job, Evaluate)][: len(made) + 1]
        assert len(made) >= 3
        assert len(measured) == len(made) + 1
        assert sum(setup.estimate(job).macs for job in [*made, *measured]) <= macs


def test_unreachable_target_is_an_error():
    """A target below the smallest network fails at once and says where that lies."""
    with pytest.raises(InfeasibleError, match=r"target 0\.001 is out of reach: the smallest network"):
        DsaStrategy(toy_setup(), SweepSettings(targets=(0.5, 0.001)))


def test_given_targets_go_from_large_to_small():
    """Targets that were given are taken in the order that warm starts need."""
    setup = toy_setup()
    assert targets(drive(DsaStrategy(setup, SweepSettings(targets=(0.3, 0.7))), setup, 6)) == [0.7, 0.3]


def test_failed_preparations_are_left_out():
    """The next one starts from the last that succeeded."""
    setup = toy_setup()
    strategy = DsaStrategy(setup, SweepSettings(n_targets=3))

    def run(setup, job):
        is_second = isinstance(job, Prepare) and job.settings["target"] == strategy._targets[1]
        return failed_outcome(job) if is_second else toy_outcome(setup, job)

    made = preparations(drive(strategy, setup, 20, run=run))
    assert len(made) == 3
    assert made[2].parent == made[1].parent == toy_outcome(setup, made[0]).weight_set


def test_nothing_prepared_means_finished():
    """Where every preparation fails, nothing is left to do."""
    setup = toy_setup()

    def run(setup, job):
        return failed_outcome(job) if isinstance(job, Prepare) else toy_outcome(setup, job)

    assert len(drive(DsaStrategy(setup, SweepSettings(n_targets=3)), setup, 50, run=run)) == 4


def test_absorbed_preparations_are_not_repeated():
    """A sweep that takes over another prepares only what that one had not."""
    setup = toy_setup()
    settings = SweepSettings(n_targets=4)
    jobs = drive(DsaStrategy(setup, settings), setup, 20)
    last = preparations(jobs)[2]
    heir = DsaStrategy(setup, settings)
    heir.absorb([toy_outcome(setup, job) for job in jobs if job.id < last.id])
    assert targets(drive(heir, setup, 20)) == targets(jobs)[2:]


def test_the_twin_only_learns_no_ratios():
    """Both prepare the same budgets with the same settings, but for the learning."""
    setup = toy_setup()
    settings = SweepSettings(n_targets=2, warm_start=False, preparation={"tune_share": 0.1})
    pair = [preparations(strategy(setup, settings).ask(9)) for strategy in (DsaStrategy, UniformDsaStrategy)]
    for learned, uniform in zip(*pair, strict=True):
        assert learned.settings == {**uniform.settings, "learns": True}
        assert (uniform.settings["learns"], uniform.settings["tune_share"]) == (False, 0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_targets": 0}, "n_targets to be at least 1"),
        ({"share": 1.0}, "share to be a share in 0..1, 0 and 1 excluded"),
        ({"epochs": 0.05}, "min_epochs <= epochs"),
        ({"targets": (0.5, 0.5)}, "different targets"),
        ({"targets": (1.5,)}, "different targets"),
    ],
)
def test_settings_are_checked(settings, message):
    """A value that cannot be used is an error that names it."""
    with pytest.raises(InvalidArgumentError, match=message):
        SweepSettings(**settings)


def behind(strategy, setup, **settings):
    """Return a sweep behind the knapsack's start."""
    return WarmStartStrategy(setup, WarmStartSettings(strategy=strategy, settings=SweepSettings(**settings), front=8))


@pytest.mark.parametrize("strategy", ["dais", "dais:frozen", "dsa"])
def test_a_warm_start_says_which_widths_to_begin_with(strategy):
    """Every preparation is told the dearest optimum of the start within its target, which was measured before it."""
    setup = toy_setup()
    jobs = drive(behind(strategy, setup, n_targets=3), setup, 60)
    made = preparations(jobs)
    assert len(made) == 3
    first = jobs.index(made[0])
    genomes = np.array([job.candidate.genome for job in jobs[:first]])
    costs = setup.costs(genomes)["macs"] / dense_macs(setup)
    for job in made:
        toward = job.settings["toward"]
        assert toward in genomes.tolist()
        (cost,) = setup.costs(np.array([toward]))["macs"] / dense_macs(setup)
        assert cost <= job.settings["target"]
        assert cost >= costs[costs <= job.settings["target"]].max() - 0.2
    assert all("toward" not in job.settings for job in preparations(drive(DsaStrategy(setup), setup, 30)))


def test_a_sweep_divides_what_the_warm_start_leaves():
    """Preparations and all that is measured stay within the budget; one that is too small is refused at the door."""
    setup = toy_setup()
    macs = 30 * DENSE * dense_macs(setup)
    setup = replace(setup, macs=macs)
    jobs = drive(behind("dais", setup, n_targets=3, share=0.9, epochs=100.0), setup, 60)
    made = preparations(jobs)
    before = sum(setup.estimate(job).macs for job in jobs[: jobs.index(made[0])])
    spent = sum(setup.estimate(job).macs for job in made)
    assert 0.89 * (macs - before) < spent < 0.91 * (macs - before)
    with pytest.raises(BudgetError, match="a sweep by 'dais' needs at least"):
        behind("dais", replace(setup, macs=before + DENSE * dense_macs(setup)), n_targets=3, min_epochs=1.0)
