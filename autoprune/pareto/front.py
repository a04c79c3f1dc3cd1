"""A front as data: points that no other one of a search dominates, cheapest first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

import numpy as np
import numpy.typing as npt

from autoprune.core.groups import FloatArray
from autoprune.core.jobs import Evaluation, Outcome, Status, evaluations
from autoprune.core.limits import cost_in_words
from autoprune.core.objectives import Objectives
from autoprune.errors import InfeasibleError, InvalidArgumentError, unknown_name
from autoprune.pareto.dominance import as_values, unique_front
from autoprune.pareto.hypervolume import ReferenceBox

if TYPE_CHECKING:
    import pandas as pd


class Figures(Protocol):
    """Anything that has metrics and costs: an evaluation, a point of a run."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Measured figures by name."""
        ...

    @property
    def costs(self) -> Mapping[str, int]:
        """Counted integers by name."""
        ...


class Tabled(Figures, Protocol):
    """Anything that can stand in a table."""

    @property
    def genome(self) -> tuple[int, ...]:
        """One level index per width variable."""
        ...

    def row(self) -> dict[str, Any]:
        """Return its ``id`` and figures by the names of their columns."""
        ...


P = TypeVar("P", bound=Figures)
Q = TypeVar("Q", bound=Figures)
T = TypeVar("T", bound=Tabled)


