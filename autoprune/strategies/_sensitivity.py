"""Sensitivities: the damage of each variable when it is lowered alone, and the genomes that their sum predicts best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import zip_longest

import numpy as np

from autoprune.core.groups import FloatArray, IntArray
from autoprune.core.jobs import Candidate, Evaluate, Evaluation, Status
from autoprune.core.objectives import Objective
from autoprune.core.protocols import SearchSetup
from autoprune.errors import BudgetError, InvalidArgumentError
from autoprune.strategies._additive import predicted_front, total_damage
from autoprune.strategies._base import Genome, spread_cost
from autoprune.strategies._curve import widest_gap_first
from autoprune.strategies._population import affords, evaluations_left

DISTANCE = "distance"
"""The metric of every evaluator that says how far the outputs are from the dense model's."""

_LEVELS = 2  # measured per variable by default, where evaluations are dear
_MANY_LEVELS = 4  # as probes, where these take no more than a quarter of the evaluations
_MIDDLES = 4  # variables whose middle level is measured, too, where there is one level of each
_SPARE = 4  # such a probe takes no more than one in so many of the evaluations that the others leave
_INNER = 3  # optima between the ends that come before these
_STEEPEST = 8.0  # most of the fourth power beside the square


Probe = tuple[int, int]
"""A variable, and the level to which it is lowered."""


