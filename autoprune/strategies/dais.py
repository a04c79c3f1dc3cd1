"""DAIS: channel indicators learned under one budget after the other (see `autoprune.prepare.dais`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from autoprune.core.protocols import SearchSetup
from autoprune.errors import InvalidArgumentError
from autoprune.strategies._base import Genome
from autoprune.strategies._sweep import BudgetSweep


@dataclass(frozen=True)
class DaisSweepSettings:
    """Settings of `DaisStrategy`.

    Attributes:
        budgets: searches, one a budget.
        warm_start: each search starts from the network, the weights and the order that the one before made.
        preparation: share of the multiply-adds of the run that goes into the searches, in equal parts.
        epochs: longest search, in passes over the training items; the length where multiply-adds are not limited.
        step: how many variables a step around the front changes by one level.
        straight_through: search with hard gates and the gradient of soft ones.
        shared: whether all readers of a channel share its indicator.

    Raises:
        InvalidArgumentError: a value cannot be used.
    """

    budgets: int = 8
    warm_start: bool = True
    preparation: float = 0.85
    epochs: float = 8.0
    step: int = 2
    straight_through: bool = False
    shared: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.budgets < 1 or self.step < 1 or not self.epochs > 0 or not 0 < self.preparation <= 1:
            msg = (
                "expected at least one budget and a step of at least 1, positive epochs, and a preparation above 0 and "
                f"up to 1, got {self}"
            )
            raise InvalidArgumentError(msg)


class DaisStrategy(BudgetSweep):
    """A front by one DAIS search per budget, and steps around it with the weights that the searches made.

    Raises:
        BudgetError: the multiply-adds do not suffice for the searches.
    """

    Settings = DaisSweepSettings
    recipe = "dais"
    learns: ClassVar[bool] = True

    def __init__(self, setup: SearchSetup, settings: DaisSweepSettings | None = None) -> None:
        chosen = settings or DaisSweepSettings()
        super().__init__(
            setup,
            settings,
            n_budgets=chosen.budgets,
            is_warm=chosen.warm_start,
            share=chosen.preparation,
            epochs=chosen.epochs,
            step=chosen.step,
        )

    def _job_settings(self, target: float, start: Genome | None, epochs: float) -> Mapping[str, Any]:
        return {
            "cost": self._cost,
            "target": target,
            "start": None if start is None else list(start),
            "epochs": epochs,
            "learn": self.learns,
            "straight_through": self.settings.straight_through,
            "shared": self.settings.shared,
        }


class DaisFrozenStrategy(DaisStrategy):
    """The twin of `DaisStrategy`: the same training of weights, with indicators that stay where they start.

    The channels come from the given order, all levels shrink by one factor into each budget.
    """

    learns = False
