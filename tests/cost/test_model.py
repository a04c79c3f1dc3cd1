"""Laws of the cost model on structures that can be checked on paper."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from autoprune.core.groups import Count
from autoprune.core.space import SearchSpace
from autoprune.core.terms import Term
from autoprune.cost.model import CostModel, PeakProfile
from autoprune.errors import InvalidArgumentError
from autoprune.testing.toys import TermCosts, chain


def three_moments():
    """Storages k0*40, k1*40, k2*40 and a constant, alive in overlapping pairs; the last moment never wins."""
    sizes = (*(Term("", 40, (Count(0, ((i, 1),)),)) for i in range(3)), Term("", 60, ()))
    live = np.array([[True, True, False, True], [False, True, True, False], [False, False, True, False]])
    return PeakProfile(sizes, live)


def test_by_hand():
    """A 3-8-16-5 chain over 10 positions, worked out on paper."""
    structure = chain((8, 16))
    model = CostModel(structure, SearchSpace.build(structure, levels=4))
    costs = model(np.array([[3, 3], [0, 1]]))  # widths 8, 16 and 2, 8
    assert costs["macs"].tolist() == [10 * (3 * 8 + 8 * 16 + 16 * 5), 10 * (3 * 2 + 2 * 8 + 8 * 5)]
    assert costs["params"].tolist() == [4 * 8 + 9 * 16 + 17 * 5, 4 * 2 + 3 * 8 + 9 * 5]
    assert costs["macs"].dtype == np.int64


@pytest.mark.parametrize("n", [0, 1, 7, 5000])
@pytest.mark.parametrize("options", [{}, {"locks": ["fc1"]}, {"ties": [("fc0", "fc2")]}])
def test_equal_to_the_plain_sum_of_terms(n, options):
    """For any batch size (below and above one block), with locks and ties: equal to summing term by term."""
    structure = chain((8, 16, 8, 12))
    space = SearchSpace.build(structure, levels=None, **options)
    model = CostModel(structure, space)
    genomes = space.sample(n, np.random.default_rng(0))
    costs, expected = model(genomes), TermCosts(space)(genomes)
    by_widths = model.at_widths(space.widths(genomes))
    for name in model.names:
        assert np.array_equal(costs[name], expected[name])
        assert np.array_equal(by_widths[name], expected[name])


def test_peak_bytes_are_the_largest_moment():
    """Equal to the profile's own plain evaluation; moments that can never win are dropped without effect."""
    structure = chain((8, 16, 8))
    space = SearchSpace.build(structure, levels=None)
    peak = three_moments()
    model = CostModel(structure, space, peak)
    assert model.names == ("macs", "params", "peak_bytes")
    genomes = np.random.default_rng(0).integers(0, space.n_levels, size=(500, 3))
    found = model(genomes)["peak_bytes"]
    assert np.array_equal(found, peak.at(space.widths(genomes)))
    assert np.array_equal(found, model.at_widths(space.widths(genomes))["peak_bytes"])
    k = space.widths(genomes)
    assert np.array_equal(found, np.maximum(40 * (k[:, 0] + k[:, 1]) + 60, 40 * (k[:, 1] + k[:, 2])))


def test_fewer_channels_never_cost_more():
    """Raising any level raises (or keeps) every cost."""
    structure = chain((8, 16, 8))
    space = SearchSpace.build(structure, levels=4)
    model = CostModel(structure, space, three_moments())
    genomes = np.random.default_rng(0).integers(0, space.n_levels - 1, size=(100, 3))
    for i in range(3):
        higher = genomes + np.eye(3, dtype=np.int64)[i]
        for name, cost in model(genomes).items():
            assert (model(higher)[name] >= cost).all()


def test_inputs_are_not_changed():
    """Neither genomes nor widths are written to."""
    structure = chain()
    space = SearchSpace.build(structure)
    genomes = space.sample(10, np.random.default_rng(0))
    before = genomes.copy()
    CostModel(structure, space)(genomes)
    assert np.array_equal(genomes, before)


@pytest.mark.parametrize("widths", [[[8, 16, 0]], [[8, 17, 8]], [[8, 16]], [[8.0, 16.0, 8.0]]])
def test_impossible_widths_are_refused(widths):
    """A wrong shape or type, or a width outside 1 .. dense, is an error."""
    structure = chain((8, 16, 8))
    with pytest.raises(InvalidArgumentError, match=r"fc|expected widths"):
        CostModel(structure, SearchSpace.build(structure)).at_widths(np.array(widths))


def test_a_foreign_space_is_refused():
    """The space must have been made from the structure; an equal copy of the structure will do."""
    space = SearchSpace.build(chain())
    CostModel(chain(), space)
    with pytest.raises(InvalidArgumentError, match="another"):
        CostModel(chain((4, 4)), space)


def test_the_cost_model_does_not_load_torch():
    """The numpy side of costs is part of the country that never imports torch."""
    code = "import autoprune.cost.model, autoprune.core.space, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sampling_under_a_peak_limit_reaches_every_genome():
    """Peak bytes have plateaus (a small layer beside a large one is free); what lies on them is drawn as well."""
    structure = chain((8, 16, 8))
    space = SearchSpace.build(structure, levels=4)
    model = CostModel(structure, space, three_moments())
    genomes = np.stack(np.meshgrid(*map(np.arange, space.n_levels), indexing="ij"), axis=-1).reshape(-1, 3)
    limit = 40 * 20
    feasible = {tuple(genome) for genome in genomes[model(genomes)["peak_bytes"] <= limit].tolist()}
    assert 10 < len(feasible) < 60
    sampled = space.sample(20_000, np.random.default_rng(0), model, {"peak_bytes": limit})
    assert {tuple(genome) for genome in sampled.tolist()} == feasible
