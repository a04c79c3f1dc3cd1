"""Sizing a preparation to what may be spent."""

from __future__ import annotations

import dataclasses

import pytest

from autoprune.core.jobs import Prepare
from autoprune.core.protocols import SearchSetup
from autoprune.errors import BudgetError
from autoprune.strategies._preparation import sized
from autoprune.testing.toys import toy_setup


def per_epoch(setup: SearchSetup) -> int:
    """Return what an epoch of the toy recipe costs."""
    return 100 * int(setup.costs(setup.space.full_genome[None, :])["macs"][0])


def job(setup: SearchSetup, epochs: float) -> Prepare:
    """Return a preparation of so many epochs."""
    return Prepare(0, "toy", {"epochs": epochs}, setup.weight_set)


@pytest.mark.parametrize("share", [0.1, 0.37, 1.0, 2.5])
def test_it_fills_what_is_left(share: float) -> None:
    """The preparation costs at most what may be spent, and one epoch in a thousand more would not fit."""
    setup = toy_setup()
    macs = share * per_epoch(setup)
    found = sized(setup, lambda epochs: job(setup, epochs), 100, macs=macs)
    assert setup.estimate is not None
    assert setup.estimate(found).macs <= macs
    assert found.settings["epochs"] == pytest.approx(share, rel=1e-3)


@pytest.mark.parametrize("macs", [None, 1e15])
def test_nothing_needs_more_epochs_than_it_asks_for(macs: float | None) -> None:
    """Without a limit, or far from it, the preparation has its own length."""
    setup = toy_setup()
    assert sized(setup, lambda epochs: job(setup, epochs), 3, macs=macs).settings == {"epochs": 3}
    blind = dataclasses.replace(setup, estimate=None)
    assert sized(blind, lambda epochs: job(blind, epochs), 3, macs=1).settings == {"epochs": 3}


def test_too_little_is_said_with_what_is_needed() -> None:
    """Where not even the shortest preparation fits, the error names its cost and what there is."""
    setup = toy_setup()
    macs = per_epoch(setup)
    with pytest.raises(BudgetError, match=f"at least {macs:,} MACs .* leaves {macs - 1:,}"):
        sized(setup, lambda epochs: job(setup, epochs), 5, macs=macs - 1, min_epochs=1)
