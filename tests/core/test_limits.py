"""Laws of hard limits: how they are read, and what an impossible one says."""

from __future__ import annotations

import re

import numpy as np
import pytest

from autoprune.core.limits import parse_limit, resolve_limits
from autoprune.core.space import SearchSpace
from autoprune.errors import InfeasibleError, InvalidArgumentError, UnknownNameError
from autoprune.testing.toys import TermCosts, chain


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("60%", 600),
        ("100%", 1001),
        ("33.3 %", 333),
        (500, 500),
        (500.9, 500),
        (2.1e9, 2_100_000_000),
        ("2.1e9", 2_100_000_000),
        ("2.1G", 2_100_000_000),
        ("500M", 500_000_000),
        ("40k", 40_000),
        ("40K", 40_000),
        ("64MiB", 64 * 2**20),
        ("64 MB", 64_000_000),
        ("12", 12),
        (np.int64(7), 7),
        (1, 1),
    ],
)
def test_limits_are_read_exactly(written, read):
    """Percentages are of the dense model (1001 here) and rounded down; numbers and units are exact."""
    assert parse_limit("macs", written, 1001) == read


@pytest.mark.parametrize(
    "written", ["", "0%", "101%", "-5", "1.2.3", "5 apples", ".", -1, 0, float("nan"), float("inf"), True, None]
)
def test_nonsense_is_refused(written):
    """What cannot be a limit is an error that shows how one is written."""
    with pytest.raises(InvalidArgumentError, match="'60%'"):
        parse_limit("macs", written, 1001)


@pytest.mark.parametrize("written", [0.6, "0.6", 0.999])
def test_a_number_below_one_is_refused_with_advice(written):
    """It may mean a share or a mistake, and guessing would be silent: the error shows the percentage to write."""
    with pytest.raises(InvalidArgumentError, match=re.escape(f"{float(written) * 100:g}%")):
        parse_limit("macs", written, 1001)


def test_several_limits_at_once():
    """Each is resolved against its own dense cost."""
    space = SearchSpace.build(chain((8, 16, 8)))
    costs = TermCosts(space)
    dense = costs(space.full_genome[None])
    found = resolve_limits({"macs": "50%", "params": 300}, space, costs)
    assert found == {"macs": int(dense["macs"][0]) // 2, "params": 300}


def test_an_uncounted_cost_is_refused():
    """A limit on something that the costs do not count names what is counted."""
    space = SearchSpace.build(chain())
    with pytest.raises(UnknownNameError, match=r"did you mean 'macs'.*macs, params"):
        resolve_limits({"mac": "50%"}, space, TermCosts(space))


def test_an_infeasible_limit_names_the_smallest_value_and_what_blocks():
    """The smallest reachable value, the pinned, the locked and the smallest-possible layers, largest first."""
    space = SearchSpace.build(chain((8, 16, 8), classes=50), locks=["fc1"], min_keep_ratio=0.5)
    costs = TermCosts(space)
    # At widths 4, 16, 4 over 10 positions: fc0 3*4, fc1 4*16, fc2 16*4, fc3 4*50.
    smallest = 10 * (12 + 64 + 64 + 200)
    assert int(costs(space.min_genome[None])["macs"][0]) == smallest
    with pytest.raises(InfeasibleError) as caught:
        resolve_limits({"macs": smallest - 1}, space, costs)
    text = str(caught.value)
    assert f"smallest has {smallest:,}" in text
    parts = [
        "fc3 holds 2,000 (it makes the output of the model)",
        "fc1 holds 640 (locked by 'fc1')",
        "fc2 holds 640 (at its minimum of 4 of 8 channels)",
    ]
    assert [text.index(part) for part in parts] == sorted(text.index(part) for part in parts)
    assert resolve_limits({"macs": smallest}, space, costs) == {"macs": smallest}
