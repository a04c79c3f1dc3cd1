"""Genomes are drawn at most once, and all of them."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.strategies._base import feasible
from autoprune.strategies._curve import uniform_start
from autoprune.strategies._unseen import UnseenGenomes
from autoprune.testing.toys import toy_setup, toy_space


def unseen(setup, seed=0):
    """Return a fresh source."""
    return UnseenGenomes(setup, np.random.default_rng(seed))


def test_draws_every_feasible_genome_once():
    """A small space is drawn to the last feasible genome, none twice, and then there is nothing left."""
    setup = toy_setup(toy_space((8, 16, 8), levels=5), limits={"macs": "55%"})
    every = np.stack(np.unravel_index(np.arange(setup.space.size), setup.space.n_levels), axis=1)
    source = unseen(setup)
    drawn = source.draw(10 * setup.space.size)
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) == set(map(tuple, every[feasible(setup, every)].tolist()))
    assert source.exhausted
    assert source.draw(1) == []


def test_what_was_seen_elsewhere_is_not_drawn():
    """Genomes recorded with `add`, also after they were sampled ahead, do not come."""
    setup = toy_setup()
    expected = unseen(setup).draw(20)
    source = unseen(setup)
    first = source.draw(1)
    source.add(expected[1])
    source.add(expected[7])
    assert first + source.draw(17) == [genome for i, genome in enumerate(expected) if i not in (1, 7)]
    assert expected[7] in source


def test_draws_do_not_depend_on_how_many_are_drawn_at_once():
    """One call for 30 and thirty calls for one give the same genomes."""
    setup = toy_setup()
    one_by_one = unseen(setup)
    assert [one_by_one.draw(1)[0] for _ in range(30)] == unseen(setup).draw(30)


@pytest.mark.parametrize("limits", [{}, {"macs": "40%"}])
def test_draws_are_spread_over_cost(limits):
    """Each fifth of the feasible cost range holds at least a tenth of 200 draws."""
    setup = toy_setup(limits=limits)
    costs = setup.costs(np.array(unseen(setup).draw(200)))["macs"]
    top = setup.limits.get("macs", setup.costs(setup.space.full_genome[None, :])["macs"][0])
    low = setup.costs(setup.space.min_genome[None, :])["macs"][0]
    counts, _ = np.histogram(costs, bins=np.linspace(low, top, 6))
    assert counts.min() >= 20


def test_what_comes_first_comes_first_and_once() -> None:
    """Genomes given to start with are handed out before any random one, and never again."""
    setup = toy_setup()
    first = uniform_start(setup, 3)
    drawn = UnseenGenomes(setup, np.random.default_rng(0), first).draw(20)
    assert drawn[:3] == first
    assert len(set(drawn)) == 20
    assert len(uniform_start(setup, 1000)) < 1000
