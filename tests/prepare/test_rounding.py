"""From keep ratios to genomes: within the limits, and no room left."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.core.limits import within_limits
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.errors import InfeasibleError
from autoprune.prepare.budgeted import rounded
from autoprune.testing.toys import chain

WIDTHS = (10, 16, 24, 40)
SPACE = SearchSpace.build(chain(WIDTHS), levels=8)
COSTS = CostModel(SPACE.structure, SPACE)
DENSE = COSTS(SPACE.full_genome[None, :])["macs"][0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4), st.floats(0.1, 1.0), st.integers(0, 2**16))
def test_no_room_is_left(ratios, share, seed):
    """The limit holds, the highest levels hold, and no level could go up."""
    limit = {"macs": int(share * DENSE)}
    highest = np.random.default_rng(seed).integers(0, SPACE.full_genome + 1)
    genome = rounded(SPACE, np.array(ratios), COSTS, limit, highest)
    assert (genome <= highest).all()
    assert within_limits(COSTS(genome[None, :]), limit)[0]
    higher = (genome + np.eye(4, dtype=np.int64))[genome < highest]
    assert not len(higher) or not within_limits(COSTS(higher), limit).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**16))
def test_a_genome_comes_back(seed):
    """Ratios of a genome that uses its limit up are rounded to that genome."""
    genome = np.random.default_rng(seed).integers(0, SPACE.full_genome + 1)
    limit = {"macs": int(COSTS(genome[None, :])["macs"][0])}
    found = rounded(SPACE, SPACE.keep_ratios(genome[None, :])[0], COSTS, limit, SPACE.full_genome)
    assert found.tolist() == genome.tolist()


def test_an_impossible_limit_is_an_error():
    """Below the smallest genome there is nothing to round to."""
    with pytest.raises(InfeasibleError, match="macs"):
        rounded(SPACE, np.ones(4), COSTS, {"macs": 1}, SPACE.full_genome)
