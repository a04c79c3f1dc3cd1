"""Scales on which the figures of networks are modelled: where errors of sums are alike, and nothing is out of range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoprune.core.groups import FloatArray
from autoprune.core.objectives import AGREED, RATES, Objective

_MARGIN = 0.005  # of a share, so that 0 and 1 have a place
_FLOOR = 0.02  # of the median of what is told, below which figures that fall towards 0 are all alike


@dataclass(frozen=True)
class Scale:
    """A monotone scale of a figure that is minimised.

    Attributes:
        kind: ``"logit"`` for shares of 1 that are maximised, ``"log"`` for figures above 0, ``"plain"`` for all others.
        floor: summand before the logarithm.
    """

    kind: str
    floor: float = 0.0

    @classmethod
    def of(cls, objective: Objective, values: FloatArray) -> Scale:
        """Return the scale for (n,) ``values`` of an objective, minimised."""
        if objective.maximize and objective.name in RATES and values.min() >= -1 and values.max() <= 0:
            return cls("logit")
        if not objective.maximize and objective.name in AGREED and values.min() >= 0:
            return cls("log", _FLOOR * float(np.median(values)) or 1.0)
        return cls("plain")

    def to(self, values: FloatArray) -> FloatArray:
        """Return figures on the scale."""
        if self.kind == "logit":
            share = (_MARGIN - values) / (1 + 2 * _MARGIN)
            return -np.log(share / (1 - share))
        return np.log(values + self.floor) if self.kind == "log" else values

    def back(self, scaled: FloatArray) -> FloatArray:
        """Return what is on the scale as figures."""
        if self.kind == "logit":
            return _MARGIN - (1 + 2 * _MARGIN) / (1 + np.exp(np.clip(scaled, -50, 50)))
        return np.exp(np.minimum(scaled, 50)) - self.floor if self.kind == "log" else scaled