@dataclass(frozen=True, eq=False)
class Front(Generic[P]):
    """Non-dominated points, by the first objective that is a cost (by the last one where none is), increasing.

    It is a sequence: ``front[0]`` is the cheapest point, ``len(front)`` counts them, a loop goes through them.

    Attributes:
        objectives: the objectives that were optimised.
        points: one per pair of values; of points with equal values the first one found.
        values: (n, m) float array, every objective minimized.
        box: the reference point of its hypervolume, and the ideal; None if none was given.
    """

    objectives: Objectives
    points: tuple[P, ...]
    values: FloatArray
    box: ReferenceBox | None = None

    @staticmethod
    def of(
        outcomes: Iterable[Outcome],
        objectives: Objectives,
        *,
        fidelity: str | None = None,
        box: ReferenceBox | None = None,
    ) -> Front[Evaluation]:
        """Return the front of the successful evaluations among ``outcomes``.

        Args:
            outcomes: outcomes of one run, or of several of the same problem.
            objectives: the objectives to compare by.
            fidelity: compare only evaluations of this fidelity; needed when there are several.
            box: reference point and ideal, for `hypervolume`.

        Raises:
            InvalidArgumentError: there are several fidelities and none was chosen, or a figure is missing.
        """
        measured = sorted(successful_evaluations(outcomes, fidelity=fidelity), key=lambda outcome: outcome.job.id)
        rows = [objectives.values(outcome.metrics, outcome.costs) for outcome in measured]
        values = np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives))
        costs = [i for i, item in enumerate(objectives.items) if item.is_cost]
        column = costs[0] if costs else len(objectives) - 1
        sign = -1.0 if objectives.items[column].maximize else 1.0
        chosen = np.array(unique_front(values), dtype=np.int64)
        chosen = chosen[np.argsort(sign * values[chosen, column], kind="stable")]
        return Front(objectives, tuple(measured[i] for i in chosen), values[chosen], box)

    def map(self, make: Callable[[P], Q]) -> Front[Q]:
        """Return the same front of other things: what ``make`` returns for every point."""
        return Front(self.objectives, tuple(make(point) for point in self.points), self.values, self.box)

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.points)

    def __iter__(self) -> Iterator[P]:
        """Go through the points, cheapest first."""
        return iter(self.points)

    @overload
    def __getitem__(self, index: int) -> P: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[P]: ...

    def __getitem__(self, index: int | slice) -> P | Sequence[P]:
        """Return a point by its place, cheapest first, or several as a tuple."""
        return self.points[index]

    def __repr__(self) -> str:
        """Name the kind, the number of points and the range of the cost."""
        cost = self.objectives.cost.name
        ends = (
            [_words(cost, _figure(point, cost)) for point in (self.points[0], self.points[-1])] if self.points else []
        )
        span = f": {cost} {ends[0]} to {ends[1]}" if ends else ""
        return f"{type(self).__name__}({len(self)} point{'' if len(self) == 1 else 's'}{span})"

    @property
    def hypervolume(self) -> float:
        """The exact hypervolume, as a share of the box that the reference point spans with the ideal, 0..1.

        Raises:
            InvalidArgumentError: the front was made without a reference point.
        """
        if self.box is None:
            msg = "expected a reference point for the hypervolume, and this front was made without one"
            raise InvalidArgumentError(msg)
        return self.box.share(self.values)

    def table(self: Front[T], *, wide: bool = False) -> pd.DataFrame:
        """Return a data frame, which prints whole: one row per point, cheapest first, indexed by id.

        Columns: metrics that are objectives (``accuracy``; of other items ``accuracy_test``), costs (``macs``,
        ``params``; predicted latency as ``latency_ms``), shares of the dense model's for MACs and objectives
        (``macs_share``), measured latency (``latency_ms_measured``).

        Args:
            wide: whether to add all other metrics and costs, and the channels kept: a column ``width:<variable>`` for
                every width variable.
        """
        return points_table([point.row() for point in self.points], self.objectives, wide=wide)

    def to_csv(self: Front[T], path: str | Path) -> None:
        """Write the wide `table` as CSV."""
        self.table(wide=True).to_csv(path)

    def to_json(self: Front[T], path: str | Path) -> None:
        """Write the rows of `table` as JSON, each with its genome."""
        rows = [{**point.row(), "genome": list(point.genome)} for point in self.points]
        Path(path).write_text(json.dumps(rows, indent=1), encoding="utf-8")

    def knee(self) -> P:
        """Return the knee of the front, see `knee`.

        Raises:
            InvalidArgumentError: the front is empty.
        """
        return self.points[knee(self.values)]

    def nearest(self, name: str, wish: float) -> P:
        """Return the point whose objective ``name`` is nearest to ``wish``, in the objective's natural direction.

        Raises:
            UnknownNameError: ``name`` is not an objective.
            InvalidArgumentError: the front is empty.
        """
        column, sign = self._column(name)
        return self.points[nearest(self.values, sign * wish, objective=column)]

    def pick(self, *, at_most: Mapping[str, float] | None = None, at_least: Mapping[str, float] | None = None) -> P:
        """Return the best point within limits, all inclusive.

        With an upper limit on a cost: the best value of the first objective that is not a cost. With limits on metrics
        alone: the lowest value of the first objective that is a cost. With no limit: the knee.

        Args:
            at_most: largest allowed values of any figures, by name.
            at_least: smallest allowed values, likewise.

        Raises:
            InfeasibleError: no point is within the limits; the message says how near the front comes.
            UnknownNameError: a point has no figure of that name.
            InvalidArgumentError: the front is empty.
        """
        at_most, at_least = at_most or {}, at_least or {}
        if len(self) == 0 or not (at_most or at_least):
            return self.knee()
        within = [i for i, point in enumerate(self.points) if _within(point, at_most, at_least)]
        if not within:
            raise InfeasibleError(self._out_of_reach(at_most, at_least))
        limits_cost = any(name in self.points[0].costs for name in at_most)
        column = self._first(is_cost=not limits_cost)
        return self.points[within[int(np.argmin(self.values[within, column]))]]

    def _column(self, name: str) -> tuple[int, float]:
        if name not in self.objectives.names:
            raise unknown_name("objective", name, self.objectives.names)
        column = self.objectives.names.index(name)
        return column, -1.0 if self.objectives.items[column].maximize else 1.0

    def _first(self, *, is_cost: bool) -> int:
        columns = [i for i, item in enumerate(self.objectives.items) if item.is_cost == is_cost]
        return columns[0] if columns else 0

    def _out_of_reach(self, at_most: Mapping[str, float], at_least: Mapping[str, float]) -> str:
        lowest = [
            f"smallest {name} {_words(name, min(_figure(point, name) for point in self.points))} "
            f"(limit {_words(name, limit)})"
            for name, limit in at_most.items()
        ]
        highest = [
            f"largest {name} {max(_figure(point, name) for point in self.points):g} (limit {at_least[name]:g})"
            for name in at_least
        ]
        return f"no point of the front is within the limits; it reaches {', '.join(lowest + highest)}; relax a limit"


