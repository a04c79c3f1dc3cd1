"""Preparations that fit what may be spent."""

from __future__ import annotations

from collections.abc import Callable

from autoprune.core.bisection import bisect
from autoprune.core.jobs import Prepare
from autoprune.core.protocols import SearchSetup
from autoprune.errors import BudgetError

_HALVINGS = 40


def sized(
    setup: SearchSetup,
    make_job: Callable[[float], Prepare],
    epochs: float,
    *,
    macs: float | None,
    min_epochs: float = 0.0,
) -> Prepare:
    """Return the longest preparation that costs at most ``macs``.

    Args:
        setup: everything that the strategy may know, such as what a job will be charged.
        make_job: returns the job that prepares for so many epochs; more epochs cost no less.
        epochs: that nobody exceeds, and that are taken where nothing limits them.
        macs: multiply-adds to spend at most; None where nothing limits them.
        min_epochs: below which the preparation is worth nothing.

    Raises:
        BudgetError: not even ``min_epochs`` fit; the message says what they need.
    """
    if setup.estimate is None or macs is None or setup.estimate(make_job(epochs)).macs <= macs:
        return make_job(epochs)
    job = make_job(min_epochs)
    needed = setup.estimate(job).macs
    if needed > macs:
        msg = (
            f"preparing weights by {job.recipe!r} needs at least {needed:,} MACs ({min_epochs:g} epochs), the budget "
            f"leaves {int(macs):,} for it; raise the budget"
        )
        raise BudgetError(msg)
    estimate = setup.estimate
    affordable, _ = bisect(lambda found: estimate(make_job(found)).macs <= macs, min_epochs, epochs, _HALVINGS)
    return make_job(affordable)
