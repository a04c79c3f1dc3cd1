"""Strategies that walk a curve: uniform pruning and global thresholds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.jobs import WeightSet
from autoprune.core.protocols import Ranking
from autoprune.errors import InfeasibleError, InvalidArgumentError, UnknownNameError
from autoprune.strategies._curve import (
    CurveStrategy,
    UniformSettings,
    UniformStrategy,
    uniform_curve,
    widest_gap_first,
)
from autoprune.strategies.global_ranking import (
    SCALES,
    GlobalRankingSettings,
    GlobalRankingStrategy,
    scaled,
    share_widths,
    threshold_widths,
)
from autoprune.strategies.registry import make_strategy
from autoprune.testing.strategy_laws import drive, genomes_of
from autoprune.testing.toys import toy_setup, toy_space


def test_widest_gap_first_by_hand():
    """Largest, smallest, then the middle of the widest gap, each time nearest to its middle."""
    assert widest_gap_first(np.array([0, 10, 40, 45, 80, 100])) == [5, 0, 3, 4, 1, 2]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_widest_gap_first_is_a_permutation_that_halves_gaps(costs):
    """Every point comes once, the ends come first, equal costs included."""
    costs = np.array(costs, dtype=np.int64)
    order = widest_gap_first(costs)
    assert sorted(order) == list(range(len(costs)))
    assert costs[order[0]] == costs.max()
    assert costs[order[min(1, len(order) - 1)]] == costs.min()


def test_uniform_curve_is_every_uniform_genome():
    """A dense scan of keep ratios finds no genome that the curve lacks, and the curve none that the scan lacks."""
    space = toy_space((8, 12, 20, 7), levels=5)
    ratios = np.linspace(0, 1, 4001)
    scanned = np.unique(space.nearest(np.repeat(ratios[:, None], space.n_variables, axis=1)), axis=0)
    np.testing.assert_array_equal(np.unique(uniform_curve(space), axis=0), scanned)


@pytest.mark.parametrize("levels", [5, 8])
def test_uniform_leaves_no_room_below_a_limit(levels):
    """Within any limit there is a network of nearly equal ratios beside which no level fits, after all of one ratio.

    The next one of one ratio may be a third smaller, so that a search would gain over it by size alone.
    """
    setup = toy_setup(toy_space((64, 48, 64, 32), levels=levels))
    proposed = genomes_of(drive(UniformStrategy(setup), setup, 1000))
    curve = uniform_curve(setup.space)
    assert set(proposed[: len(curve)]) == set(map(tuple, curve.tolist()))
    assert len(proposed) == len(set(proposed)) == 1 + (levels - 1) * setup.space.n_variables
    genomes = np.array(proposed)
    assert np.ptp(genomes, axis=1).max() == 1
    by_cost = genomes[np.argsort(setup.costs(genomes)["macs"])]
    np.testing.assert_array_equal(np.diff(by_cost, axis=0).sum(axis=1), 1)  # a level of one variable at a time
    coarse = UniformStrategy(setup, UniformSettings(between=False))
    assert genomes_of(drive(coarse, setup, 1000)) == proposed[: len(curve)]


def test_uniform_starts_with_the_ends_and_stays_feasible():
    """The first job is the largest uniform network within the limit, the second the smallest."""
    setup = toy_setup(toy_space(levels=64), limits={"macs": "50%"})
    genomes = np.array(genomes_of(drive(UniformStrategy(setup), setup, 100)))
    costs = setup.costs(genomes)["macs"]
    assert costs[0] == costs.max() <= setup.limits["macs"]
    np.testing.assert_array_equal(genomes[1], setup.space.min_genome)


@pytest.mark.parametrize("n", [6, 12])
def test_every_prefix_covers_the_cost_range(n):
    """However early the budget ends, no gap in cost is much wider than an even spread has."""
    setup = toy_setup(toy_space((64, 64, 64, 64), levels=64))
    costs = np.sort(setup.costs(np.array(genomes_of(drive(UniformStrategy(setup), setup, n))))["macs"])
    assert np.diff(costs).max() <= 2.2 * (costs[-1] - costs[0]) / (n - 1)


def test_threshold_widths_by_hand():
    """A channel stays when its score reaches the threshold; equal scores go together."""
    widths = threshold_widths([np.array([3.0, 1.0]), np.array([2.0, 3.0, 2.0])])
    assert widths.tolist() == [[2, 3], [1, 3], [1, 1]]


def test_global_ranking_is_the_front_of_its_ranking():
    """Every genome proposed is the nearest to what some threshold keeps, and every such feasible genome comes."""
    setup = toy_setup(limits={"macs": "60%"})
    scores = setup.rankings["toy"].scores
    expected = set()
    for threshold in {score for group in scores for score in group.tolist()}:
        widths = np.array([[np.count_nonzero(group >= threshold) for group in scores]])
        genome = setup.space.nearest_widths(widths)
        if setup.costs(genome)["macs"][0] <= setup.limits["macs"]:
            expected.add(tuple(genome[0].tolist()))
    assert set(genomes_of(drive(GlobalRankingStrategy(setup), setup, 10_000))) == expected


def test_share_widths_by_hand():
    """The fewest channels that hold more than the share; a group without scores gives each channel the same."""
    widths = share_widths([np.array([1.0, 6.0, 3.0]), np.zeros(2)])
    assert widths.tolist() == [[1, 1], [1, 2], [2, 2], [3, 2], [3, 2]]  # above 0, 0.5, 0.6, 0.9 and 1
    with pytest.raises(InvalidArgumentError, match="'share' needs scores that are not negative"):
        share_widths([np.array([1.0, -1.0])])


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.sampled_from(SCALES), st.floats(0.01, 100))
def test_a_scale_keeps_the_order_and_undoes_a_factor(values, scale, factor):
    """Whatever the sign of the scores; nothing is divided by zero."""
    scores = np.round(values, 3)
    found = scaled(scores, scale)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(np.argsort(found, kind="stable"), np.argsort(scores, kind="stable"))
    if scale != "none" and scores.std() > 1e-3:
        np.testing.assert_allclose(scaled(factor * scores, scale), found, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", ["threshold", "share"])
def test_rule_and_scale_decide_the_curve(rule):
    """A group of scores a thousand times larger outlives the others, unless scores are scaled or shares are kept."""
    setup = toy_setup(toy_space((8, 8, 8, 8), levels=8))
    ranking = setup.rankings["toy"]
    larger = Ranking((1000 * ranking.scores[0], *ranking.scores[1:]), ranking.weight_set)
    lifted = dataclasses.replace(setup, rankings={"toy": larger})

    def curve(setup, **settings):
        strategy = make_strategy("global_ranking", setup, {"rule": rule, **settings})
        return set(genomes_of(drive(strategy, setup, 10_000)))

    assert curve(setup, scale="mean") == curve(lifted, scale="mean")
    assert (curve(setup) == curve(lifted)) == (rule == "share")


def test_global_ranking_inherits_the_order_it_ranked_by():
    """Candidates carry the ranking's own WeightSet, not the one of the setup."""
    setup = toy_setup()
    jobs = GlobalRankingStrategy(setup).ask(5)
    assert {job.candidate.weight_set for job in jobs} == {setup.rankings["toy"].weight_set}
    assert setup.weight_set != setup.rankings["toy"].weight_set