def points_table(rows: Sequence[Mapping[str, Any]], objectives: Objectives, *, wide: bool) -> pd.DataFrame:
    """Return rows of points as a data frame, indexed by id; see `Front.table`."""
    from autoprune.pareto.table import Table

    found = Table(rows, columns=None if rows else ["id"]).set_index("id")
    names = ("macs", "params", "latency", *objectives.names)
    shares = {f"{name}_share" for name in ("macs", *objectives.names)}
    kept = [
        name
        for name in map(str, found.columns)
        if (name in shares if name.endswith("_share") else f"{name}_".startswith(tuple(f"{of}_" for of in names)))
    ]
    return found if wide else found[kept]


def knee(values: npt.ArrayLike) -> int:
    """Return the index of the knee: where giving up a little of one objective stops buying much of another.

    Every objective is scaled to 0..1 over the front; the knee is the point farthest below the plane through the
    extreme points, that is, the one with the smallest sum (Das, Structural Optimization 18, 1999, for two objectives).
    The first of equal ones is taken.

    Args:
        values: an (n, m) float array of non-dominated points, minimized, n >= 1.

    Raises:
        InvalidArgumentError: there is no point, or a figure is not finite.
    """
    points = _not_empty(values)
    lowest, highest = points.min(axis=0), points.max(axis=0)
    scaled = (points - lowest) / np.where(highest > lowest, highest - lowest, 1.0)
    return int(np.argmin(scaled.sum(axis=1)))


def nearest(values: npt.ArrayLike, wish: float, *, objective: int) -> int:
    """Return the index of the point whose ``objective`` is nearest to ``wish``; the first of equal ones.

    Args:
        values: an (n, m) float array, minimized, n >= 1.
        wish: the wanted value of that objective.
        objective: its column.

    Raises:
        InvalidArgumentError: there is no point, or a figure is not finite.
    """
    return int(np.argmin(np.abs(_not_empty(values)[:, objective] - wish)))


def _not_empty(values: npt.ArrayLike) -> FloatArray:
    points = as_values(values)
    if len(points) == 0:
        msg = "expected at least one point to choose from, got an empty front; did every evaluation fail?"
        raise InvalidArgumentError(msg)
    return points


def successful_evaluations(outcomes: Iterable[Outcome], *, fidelity: str | None = None) -> list[Evaluation]:
    """Return the evaluations of one fidelity that did not fail, in the given order.

    Raises:
        InvalidArgumentError: there are several fidelities and none was chosen: their figures are not comparable.
    """
    found = [evaluation for evaluation in evaluations(outcomes) if evaluation.status is Status.OK]
    fidelities = sorted({evaluation.job.fidelity for evaluation in found})
    if fidelity is None and len(fidelities) > 1:
        msg = f"expected evaluations of one fidelity, got {', '.join(fidelities)}; choose one with fidelity="
        raise InvalidArgumentError(msg)
    return [evaluation for evaluation in found if fidelity in (None, evaluation.job.fidelity)]


def _within(point: Figures, at_most: Mapping[str, float], at_least: Mapping[str, float]) -> bool:
    below = [_figure(point, name) <= limit for name, limit in at_most.items()]  # every name is looked up
    return all(below + [_figure(point, name) >= limit for name, limit in at_least.items()])


def _words(name: str, figure: float) -> str:
    return cost_in_words(name, figure) if name == "latency" else f"{figure:g}"


def _figure(point: Figures, name: str) -> float:
    figures = {**point.metrics, **point.costs}
    if name not in figures:
        raise unknown_name("figure", name, figures)
    return float(figures[name])
