"""Settings of a DAIS preparation."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.core import check
from autoprune.errors import InvalidArgumentError
from autoprune.prepare.budgeted import BudgetedSettings


@dataclass(frozen=True)
class DaisSettings(BudgetedSettings):
    """Settings of one DAIS search, for one budget. The paper's own constants are not known: the defaults are ours.

    Attributes:
        indicator_every: weight steps per indicator step.
        shared: whether all readers of a channel share its indicator. Otherwise each has its own, they are drawn
            together by the symmetry penalty, and a channel stays when any reader keeps it.
        straight_through: run with hard gates.
        hottest: temperature at the start.
        coldest: temperature at the end.
        level: start value of the indicators: ``level`` for open channels, ``-level`` for closed ones.
        spread: the share of ``level`` by which the best channel of the parent's order starts above, the worst below.
        travel: the way along the loss that an indicator could go over the whole search, in units of ``level``: a short
            search takes larger steps, up to 0.15 of ``level``.
        dead_zone: the budget regularizer is zero for costs in ``[(1 - dead_zone) target, target]``.
        ramp: share of the search in which the budget sinks from the start's cost to the target.
        lasso_weight: factor of the sum of all gates (equation 8) over their number.
        symmetry_weight: factor of the symmetry penalty (equation 11).

    The other attributes are those of `BudgetedSettings`.

    Raises:
        InvalidArgumentError: a value cannot be used.
    """

    indicator_every: int = 1
    shared: bool = True
    straight_through: bool = False
    hottest: float = 0.5
    coldest: float = 0.01
    level: float = 2.0
    spread: float = 0.9
    travel: float = 3.0
    dead_zone: float = 0.02
    ramp: float = 0.8
    lasso_weight: float = 0.0
    symmetry_weight: float = 0.1

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check.positive(self, "indicator_every", "hottest", "coldest", "level", "travel", finite=True)
        check.not_negative(self, "lasso_weight", "symmetry_weight")
        check.share(self, "spread", "dead_zone", "ramp", but=(1,))
        if self.coldest > self.hottest:
            msg = f"expected the temperature to fall, got hottest={self.hottest} and coldest={self.coldest}"
            raise InvalidArgumentError(msg)
