"""Sensitivities of one variable at a time, the exact optimum of their sum for every budget, then steps around it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.core.groups import IntArray
from autoprune.core.jobs import Evaluate, Job, Outcome
from autoprune.core.protocols import SearchSetup
from autoprune.errors import InvalidArgumentError
from autoprune.pareto.dominance import non_dominated
from autoprune.strategies._additive import predicted_front
from autoprune.strategies._base import BaseStrategy, Genome, child_seeds, spread_cost
from autoprune.strategies._curve import widest_gap_first
from autoprune.strategies._unseen import UnseenGenomes

FloatArray = npt.NDArray[np.float64]

_TRIES = 20  # steps from the measured front in a row that lead to known genomes, until one is drawn at random


@dataclass(frozen=True)
class KnapsackSettings:
    """Settings of `KnapsackStrategy`.

    Attributes:
        probes: levels measured per variable, the lowest one always; reduced to 1 where the probes would take more
            than a third of the evaluations.
        front: predicted optima to measure before stepping around what was measured; None: half of what the probes
            leave of the evaluations (32 when these are unknown).
        step: how many variables a step around the measured front changes by one level.

    Raises:
        InvalidArgumentError: a setting is below one.
    """

    probes: int = 2
    front: int | None = None
    step: int = 2

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value in (("probes", self.probes), ("front", self.front), ("step", self.step)):
            if value is not None and value < 1:
                msg = f"expected {name} to be at least 1, got {value}"
                raise InvalidArgumentError(msg)


class KnapsackStrategy(BaseStrategy):
    """What FastNAS does with one threshold and HALP with a latency table, solved exactly and refined by measuring.

    Each variable is lowered alone from the largest feasible network. Between the measured levels its damage is taken
    to be linear in ``(1 - keep ratio)^2``, beyond them by extension. The damages are summed, and for every budget the
    genome of least sum within the limits is found; these are measured. Then genomes near the measured front follow.

    Raises:
        InvalidArgumentError: no objective is measured, or the evaluations do not suffice for one probe per variable.
    """

    Settings = KnapsackSettings

    def __init__(self, setup: SearchSetup, settings: KnapsackSettings | None = None) -> None:
        super().__init__(setup, settings)
        if all(objective.is_cost for objective in setup.objectives.items):
            msg = f"knapsack needs an objective that is measured, such as 'accuracy', got {setup.objectives.names}"
            raise InvalidArgumentError(msg)
        for_unseen, for_steps = child_seeds(setup.seed, 2)
        self._unseen = UnseenGenomes(setup, np.random.default_rng(for_unseen))
        self._rng = np.random.default_rng(for_steps)
        self._known: dict[Genome, FloatArray | None] = {}  # values of what was told, None where it failed
        space = setup.space
        self._top = space.repair(space.full_genome[None, :], setup.costs, setup.limits)[0]
        self._probes = self._plan_probes()
        self._plan = [
            tuple(genome.tolist()) for genome in (self._top, *(self._lowered(*probe) for probe in self._probes))
        ]
        self._waiting = deque(self._plan)
        self._is_solved = False

    def _propose(self, ids: range) -> Sequence[Job]:
        jobs: list[Job] = []
        for id_ in ids:
            genome = self._next()
            if genome is None:
                break
            self._unseen.add(genome)
            jobs.append(self._evaluate(id_, genome))
        return jobs

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome.job, Evaluate):
                self._known[outcome.job.candidate.genome] = self._values(outcome)

    def _absorb(self, outcomes: Sequence[Outcome]) -> None:
        self._learn(outcomes)
        for genome in self._known:
            self._unseen.add(genome)

    def _next(self) -> Genome | None:
        """Return the next genome: a probe, a predicted optimum, a step from the measured front, whatever is left."""
        while True:
            while self._waiting:
                genome = self._waiting.popleft()
                if genome not in self._unseen:
                    return genome
            if self._is_solved:
                return self._step() or next(iter(self._unseen.draw(1)), None)
            if any(genome not in self._known for genome in self._plan):
                return None
            self._is_solved = True
            self._waiting.extend(self._predicted())

    def _plan_probes(self) -> list[tuple[int, int]]:
        """Return the (variable, level) pairs to measure, levels below the largest feasible network's."""
        n_free = int(np.count_nonzero(self._top))
        evaluations = self.setup.evaluations
        n_levels = self.settings.probes
        if evaluations is not None:
            if n_free + 1 > evaluations:
                msg = (
                    f"knapsack measures {n_free} variables and the largest network first, got {evaluations} evaluations"
                )
                raise InvalidArgumentError(msg)
            n_levels = max(1, min(n_levels, evaluations // (3 * max(1, n_free))))
        return [
            (variable, int(level))
            for variable, top in enumerate(self._top.tolist())
            for level in np.unique(np.arange(n_levels) * top // n_levels)
            if level < top
        ]

    def _lowered(self, variable: int, level: int) -> IntArray:
        genome = self._top.copy()
        genome[variable] = level
        return genome

    def _predicted(self) -> list[Genome]:
        """Return the predicted optima to measure, so that every prefix covers the range of the cost."""
        start = np.stack([self._top, self.setup.space.min_genome])
        front = predicted_front(self.setup, self._damages(), start)
        n = self.settings.front
        if n is None:
            evaluations = self.setup.evaluations
            n = 32 if evaluations is None else max(1, (evaluations - len(self._plan)) // 2)
        order = widest_gap_first(self.setup.costs(front)[spread_cost(self.setup)])
        return [tuple(genome) for genome in front[order[:n]].tolist()]

    def _damages(self) -> list[FloatArray]:
        """Return per variable the (L,) predicted loss of each level against the largest feasible network.

        A variable that could not be measured gets the median slope of those that could.
        """
        space = self.setup.space
        levels = np.minimum(np.arange(int(space.n_levels.max()))[:, None], space.n_levels - 1)
        removed = (1 - space.keep_ratios(levels)) ** 2
        shapes = [removed[:n, v] for v, n in enumerate(space.n_levels)]
        lost = self._losses()
        steepness = [
            loss / (shapes[v][level] - shapes[v][self._top[v]])
            for (v, level), loss in zip(self._probes, lost, strict=True)
        ]
        slope = float(np.nanmedian(steepness)) if np.isfinite(steepness).any() else 1.0
        damages = []
        for v, shape in enumerate(shapes):
            anchors = {int(self._top[v]): 0.0}
            anchors |= {
                level: loss for (w, level), loss in zip(self._probes, lost, strict=True) if w == v and loss >= 0
            }
            damages.append(damage_curve(shape, anchors, slope))
        return damages

    def _losses(self) -> list[float]:
        """Return what each probe lost against the largest feasible network, NaN where it failed.

        Should that network have failed, the best probe stands in for it.
        """
        metric = next(i for i, item in enumerate(self.setup.objectives.items) if not item.is_cost)
        values = [self._known[genome] for genome in self._plan]
        base, *probes = [np.nan if value is None else float(value[metric]) for value in values]
        if np.isnan(base):
            base = min((probe for probe in probes if not np.isnan(probe)), default=np.nan)
        return [float(np.maximum(0.0, probe - base)) for probe in probes]

    def _step(self) -> Genome | None:
        """Return an unknown genome that differs from one of the measured front in a few levels."""
        measured = [genome for genome, values in self._known.items() if values is not None]
        if not measured:
            return None
        front = np.array(measured)[non_dominated(np.array([self._known[genome] for genome in measured]))]
        space = self.setup.space
        children = front[self._rng.integers(len(front), size=_TRIES)]
        for child in children:
            moved = self._rng.choice(space.n_variables, size=min(self.settings.step, space.n_variables), replace=False)
            child[moved] += self._rng.choice([-1, 1], size=len(moved))
        children = space.repair(np.clip(children, 0, space.n_levels - 1), self.setup.costs, self.setup.limits)
        return next((genome for genome in map(tuple, children.tolist()) if genome not in self._unseen), None)


def damage_curve(shape: FloatArray, anchors: Mapping[int, float], slope: float) -> FloatArray:
    """Return the (L,) damage of every level of one variable.

    Args:
        shape: (L,) decreasing coordinate in which the damage is piecewise linear.
        anchors: damage by level where it is known; made monotone, since noise may have it fall as channels go.
        slope: damage per unit of ``shape`` where one anchor only is known.
    """
    known = sorted(anchors, reverse=True)
    x = shape[known]
    y = np.maximum.accumulate([anchors[level] for level in known])
    if len(known) == 1:
        return y[0] + slope * (shape - x[0])
    first, last = ((y[i + 1] - y[i]) / (x[i + 1] - x[i]) for i in (0, len(x) - 2))
    inside = np.interp(shape, x, y)
    return inside + first * np.minimum(0.0, shape - x[0]) + last * np.maximum(0.0, shape - x[-1])
