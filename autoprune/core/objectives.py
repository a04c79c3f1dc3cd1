"""The objectives of a search: named figures with a direction, minimised inside, in natural units outside."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core.groups import FloatArray
from autoprune.errors import AutopruneWarning, InvalidArgumentError, shown

COSTS = ("macs", "params", "peak_bytes", "latency")
"""Names that are counted on the cut model, or predicted for it; all are minimised. Latency is in nanoseconds."""

SOFT_COSTS = ("macs", "params")
"""Costs that are polynomials in the widths, so that a gradient follows them and a budget is met in expectation."""

RATES = ("accuracy", "top1", "top5", "f1", "iou", "miou", "pixel_accuracy", "auroc")
"""Metric names that everybody gives to shares of 1; ``error`` and ``map`` are given to other figures, too."""

AGREED = dict.fromkeys(RATES, "max") | dict.fromkeys(
    ("loss", "error", "perplexity", "mae", "mse", "rmse", "distance"), "min"
)
"""Metric names whose direction everybody agrees on; that of any other name is said by the task or by the user."""


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
    def parse(cls, text: str, directions: Mapping[str, str] | None = None) -> Objective:
        """Read ``"accuracy"``, ``"macs"``, or with a direction ``"max:iou"``, ``"min:wer"``.

        What is written counts; where it contradicts ``directions``, a warning says so.

        Args:
            text: a name, with or without a direction.
            directions: ``"max"`` or ``"min"`` by metric name, as the task says.

        Raises:
            InvalidArgumentError: the direction is neither ``max`` nor ``min``, a cost is to be maximised, or nobody
                says what is better.
        """
        direction, name = split_direction(text)
        said = "min" if name in COSTS else (directions or {}).get(name)
        if name in COSTS and direction == "max":
            msg = f"cost {name!r} can only be minimised; write {name!r}"
            raise InvalidArgumentError(msg)
        if direction and said is not None and direction != said:
            msg = f"objective {text!r} is taken as it is written, though the task says that {name!r} is better at its "
            msg += "largest" if said == "max" else "smallest"
            warnings.warn(msg, AutopruneWarning, stacklevel=2)
        direction = direction or said or AGREED.get(name, "")
        if not direction:
            msg = f"nothing says whether a large or a small {name!r} is better; write 'min:{name}' or 'max:{name}'"
            raise InvalidArgumentError(msg)
        return cls(name, maximize=direction == "max")

    def __str__(self) -> str:
        """Write it with its direction, as `parse` reads it."""
        return f"{'max' if self.maximize else 'min'}:{self.name}"


def split_direction(text: str) -> tuple[str, str]:
    """Return direction and name of a metric or cost; the direction is empty where none is written.

    >>> split_direction("min:wer"), split_direction("accuracy")
    (('min', 'wer'), ('', 'accuracy'))

    Raises:
        InvalidArgumentError: the direction is neither ``max`` nor ``min``, or there is no name.
    """
    direction, _, name = text.rpartition(":")
    if direction not in ("", "max", "min") or not name:
        msg = f"expected a name such as 'accuracy', 'max:iou' or 'min:loss', got {text!r}"
        raise InvalidArgumentError(msg)
    return direction, name


@dataclass(frozen=True)
class Objectives:
    """Two to four objectives, in order.

    Attributes:
        items: the objectives.
    """

    items: tuple[Objective, ...]

    @classmethod
    def parse(cls, names: Sequence[str], directions: Mapping[str, str] | None = None) -> Objectives:
        """Read names as `Objective.parse` does.

        Raises:
            InvalidArgumentError: fewer than one or more than four, a name given twice, or a direction that is unknown.
        """
        objective_names(names)
        return cls(tuple(Objective.parse(name, directions) for name in names))

    def __len__(self) -> int:
        """Return the number of objectives."""
        return len(self.items)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(item.name for item in self.items)

    @property
    def quality(self) -> Objective:
        """The first objective that is a metric; the first objective when all are costs."""
        return next((item for item in self.items if not item.is_cost), self.items[0])

    @property
    def cost(self) -> Objective:
        """The first objective that is a cost; otherwise the last one."""
        return next((item for item in self.items if item.is_cost), self.items[-1])

    def values(self, metrics: Mapping[str, float], costs: Mapping[str, int]) -> FloatArray:
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


def soft_cost(objectives: Iterable[str], limits: Iterable[str]) -> str:
    """Return the cost that budgets of a search by gradients are in, given the names of objectives and limits."""
    return next((name for name in (*objectives, *limits) if name in SOFT_COSTS), SOFT_COSTS[0])


def objective_names(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the names of written objectives, whoever knows their directions.

    Raises:
        InvalidArgumentError: fewer than one or more than four, a name given twice, or no name.
    """
    is_some = isinstance(texts, Sequence) and not isinstance(texts, str) and 1 <= len(texts) <= 4
    if not is_some or not all(isinstance(text, str) for text in texts):
        msg = f"expected one to four objectives, such as ('accuracy', 'macs'), got {shown(texts)}"
        raise InvalidArgumentError(msg)
    names = tuple(split_direction(text)[1] for text in texts)
    if len(set(names)) != len(names):
        msg = f"expected different objectives, got {tuple(texts)}"
        raise InvalidArgumentError(msg)
    return names
