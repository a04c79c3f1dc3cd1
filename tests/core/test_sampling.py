"""Laws of sampling and repair under hard limits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.core.limits import within_limits
from autoprune.core.space import SearchSpace
from autoprune.core.variables import WidthVariable
from autoprune.errors import InfeasibleError, InvalidArgumentError
from autoprune.testing.toys import TermCosts, chain


def all_genomes(space):
    """Return every genome of a small space."""
    return np.array(list(itertools.product(*(range(n) for n in space.n_levels))))


@st.composite
def limited_spaces(draw):
    """A small space, its costs, and limits that at least the smallest genome meets."""
    widths = draw(st.lists(st.integers(2, 12), min_size=1, max_size=4))
    space = SearchSpace.build(chain(widths), levels=draw(st.integers(2, 5)))
    costs = TermCosts(space)
    smallest, dense = costs(space.min_genome[None]), costs(space.full_genome[None])
    names = draw(st.lists(st.sampled_from(costs.names), min_size=1, max_size=2, unique=True))
    limits = {}
    for name in names:
        low, high = int(smallest[name][0]), int(dense[name][0])
        limits[name] = draw(st.integers(low, high + high // 4))
    return space, costs, limits


@given(limited_spaces(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_samples_are_within_the_limits(problem, seed):
    """Whatever the limits, every sample is a genome of the space and meets all of them."""
    space, costs, limits = problem
    genomes = space.sample(50, np.random.default_rng(seed), costs, limits)
    assert genomes.shape == (50, space.n_variables)
    assert genomes.dtype == np.int64
    assert within_limits(costs(genomes), limits).all()


@given(limited_spaces(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_repair_projects(problem, seed):
    """Repaired genomes meet the limits and are nowhere larger; feasible ones are unchanged; repairing twice is once."""
    space, costs, limits = problem
    genomes = np.random.default_rng(seed).integers(0, space.n_levels, size=(30, space.n_variables))
    before = genomes.copy()
    repaired = space.repair(genomes, costs, limits)
    assert np.array_equal(genomes, before)
    assert within_limits(costs(repaired), limits).all()
    assert (repaired <= genomes).all()
    fine = within_limits(costs(genomes), limits)
    assert np.array_equal(repaired[fine], genomes[fine])
    assert np.array_equal(space.repair(repaired, costs, limits), repaired)


@given(limited_spaces(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_repair_takes_no_more_than_it_must(problem, seed):
    """No level of a repaired genome can be raised towards the original one without breaking a limit."""
    space, costs, limits = problem
    genomes = np.random.default_rng(seed).integers(0, space.n_levels, size=(20, space.n_variables))
    repaired = space.repair(genomes, costs, limits)
    for wanted, found in zip(genomes, repaired, strict=True):
        raisable = np.flatnonzero(found < wanted)
        raised = found + np.eye(space.n_variables, dtype=np.int64)[raisable]
        if len(raised):
            assert not within_limits(costs(raised), limits).any()


def test_every_genome_within_the_limits_is_reachable():
    """All of the 4^3 genomes that meet the limits turn up in a large sample, and no other."""
    space = SearchSpace.build(chain((8, 16, 8)), levels=4)
    costs = TermCosts(space)
    limits = {"macs": 1500, "params": 250}
    genomes = all_genomes(space)
    feasible = {tuple(genome) for genome in genomes[within_limits(costs(genomes), limits)].tolist()}
    assert 10 < len(feasible) < 60  # the limits do bind
    sampled = space.sample(20_000, np.random.default_rng(0), costs, limits)
    assert {tuple(genome) for genome in sampled.tolist()} == feasible


def test_a_genome_exactly_at_the_limit_is_reachable():
    """A limit equal to the cost of one genome includes it."""
    space = SearchSpace.build(chain((8, 16)), levels=4)
    costs = TermCosts(space)
    wanted = np.array([[2, 1]])
    limits = {"macs": int(costs(wanted)["macs"][0])}
    sampled = space.sample(5_000, np.random.default_rng(0), costs, limits)
    assert (sampled == wanted).all(axis=1).any()


@pytest.mark.parametrize("limit", [None, 100_000])
def test_samples_are_spread_over_cost(limit):
    """Each fifth of the cost range below the limit gets a good part of 2,000 samples; uniform levels miss the ends."""
    space = SearchSpace.build(chain((32, 64, 64, 64, 64, 32)))
    costs = TermCosts(space)
    low, dense = (int(costs(genome[None])["macs"][0]) for genome in (space.min_genome, space.full_genome))
    limits = {} if limit is None else {"macs": limit}
    macs = costs(space.sample(2_000, np.random.default_rng(0), costs, limits))["macs"]
    counts, _ = np.histogram(macs, bins=5, range=(low, limit or dense))
    assert counts.sum() == 2_000
    assert counts.min() > 200  # 400 when perfectly even
    blind = costs(np.random.default_rng(0).integers(0, space.n_levels, size=(2_000, space.n_variables)))["macs"]
    assert np.histogram(blind, bins=5, range=(low, dense))[0].min() < 20


def test_samples_without_costs_are_spread_over_the_mean_keep_ratio():
    """With nothing to count, small and large networks are still equally frequent."""
    space = SearchSpace.build(chain((32,) * 10))
    ratios = space.keep_ratios(space.sample(2_000, np.random.default_rng(0))).mean(axis=1)
    counts, _ = np.histogram(ratios, bins=5, range=(1 / 8, 1))
    assert counts.min() > 200


def test_sampling_is_reproducible():
    """Equal generators give equal genomes, other seeds other ones."""
    space = SearchSpace.build(chain())
    draws = [space.sample(20, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_a_space_of_one_genome():
    """One variable with one width: sampling and repair end, and give the only genome."""
    space = SearchSpace(chain((8,)), (WidthVariable("fc0", (0,), (8,)),))
    costs = TermCosts(space)
    limits = {"macs": int(costs(space.full_genome[None])["macs"][0])}
    assert space.size == 1
    for genomes in (
        space.sample(5, np.random.default_rng(0)),
        space.sample(5, np.random.default_rng(0), costs, limits),
        space.repair(np.zeros((5, 1), dtype=np.int64), costs, limits),
    ):
        assert genomes.tolist() == [[0]] * 5


def test_one_variable_covers_all_its_levels():
    """With a single variable every level is drawn."""
    space = SearchSpace.build(chain((16,)))
    assert set(space.sample(500, np.random.default_rng(0))[:, 0].tolist()) == set(range(8))


@pytest.mark.parametrize("n", [0, 1])
def test_small_batches(n):
    """Nothing and a single genome may be asked for and repaired."""
    space = SearchSpace.build(chain())
    costs = TermCosts(space)
    genomes = space.sample(n, np.random.default_rng(0), costs, {"macs": 500})
    assert genomes.shape == (n, 3)
    assert space.repair(genomes, costs, {"macs": 500}).shape == (n, 3)


def test_impossible_limits_are_errors_not_loops():
    """Sampling and repair refuse limits that nothing meets."""
    space = SearchSpace.build(chain())
    costs = TermCosts(space)
    with pytest.raises(InfeasibleError):
        space.sample(1, np.random.default_rng(0), costs, {"macs": 10})
    with pytest.raises(InfeasibleError):
        space.repair(space.full_genome[None], costs, {"macs": 10})


def test_limits_need_costs():
    """Limits that nothing can count are refused."""
    with pytest.raises(InvalidArgumentError, match="need costs"):
        SearchSpace.build(chain()).sample(1, np.random.default_rng(0), None, {"macs": 10})
