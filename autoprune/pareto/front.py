"""The front of a search as data: its non-dominated evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprune.core.jobs import Evaluation, Outcome, Status, evaluations
from autoprune.core.objectives import Objectives
from autoprune.errors import InfeasibleError, InvalidArgumentError, unknown_name
from autoprune.pareto.dominance import FloatArray, unique_front
from autoprune.pareto.selection import knee, nearest


@dataclass(frozen=True, eq=False)
class Front:
    """Non-dominated evaluations.

    Attributes:
        objectives: the objectives that were optimised.
        outcomes: one successful evaluation per point, in id order; of points with equal values the first one found.
        values: (n, m) float array, every objective minimized.
    """

    objectives: Objectives
    outcomes: tuple[Evaluation, ...]
    values: FloatArray

    @classmethod
    def of(cls, outcomes: Iterable[Outcome], objectives: Objectives, *, fidelity: str | None = None) -> Front:
        """Return the front of the successful evaluations among ``outcomes``.

        Args:
            outcomes: outcomes of one run, or of several of the same problem.
            objectives: the objectives to compare by.
            fidelity: compare only evaluations of this fidelity; needed when there are several.

        Raises:
            InvalidArgumentError: there are several fidelities and none was chosen, or a figure is missing.
        """
        measured = sorted(successful_evaluations(outcomes, fidelity=fidelity), key=lambda outcome: outcome.job.id)
        rows = [objectives.values(outcome.metrics, outcome.costs) for outcome in measured]
        values = np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives))
        chosen = unique_front(values)
        return cls(objectives, tuple(measured[i] for i in chosen), values[chosen])

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.outcomes)

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat record per point: id, genome, objectives in their natural direction, other figures."""
        return [
            {
                "id": outcome.job.id,
                **_by_name(outcome, self.objectives),
                "genome": list(outcome.genome),
            }
            for outcome in self.outcomes
        ]

    def knee(self) -> Evaluation:
        """Return the knee of the front, see `autoprune.pareto.selection.knee`.

        Raises:
            InvalidArgumentError: the front is empty.
        """
        return self.outcomes[knee(self.values)]

    def nearest(self, name: str, wish: float) -> Evaluation:
        """Return the point whose objective ``name`` is nearest to ``wish``, in the objective's natural direction.

        Raises:
            UnknownNameError: ``name`` is not an objective.
            InvalidArgumentError: the front is empty.
        """
        column, sign = self._column(name)
        return self.outcomes[nearest(self.values, sign * wish, objective=column)]

    def pick(
        self, *, at_most: Mapping[str, float] | None = None, at_least: Mapping[str, float] | None = None
    ) -> Evaluation:
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
        within = [i for i, outcome in enumerate(self.outcomes) if _within(outcome, at_most, at_least)]
        if not within:
            raise InfeasibleError(self._out_of_reach(at_most, at_least))
        limits_cost = any(name in self.outcomes[0].costs for name in at_most)
        column = self._first(is_cost=not limits_cost)
        return self.outcomes[within[int(np.argmin(self.values[within, column]))]]

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
            f"smallest {name} {min(_figure(o, name) for o in self.outcomes):g} (limit {at_most[name]:g})"
            for name in at_most
        ]
        highest = [
            f"largest {name} {max(_figure(o, name) for o in self.outcomes):g} (limit {at_least[name]:g})"
            for name in at_least
        ]
        return f"no point of the front is within the limits; it reaches {', '.join(lowest + highest)}; relax a limit"


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


def _within(outcome: Evaluation, at_most: Mapping[str, float], at_least: Mapping[str, float]) -> bool:
    below = [_figure(outcome, name) <= limit for name, limit in at_most.items()]  # every name is looked up
    return all(below + [_figure(outcome, name) >= limit for name, limit in at_least.items()])


def _figure(outcome: Evaluation, name: str) -> float:
    figures = {**outcome.metrics, **outcome.costs}
    if name not in figures:
        raise unknown_name("figure", name, figures)
    return float(figures[name])


def _by_name(outcome: Evaluation, objectives: Objectives) -> dict[str, float | int]:
    figures = {**outcome.metrics, **outcome.costs}
    first = {name: figures.pop(name) for name in objectives.names}
    return {**first, **figures}
