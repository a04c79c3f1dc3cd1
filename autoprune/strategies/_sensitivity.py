"""What each variable costs in quality when it is lowered alone, and the genomes that their sum predicts to be best."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from autoprune.core.groups import IntArray
from autoprune.core.jobs import Candidate, Evaluate
from autoprune.core.protocols import SearchSetup
from autoprune.errors import BudgetError, InvalidArgumentError
from autoprune.strategies._additive import predicted_front
from autoprune.strategies._base import Genome, spread_cost
from autoprune.strategies._curve import widest_gap_first
from autoprune.strategies._population import likely_evaluations

FloatArray = npt.NDArray[np.float64]
Known = Mapping[Genome, FloatArray | None]
"""Objective values of measured genomes; None where the measurement failed."""


class Sensitivities:
    """Each variable is lowered alone from the largest feasible network.

    Between the measured levels its damage is taken to be linear in ``(1 - keep ratio)^2``, beyond them by extension.
    The damages are summed, and for every budget the genome of least sum within the limits is found.

    Args:
        setup: what a strategy may know.
        n_levels: levels measured per variable, the lowest one always; 1 where more would take above a third of the
            evaluations.

    Attributes:
        plan: what has to be measured, the largest feasible network first: one genome more than there are free
            variables, or than ``n_levels`` times as many.

    Raises:
        InvalidArgumentError: no objective is measured.
        BudgetError: the budget does not suffice for one genome per variable.
    """

    def __init__(self, setup: SearchSetup, n_levels: int) -> None:
        if all(objective.is_cost for objective in setup.objectives.items):
            msg = f"knapsack needs an objective that is measured, such as 'accuracy', got {setup.objectives.names}"
            raise InvalidArgumentError(msg)
        self._setup = setup
        self.top = setup.space.repair(setup.space.full_genome[None, :], setup.costs, setup.limits)[0]
        n_free = int(np.count_nonzero(self.top))
        evaluations = likely_evaluations(setup)
        if evaluations is not None:
            n_levels = max(1, min(n_levels, evaluations // (3 * max(1, n_free))))
        self._probes = [
            (variable, int(level))
            for variable, top in enumerate(self.top.tolist())
            for level in np.unique(np.arange(n_levels) * top // n_levels)
            if level < top
        ]
        self.plan: list[Genome] = [
            tuple(genome.tolist()) for genome in (self.top, *(self._lowered(*probe) for probe in self._probes))
        ]
        self._check_budget(n_free)

    def front(self, known: Known) -> list[Genome]:
        """Return the predicted optima for every budget, so that every prefix covers the range of the cost.

        Args:
            known: values of everything in the plan.
        """
        space = self._setup.space
        start = np.stack([self.top, space.min_genome])
        front = predicted_front(self._setup, self.damages(known), start)
        order = widest_gap_first(self._setup.costs(front)[spread_cost(self._setup)])
        return [tuple(genome) for genome in front[order].tolist()]

    def damages(self, known: Known) -> list[FloatArray]:
        """Return per variable the (L,) predicted loss of each level against the largest feasible network.

        A variable that could not be measured gets the median slope of those that could.
        """
        space = self._setup.space
        levels = np.minimum(np.arange(int(space.n_levels.max()))[:, None], space.n_levels - 1)
        removed = (1 - space.keep_ratios(levels)) ** 2
        shapes = [removed[:n, v] for v, n in enumerate(space.n_levels)]
        lost = self._losses(known)
        steepness = [
            loss / (shapes[v][level] - shapes[v][self.top[v]])
            for (v, level), loss in zip(self._probes, lost, strict=True)
        ]
        slope = float(np.nanmedian(steepness)) if np.isfinite(steepness).any() else 1.0
        damages = []
        for v, shape in enumerate(shapes):
            anchors = {int(self.top[v]): 0.0}
            anchors |= {
                level: loss for (w, level), loss in zip(self._probes, lost, strict=True) if w == v and loss >= 0
            }
            damages.append(damage_curve(shape, anchors, slope))
        return damages

    def _losses(self, known: Known) -> list[float]:
        """Return what each probe lost against the largest feasible network, NaN where it failed.

        Should that network have failed, the best probe stands in for it.
        """
        metric = next(i for i, item in enumerate(self._setup.objectives.items) if not item.is_cost)
        values = [known[genome] for genome in self.plan]
        base, *probes = [np.nan if value is None else float(value[metric]) for value in values]
        if np.isnan(base):
            base = min((probe for probe in probes if not np.isnan(probe)), default=np.nan)
        return [float(np.maximum(0.0, probe - base)) for probe in probes]

    def _lowered(self, variable: int, level: int) -> IntArray:
        genome = self.top.copy()
        genome[variable] = level
        return genome

    def _check_budget(self, n_free: int) -> None:
        """Refuse a budget that the plan alone would overrun."""
        setup, n = self._setup, len(self.plan)
        what = f"knapsack measures {n_free} variables and the largest network first ({n} evaluations"
        if setup.evaluations is not None and n > setup.evaluations:
            msg = f"{what}), got {setup.evaluations} evaluations; raise the budget"
            raise BudgetError(msg)
        if setup.macs is not None and setup.estimate is not None:
            jobs = [Evaluate(0, Candidate(genome, setup.weight_set)) for genome in self.plan]
            needed = sum(setup.estimate(job).macs for job in jobs)
            if needed > setup.macs:
                msg = f"{what}, {needed:,} MACs), the budget leaves {setup.macs:,}; raise the budget"
                raise BudgetError(msg)


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