class Sensitivities:
    """Each variable is lowered alone, from the whole network by probes, else from the largest feasible one.

    What that does to the signal is its damage. Between the measured levels the damage is taken to be linear in
    ``(1 - keep ratio)^2``, beyond them by extension. The damages are summed, and for every budget the genome of least
    sum within the limits is found. The distance from the dense model's outputs is the best signal: it has almost no
    noise, does not saturate, and adds up over layers (docs/methods.md).

    Args:
        setup: everything that a strategy may know.
        n_levels: levels measured per variable, the lowest one always, as far as the evaluations suffice. None for 2, or
            1 where they would take above three fifths of the evaluations (a third without probes); 4 where these
            probes take no more than a quarter.
        signal: ``"distance"``, or any metric as objectives are written: ``"accuracy"``, ``"min:wer"``; evaluators
            without a distance give the first measured objective instead.
        spare: evaluations that the probes leave; four levels are then measured as far as the others suffice.
        middles: variables whose middle level is measured, too, where there is one level of each. None for 4, as far as
            that takes no more than a quarter of the evaluations that are left.

    Attributes:
        plan: genomes to measure, the largest network first: one more than there are free variables, or than
            ``n_levels`` times as many.

    Raises:
        InvalidArgumentError: no objective is measured, or the signal is a cost or has no known direction.
        BudgetError: the budget does not suffice for one genome per variable.
    """

    def __init__(
        self,
        setup: SearchSetup,
        n_levels: int | None = None,
        signal: str = DISTANCE,
        spare: int | None = None,
        middles: int | None = None,
    ) -> None:
        measured = [item.name for item in setup.objectives.items if not item.is_cost]
        if not measured:
            msg = (
                f"knapsack needs an objective that is measured, such as 'accuracy', got {setup.objectives.names}; "
                "'pymoo:nsga2' does without"
            )
            raise InvalidArgumentError(msg)
        self._signal = _signal_of(signal, setup)
        self._setup = setup
        self._known: dict[Genome, float | None] = {}
        self._largest = setup.space.repair(setup.space.full_genome[None, :], setup.costs, setup.limits)[0]
        self.top = setup.space.full_genome if setup.probe else self._largest
        n_free = int(np.count_nonzero(self.top))
        kept = [Evaluate(0, Candidate(tuple(self._largest.tolist()), setup.weight_set))] * (spare or 0)
        few = partial(self._jobs, self._lowest(1))
        if n_levels is None and spare is None:
            n_levels = _usual_levels(n_free, evaluations_left(setup, (), few), has_probes=bool(setup.probe))
        else:
            wanted = range(1, min(n_levels or _MANY_LEVELS, int(self.top.max(initial=0))) + 1)
            n_levels = max((n for n in wanted if affords(setup, kept + self._jobs(self._lowest(n)))), default=1)
        self._probes = self._lowest(n_levels)
        if n_levels == 1:
            self._probes += self._middles(evaluations_left(setup, kept + few(), few), middles)
        self.plan: list[Genome] = [job.candidate.genome for job in self._jobs(self._probes)]
        self._check_budget(n_free)

    def job(self, id_: int, genome: Genome) -> Evaluate:
        """Return the job that measures a genome of the plan."""
        candidate = Candidate(genome, self._setup.weight_set)
        return Evaluate(id_, candidate, self._setup.probe) if self._setup.probe else Evaluate(id_, candidate)

    def evaluations_left(self) -> int | None:
        """Return how many candidates the budget is likely to allow beside the plan; None where nothing says so."""
        return evaluations_left(self._setup, self._jobs(self._probes))

    def hear(self, evaluation: Evaluation) -> bool:
        """Take note of an evaluation of the plan; returns whether it was a probe, which is no candidate of a front."""
        if evaluation.job.fidelity != self.job(0, evaluation.genome).fidelity:
            return False
        self._known[evaluation.genome] = self._damage(evaluation)
        return bool(self._setup.probe)

    def knows(self, genome: Genome) -> bool:
        """Say whether a genome of the plan has been measured."""
        return genome in self._known

    @property
    def is_complete(self) -> bool:
        """Whether everything in the plan has been measured."""
        return all(genome in self._known for genome in self.plan)

    def front(self, *, ends_first: bool = True) -> list[Genome]:
        """Return the predicted optima for every budget, so that every prefix covers the range of the cost.

        With several costs among the objectives there is a front for each, and they take turns.

        Args:
            ends_first: whether the largest and the smallest of them come first. Otherwise the smallest, and the whole
                network, which is known, come after the first three between them.
        """
        fronts = []
        for cost, front in self._optima.items():
            ordered = front[widest_gap_first(self._setup.costs(front)[cost])]
            if not ends_first:
                is_end = (ordered == self._setup.space.full_genome).all(axis=1)
                is_end[1:2] = True
                inner = np.flatnonzero(~is_end)
                ordered = ordered[[*inner[:_INNER], *np.flatnonzero(is_end), *inner[_INNER:]]]
            fronts.append(ordered.tolist())
        turns = (tuple(genome) for turn in zip_longest(*fronts) for genome in turn if genome is not None)
        return list(dict.fromkeys(turns))

    def regret(self, genome: Genome) -> float:
        """Return by how much a genome is predicted to lose more than the optimum that costs no more."""
        cost, front = next(iter(self._optima.items()))
        row = np.array([genome])
        place = np.searchsorted(self._setup.costs(front)[cost], self._setup.costs(row)[cost][0], side="right") - 1
        lost = total_damage(self._damages, np.concatenate([row, front[[max(0, place)]]]))
        return float(lost[0] - lost[1])

    @cached_property
    def _damages(self) -> list[FloatArray]:
        return self.damages()

    @cached_property
    def _optima(self) -> dict[str, IntArray]:
        """By cost among the objectives, the (k, d) predicted optima for every budget, by increasing cost."""
        start = np.stack([self._largest, self._setup.space.min_genome])
        counted = [item.name for item in self._setup.objectives.items if item.is_cost]
        costs = counted or [spread_cost(self._setup)]
        return {cost: predicted_front(self._setup, self._damages, start, cost) for cost in costs}

    def within(self, limits: Mapping[str, int]) -> Genome:
        """Return the genome of least predicted damage within absolute limits by cost name, and the search's own."""
        setup = replace(self._setup, limits={**self._setup.limits, **limits})
        largest = setup.space.repair(setup.space.full_genome[None, :], setup.costs, setup.limits)[0]
        best = predicted_front(setup, self._damages, np.stack([largest, setup.space.min_genome]))[-1]
        return tuple(best.tolist())

    def damages(self) -> list[FloatArray]:
        """Return per variable the (L,) predicted damage of each level against the largest network.

        A variable that could not be measured gets the median slope of those that could.
        """
        space = self._setup.space
        levels = np.minimum(np.arange(int(space.n_levels.max()))[:, None], space.n_levels - 1)
        squares = (1 - space.keep_ratios(levels)) ** 2
        lost = self._losses()
        bent = squares * (1 + curvature(squares, self.top, self._probes, lost) * squares)
        shapes = [bent[:n, v] for v, n in enumerate(space.n_levels)]
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

    def _losses(self) -> list[float]:
        """Return what each probe lost against the largest network, NaN where it failed.

        Should that network have failed, the best probe stands in for it.
        """
        values = [self._known[genome] for genome in self.plan]
        base, *probes = [np.nan if value is None else value for value in values]
        if np.isnan(base):
            base = min((probe for probe in probes if not np.isnan(probe)), default=np.nan)
        return [float(np.maximum(0.0, probe - base)) for probe in probes]

    def _damage(self, outcome: Evaluation) -> float | None:
        """Return the signal, to be minimised; None where the measurement failed."""
        if outcome.status is not Status.OK:
            return None
        name = self._signal.name
        if name not in outcome.metrics:
            if name != DISTANCE:
                msg = f"the signal {name!r} was not measured; measured: {', '.join(outcome.metrics)}"
                raise InvalidArgumentError(msg)
            items = self._setup.objectives.items
            first = next(i for i, item in enumerate(items) if not item.is_cost)
            return float(self._setup.objectives.values(outcome.metrics, outcome.costs)[first])
        return float(outcome.metrics[name]) * (-1 if self._signal.maximize else 1)

    def _lowest(self, n_levels: int) -> list[Probe]:
        """Return probes of so many levels of every variable, from the lowest on."""
        return [
            (variable, int(level))
            for variable, top in enumerate(self.top.tolist())
            for level in np.unique(np.arange(n_levels) * top // n_levels)
            if level < top
        ]

    def _middles(self, left: int | None, wanted: int | None) -> list[Probe]:
        """Return probes of the middle level of a few variables, spread over the network; ``left`` can be paid."""
        free = np.flatnonzero(self.top > 1)
        if not len(free):
            return []
        most = np.inf if left is None else left
        n = int(min(len(free), min(_MIDDLES, most // _SPARE) if wanted is None else min(wanted, most)))
        return [(int(v), int(self.top[v]) // 2) for v in free[np.linspace(0, len(free) - 1, n).astype(np.int64)]]

    def _jobs(self, probes: Sequence[Probe]) -> list[Evaluate]:
        """Return the jobs that measure the largest network and these probes of it."""
        genomes = [self.top, *(self._lowered(*probe) for probe in probes)]
        return [self.job(0, tuple(genome.tolist())) for genome in genomes]

    def _lowered(self, variable: int, level: int) -> IntArray:
        genome = self.top.copy()
        genome[variable] = level
        return genome

    def _check_budget(self, n_free: int) -> None:
        """Refuse a budget that the plan alone would overrun."""
        setup, n = self._setup, len(self.plan)
        what = f"knapsack measures {n_free} variables and the largest network first ({n} evaluations"
        if setup.evaluations is not None and n > setup.evaluations:
            msg = (
                f"{what}), got {setup.evaluations} evaluations; raise the budget, such as to {2 * n}, half of them "
                "probes on few items, or take 'pymoo:nsga2', which goes without"
            )
            raise BudgetError(msg)
        if setup.macs is not None and setup.estimate is not None:
            needed = sum(setup.estimate(job).macs for job in self._jobs(self._probes))
            if needed > setup.macs:
                msg = f"{what}, {needed:,} MACs), the budget leaves {setup.macs:,}; raise it"
                raise BudgetError(msg)


def _usual_levels(n_free: int, evaluations: int | None, *, has_probes: bool) -> int:
    """Return how many levels are measured of each of ``n_free`` variables, where nobody says so.

    Args:
        n_free: number of variables that can be lowered.
        evaluations: how many such measurements the budget pays for; None where nothing says so.
        has_probes: whether these are cheaper than candidates.
    """
    n_free = max(1, n_free)
    if evaluations is None:
        return _MANY_LEVELS if has_probes else _LEVELS
    if not has_probes:
        return max(1, min(_LEVELS, evaluations // (3 * n_free)))
    return max(1, min(_LEVELS, 3 * evaluations // (5 * n_free)), min(_MANY_LEVELS, evaluations // (4 * n_free)))


def _signal_of(text: str, setup: SearchSetup) -> Objective:
    """Return the metric that says what a lowered variable damages."""
    written = text.rpartition(":")[2]
    known = {item.name: "max" if item.maximize else "min" for item in setup.objectives.items}
    signal = Objective.parse(text, known)
    if signal.is_cost:
        msg = f"expected the signal as 'distance' or another metric, got {written!r}, a cost that nothing measures"
        raise InvalidArgumentError(msg)
    return signal


def curvature(squares: FloatArray, top: IntArray, probes: Sequence[tuple[int, int]], lost: Sequence[float]) -> float:
    """Return how much more than its square the removal of many channels damages: ``c`` of ``x^2 (1 + c x^2)``.

    It is the median of what two levels of one variable say, the lowest and one between; 0 where none has two.

    Args:
        squares: (L, d) square of the share ``x`` of channels that each level of each variable is without.
        top: (d,) levels from which the probes are lowered.
        probes: pairs of a variable and its level.
        lost: loss of each probe, NaN where it failed.
    """
    by_variable: dict[int, list[tuple[float, float, float]]] = {}
    for (variable, level), loss in zip(probes, lost, strict=True):
        if loss > 0:
            square, base = squares[[level, top[variable]], variable]
            by_variable.setdefault(variable, []).append((square - base, square**2 - base**2, loss))
    found = []
    for *between, (square, fourth, loss) in map(sorted, by_variable.values()):
        for its_square, its_fourth, its_loss in between:
            ratio = its_loss / loss
            gap = ratio * fourth - its_fourth
            found.append((its_square - ratio * square) / gap if gap > 0 else _STEEPEST)
    return float(np.clip(np.median(found), 0.0, _STEEPEST)) if found else 0.0


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
