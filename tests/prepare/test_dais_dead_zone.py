"""The budget regularizer of DAIS: nothing in the dead zone, else the way to its nearer edge."""

from __future__ import annotations

import pytest
import torch

from autoprune.prepare.dais.penalties import into_dead_zone

UNIT = {"target": 10.0, "dead_zone": 0.1, "unit": 0.3}


def cost(indicators):
    """Expected cost of four channels, one of them twice as dear."""
    return float((torch.sigmoid(indicators) * torch.tensor([5.0, 5.0, 5.0, 10.0])).sum())


DIRECTION = torch.tensor([1.0, 1.0, 1.0, 2.0])


def moved(level, **changes):
    """Return the way from four indicators at ``level``, and the cost in the end."""
    start = torch.full((4,), level)
    found = into_dead_zone(start, DIRECTION, cost, **{**UNIT, **changes})
    return found - start, cost(found)


def test_nothing_happens_in_the_dead_zone():
    """Between (1 - eps) F and F there is no gradient."""
    way, now = moved(-0.55)
    assert 9.0 <= now <= 10.0
    assert not way.any()


@pytest.mark.parametrize(("level", "edge"), [(3.0, 10.0), (0.1, 10.0), (-4.0, 9.0), (-0.8, 9.0)])
def test_the_nearer_edge_is_reached_along_the_gradient(level, edge):
    """From above the budget itself, from below the lower edge; never beyond, and in proportion to the direction."""
    way, now = moved(level)
    assert now == pytest.approx(edge, rel=1e-4)
    assert 9.0 <= now <= 10.0
    torch.testing.assert_close(way / way[0], DIRECTION)


def test_an_upper_bound_has_no_lower_edge():
    """With a dead zone of 1, no cost is too small."""
    assert not moved(-9.0, dead_zone=1.0)[0].any()
    assert moved(3.0, dead_zone=1.0)[1] == pytest.approx(10.0, rel=1e-4)


def test_out_of_reach():
    """Where no step changes the cost, nothing moves; where the zone cannot be reached, all that can close does."""
    start = torch.full((4,), 3.0)
    assert into_dead_zone(start, torch.zeros(4), cost, **UNIT) is start
    only_last = torch.tensor([0.0, 0.0, 0.0, 1.0])
    found = into_dead_zone(start, only_last, cost, **UNIT)
    assert torch.sigmoid(found[3]) < 1e-6
    assert torch.equal(found[:3], start[:3])
