"""Exact optima of an additive damage: which levels lose least for every cost.

Letters: ``d`` variables, ``L`` levels of one variable, ``k`` points of a front.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoprune.core.groups import BoolArray, IntArray
from autoprune.core.protocols import SearchSetup
from autoprune.strategies._base import feasible, spread_cost

FloatArray = npt.NDArray[np.float64]

RESOLUTION = 1000
"""Linearized costs are rounded to this many steps, which bounds the states of the dynamic program."""

REFERENCES = 12
"""Genomes, spread along the front, at which the cost is linearized."""

ROUNDS = 4
"""Most repetitions of linearize and solve."""


def additive_front(damages: Sequence[FloatArray], costs: Sequence[IntArray]) -> IntArray:
    """Solve the multiple-choice knapsack for every capacity at once (Nemhauser and Ullmann 1969).

    Args:
        damages: per variable, (L,) what each level loses.
        costs: per variable, (L,) non-negative integers that each level costs.

    Returns:
        (k, d) levels: for every capacity the choice of least total damage within it, by increasing cost. Exact.
    """
    total_cost = np.zeros(1, dtype=np.int64)
    total_damage = np.zeros(1)
    steps: list[tuple[IntArray, IntArray]] = []  # per variable: the state extended, and the level chosen
    for damage, cost in zip(damages, costs, strict=True):
        all_costs = (total_cost[:, None] + cost[None, :]).ravel()
        all_damages = (total_damage[:, None] + damage[None, :]).ravel()
        kept = _non_dominated(all_costs, all_damages)
        total_cost, total_damage = all_costs[kept], all_damages[kept]
        steps.append((kept // len(cost), kept % len(cost)))
    levels = np.empty((len(total_cost), len(steps)), dtype=np.int64)
    state = np.arange(len(total_cost))
    for variable, (parent, level) in reversed(list(enumerate(steps))):
        levels[:, variable] = level[state]
        state = parent[state]
    return levels


def predicted_front(setup: SearchSetup, damages: Sequence[FloatArray], start: IntArray) -> IntArray:
    """Return the feasible genomes that no other is predicted to beat in both damage and exact cost.

    The cost is no sum over the variables, since neighboring layers multiply. It is linearized at genomes along the
    front, every additive problem is solved exactly for every budget, what is found is weighed at its exact cost, and
    the front of all that gives the next genomes to linearize at, until it stays as it is.

    Args:
        setup: space, costs and limits.
        damages: per variable, (L,) predicted loss of each level.
        start: (n, d) feasible genomes to begin with.

    Returns:
        (k, d) genomes by increasing cost.
    """
    front = _best(setup, damages, start)
    for _ in range(ROUNDS):
        places = np.unique(np.linspace(0, len(front) - 1, REFERENCES).astype(np.int64))
        solved = [additive_front(damages, _linearized(setup, reference)) for reference in front[places]]
        better = _best(setup, damages, np.concatenate([front, *solved]))
        if np.array_equal(better, front):
            break
        front = better
    return front


def total_damage(damages: Sequence[FloatArray], genomes: IntArray) -> FloatArray:
    """Return the (n,) summed damages of (n, d) ``genomes``."""
    return np.sum([damage[genomes[:, v]] for v, damage in enumerate(damages)], axis=0)


def _best(setup: SearchSetup, damages: Sequence[FloatArray], genomes: IntArray) -> IntArray:
    genomes = np.unique(genomes, axis=0)
    genomes = genomes[feasible(setup, genomes)]
    return genomes[_non_dominated(setup.costs(genomes)[spread_cost(setup)], total_damage(damages, genomes))]


def _linearized(setup: SearchSetup, reference: IntArray) -> list[IntArray]:
    """Return per variable the (L,) costs of its levels while the others stay at ``reference``, least first."""
    n_levels = setup.space.n_levels
    moved = np.repeat(reference[None, :], int(n_levels.sum()), axis=0)
    moved[np.arange(len(moved)), np.repeat(np.arange(len(n_levels)), n_levels)] = np.concatenate(
        [np.arange(n) for n in n_levels]
    )
    costs = np.split(setup.costs(moved)[spread_cost(setup)], np.cumsum(n_levels)[:-1])
    step = max(1, sum(int(cost[-1] - cost[0]) for cost in costs) // RESOLUTION)
    return [(cost - cost[0]) // step for cost in costs]


def _non_dominated(costs: IntArray, damages: FloatArray) -> IntArray:
    """Return positions of the points that no other beats in both, by increasing cost, equal points once."""
    order = np.lexsort((damages, costs))
    ranked = damages[order]
    is_better: BoolArray = np.ones(len(order), dtype=np.bool_)
    is_better[1:] = ranked[1:] < np.minimum.accumulate(ranked)[:-1]
    return order[is_better]