def test_suffix_chooses_the_criterion():
    """`global_ranking:<criterion>` takes that ranking; without a suffix the first one counts."""
    setup = toy_setup()
    second = Ranking(setup.rankings["toy"].scores[::1], WeightSet("weights", "other"))
    setup = dataclasses.replace(setup, rankings={**setup.rankings, "other": second})
    assert make_strategy("global_ranking:other", setup).ask(1)[0].candidate.weight_set == second.weight_set
    assert make_strategy("global_ranking", setup).ask(1)[0].candidate.weight_set == setup.rankings["toy"].weight_set


def test_missing_ranking_is_named():
    """A criterion that was not ranked, or no ranking at all, is an error that says so."""
    setup = toy_setup()
    with pytest.raises(UnknownNameError, match=r"unknown ranking 'toi'.*did you mean 'toy'"):
        GlobalRankingStrategy(setup, GlobalRankingSettings("toi"))
    with pytest.raises(InvalidArgumentError, match="the setup holds none"):
        GlobalRankingStrategy(dataclasses.replace(setup, rankings={}))


def test_curve_beyond_the_limits_is_infeasible():
    """When no genome of the curve fits, the error names the limits."""
    setup = toy_setup(limits={"macs": "50%"})
    with pytest.raises(InfeasibleError, match=f"macs <= {setup.limits['macs']}"):
        CurveStrategy(setup, None, setup.space.full_genome[None, :], setup.weight_set)
