"""DSA (Ning et al., ECCV 2020) over a sweep of budgets: the recipe ``dsa`` finds a network for each.

How one budget is searched, and which constants are ours, stands with the recipe, `autoprune.prepare.dsa`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from autoprune.strategies._sweep import SweepStrategy


class DsaStrategy(SweepStrategy):
    """Keep ratios that follow the loss."""

    recipe = "dsa"
    learns: ClassVar[bool] = True

    def _recipe_settings(self) -> dict[str, Any]:
        return {**self.settings.preparation, "learns": self.learns}


class UniformDsaStrategy(DsaStrategy):
    """One keep ratio for all variables; the weights are trained under the same masks and the same budgets."""

    learns = False
