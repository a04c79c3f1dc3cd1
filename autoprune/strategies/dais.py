"""DAIS (Guan et al., IEEE TNNLS 2023) over a sweep of budgets: the recipe ``dais`` finds a network for each.

How one budget is searched, and which constants are ours, stands with the recipe, `autoprune.prepare.dais`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from autoprune.strategies._sweep import SweepStrategy


class DaisStrategy(SweepStrategy):
    """Channel indicators that follow the loss."""

    recipe = "dais"
    learns: ClassVar[bool] = True

    def _recipe_settings(self) -> dict[str, Any]:
        return {**self.settings.preparation, "learns": self.learns}


class DaisFrozenStrategy(DaisStrategy):
    """The twin: the same training of weights, with indicators that stay where they start.

    The channels come from the given order, all levels shrink by one factor into each budget.
    """

    learns = False
