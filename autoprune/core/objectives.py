"""What a search optimises: named figures with a direction, minimised inside, natural outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.errors import InvalidArgumentError

COSTS = ("macs", "params", "peak_bytes")
"""Names that are counted on the cut model; all are minimised."""

MINIMIZED_METRICS = ("loss", "error", "perplexity", "mae", "mse", "rmse")
"""Metric names that are minimised unless the user says otherwise."""


@dataclass(frozen=True)
class Objective:
    """One figure to optimise.

    Attributes:
        name: metric or cost name.
        maximize: its natural direction.
    """

    name: str
    maximize: bool

    @property
    def is_cost(self) -> bool:
        """Whether the figure is a cost of the cut model rather than a metric of its predictions."""
        return self.name in COSTS

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read ``"accuracy"``, ``"macs"``, or with a direction ``"max:iou"``, ``"min:lpips"``.

        Raises:
            InvalidArgumentError: the direction is neither ``max`` nor ``min``, or a cost is to be maximised.
        """
        direction, _, name = text.rpartition(":")
        if direction not in ("", "max", "min") or not name:
            msg = f"expected an objective such as 'accuracy', 'max:iou' or 'min:loss', got {text!r}"
            raise InvalidArgumentError(msg)
        if name in COSTS and direction == "max":
            msg = f"cost {name!r} can only be minimised; write {name!r}"
            raise InvalidArgumentError(msg)
        if direction:
            return cls(name, maximize=direction == "max")
        return cls(name, maximize=name not in COSTS + MINIMIZED_METRICS)


@dataclass(frozen=True)
class Objectives:
    """Two to four objectives, in order.

    Attributes:
        items: the objectives.
    """

    items: tuple[Objective, ...]

    @classmethod
    def parse(cls, names: Sequence[str]) -> Objectives:
        """Read names as `Objective.parse` does.

        Raises:
            InvalidArgumentError: fewer than one or more than four, or a name given twice.
        """
        if isinstance(names, str) or not 1 <= len(names) <= 4:
            msg = f"expected one to four objectives, such as ('accuracy', 'macs'), got {names!r}"
            raise InvalidArgumentError(msg)
        items = tuple(Objective.parse(name) for name in names)
        if len({item.name for item in items}) != len(items):
            msg = f"expected different objectives, got {tuple(names)}"
            raise InvalidArgumentError(msg)
        return cls(items)

    def __len__(self) -> int:
        """Return the number of objectives."""
        return len(self.items)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(item.name for item in self.items)

    def values(self, metrics: Mapping[str, float], costs: Mapping[str, int]) -> npt.NDArray[np.float64]:
        """Return the (m,) float array of objective values, every one to be *minimised*.

        Raises:
            InvalidArgumentError: a figure is missing.
        """
        figures = {**metrics, **costs}
        missing = [name for name in self.names if name not in figures]
        if missing:
            msg = f"objective {missing[0]!r} was not measured; measured: {', '.join(figures)}"
            raise InvalidArgumentError(msg)
        signs = np.array([-1.0 if item.maximize else 1.0 for item in self.items])
        return signs * np.array([float(figures[name]) for name in self.names])
