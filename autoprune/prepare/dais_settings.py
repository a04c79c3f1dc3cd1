"""What a DAIS preparation is told."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoprune.errors import InvalidArgumentError


@dataclass(frozen=True)
class DaisSettings:
    """Settings of one DAIS search, for one budget. The paper's own constants are not known: the defaults are ours.

    Attributes:
        cost: the cost that has a budget, any that the cost model counts.
        target: the budget, as a share of the dense model's cost.
        start: genome that the search starts from; channels outside of it are gone for good. None: all channels.
        learn: False leaves the indicators where they start, with the widths that ``start`` has when all its levels
            shrink by one factor into the budget: the same training without the search.
        epochs: passes over the training items during the search; may be a fraction.
        tune_share: share of all multiply-adds that is spent on training the sliced model after the search.
        batch_size: items per step, of training items and of search-validation items alike.
        indicator_every: weight steps per indicator step.
        shared: whether all readers of a channel share its indicator. Otherwise each has its own, they are drawn
            together by the symmetry penalty, and a channel stays when any reader keeps it.
        straight_through: run with hard gates, with the gradient of the soft ones.
        hottest: temperature at the start.
        coldest: temperature at the end.
        level: where the indicators start: ``level`` for open channels, ``-level`` for closed ones.
        spread: the share of ``level`` by which the best channel of the parent's order starts above, the worst below.
        travel: the way along the loss that an indicator could go over the whole search, in units of ``level``: a short
            search takes larger steps, up to 0.15 of ``level``.
        dead_zone: the budget regularizer is zero for costs in ``[(1 - dead_zone) target, target]``.
        ramp: share of the search in which the budget sinks from the start's cost to the target.
        lasso_weight: factor of the sum of all gates (equation 8) over their number.
        symmetry_weight: factor of the symmetry penalty (equation 11).
        learning_rate: of the weights in the search (SGD, constant after a warm-up) and the largest one in the tuning
            (a cosine down to 0).
        momentum: of SGD.
        weight_decay: of SGD.

    Raises:
        InvalidArgumentError: a value cannot be used.
    """

    cost: str = "macs"
    target: float = 0.5
    start: tuple[int, ...] | None = None
    learn: bool = True
    epochs: float = 4.0
    tune_share: float = 0.5
    batch_size: int = 64
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
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        """Check the values; a list of levels, as JSON brings it, becomes a tuple."""
        if self.start is not None:
            object.__setattr__(self, "start", tuple(self.start))
        positive = ("epochs", "batch_size", "indicator_every", "hottest", "coldest", "level", "travel", "learning_rate")
        for name in positive:
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                msg = f"expected {name} to be positive and finite, got {value!r}"
                raise InvalidArgumentError(msg)
        for name in ("lasso_weight", "symmetry_weight", "momentum", "weight_decay"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                msg = f"expected {name} to be finite and not negative, got {value!r}"
                raise InvalidArgumentError(msg)
        for name in ("tune_share", "spread", "dead_zone", "ramp"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                msg = f"expected {name} to be a share in 0..1, 1 excluded, got {value!r}"
                raise InvalidArgumentError(msg)
        if not 0 < self.target <= 1:
            msg = f"expected target to be a share of the dense model's cost in 0..1, 0 excluded, got {self.target!r}"
            raise InvalidArgumentError(msg)
        if self.coldest > self.hottest:
            msg = f"expected the temperature to fall, got hottest={self.hottest} and coldest={self.coldest}"
            raise InvalidArgumentError(msg)
