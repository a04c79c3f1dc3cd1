"""Exact optima of an additive damage: which levels lose least for every cost.

Letters: ``d`` variables, ``L`` levels of one variable, ``k`` points of a front.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.core.groups import BoolArray, FloatArray, IntArray
from autoprune.core.protocols import SearchSetup
from autoprune.strategies._base import feasible, spread_cost

RESOLUTION = 1000
"""Linearized costs are rounded to this many steps, which bounds the states of the dynamic program."""

REFERENCES = 12
"""Genomes, spread along the front, at which the cost is linearized."""

ROUNDS = 4
"""Most repetitions of linearize and solve."""

ENUMERABLE = 1 << 14
"""Spaces up to this size are listed instead: exact, and no slower."""


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


def predicted_front(
    setup: SearchSetup, damages: Sequence[FloatArray], start: IntArray, cost: str | None = None
) -> IntArray:
    """Return the feasible genomes that no other is predicted to beat in both damage and exact cost.

    The cost is no sum over the variables, since neighboring layers multiply. It is linearized at genomes along the
    front, every additive problem is solved exactly for every budget, what is found is weighed at its exact cost, and
    the front of all that, improved by exchanges of single levels, gives the next genomes to linearize at, until it
    stays as it is. What breaks a limit of another cost is lowered into it, level by level, where that damages least for
    what it takes off the excess. Small spaces are enumerated.

    Args:
        setup: space, costs and limits.
        damages: per variable, (L,) predicted loss of each level.
        start: (n, d) feasible genomes to begin with.
        cost: the cost that budgets are in; `spread_cost` by default.

    Returns:
        (k, d) genomes by increasing cost.
    """
    cost = cost or spread_cost(setup)
    if setup.space.size <= ENUMERABLE:
        every = np.unravel_index(np.arange(setup.space.size), setup.space.n_levels)
        return _best(setup, damages, np.stack(every, axis=1).astype(np.int64), cost)
    front = _best(setup, damages, start, cost)
    for _ in range(ROUNDS):
        solved = [additive_front(damages, _linearized(setup, reference, cost)) for reference in _along(front)]
        better = _best(setup, damages, np.concatenate([front, *solved, *_within(setup, damages, solved, cost)]), cost)
        for genome in _along(better):
            better = _best(setup, damages, np.concatenate([better, _exchanges(setup, genome)]), cost)
        if np.array_equal(better, front):
            break
        front = better
    return front


def total_damage(damages: Sequence[FloatArray], genomes: IntArray) -> FloatArray:
    """Return the (n,) summed damages of (n, d) ``genomes``."""
    return np.sum([damage[genomes[:, v]] for v, damage in enumerate(damages)], axis=0)


def _best(setup: SearchSetup, damages: Sequence[FloatArray], genomes: IntArray, cost: str) -> IntArray:
    genomes = np.unique(genomes, axis=0)
    genomes = genomes[feasible(setup, genomes)]
    return genomes[_non_dominated(setup.costs(genomes)[cost], total_damage(damages, genomes))]


def _along(front: IntArray) -> IntArray:
    """Return up to `REFERENCES` genomes along a front, both ends among them."""
    return front[np.unique(np.linspace(0, len(front) - 1, REFERENCES).astype(np.int64))]


def _linearized(setup: SearchSetup, reference: IntArray, cost: str) -> list[IntArray]:
    """Return per variable the (L,) costs of its levels while the others stay at ``reference``, least first."""
    n_levels = setup.space.n_levels
    moved = np.repeat(reference[None, :], int(n_levels.sum()), axis=0)
    moved[np.arange(len(moved)), np.repeat(np.arange(len(n_levels)), n_levels)] = np.concatenate(
        [np.arange(n) for n in n_levels]
    )
    costs = np.split(setup.costs(moved)[cost], np.cumsum(n_levels)[:-1])
    step = max(1, sum(int(part[-1] - part[0]) for part in costs) // RESOLUTION)
    return [(part - part[0]) // step for part in costs]


def _within(setup: SearchSetup, damages: Sequence[FloatArray], solved: Sequence[IntArray], cost: str) -> list[IntArray]:
    """Return some of the solutions that break a limit of another cost, lowered into the limits.

    Level by level falls what damages least for what it takes off the excess.
    """
    others = [name for name in setup.limits if name != cost]
    if not others:
        return []
    genomes = np.unique(np.concatenate(solved), axis=0)
    genomes = genomes[setup.costs(genomes)[cost] <= setup.limits.get(cost, np.inf)]
    genomes = genomes[_excess(setup, genomes) > 0]
    if not len(genomes):
        return []
    genomes = _along(genomes[np.argsort(total_damage(damages, genomes), kind="stable")])
    variables = np.arange(setup.space.n_variables)
    left = np.arange(len(genomes))
    while len(left := left[_excess(setup, genomes[left]) > 0]):
        lower = np.repeat(genomes[left][:, None, :], len(variables), axis=1)
        lower[:, variables, variables] = np.maximum(0, lower[:, variables, variables] - 1)
        flat = lower.reshape(-1, len(variables))
        relief = _excess(setup, genomes[left])[:, None] - _excess(setup, flat).reshape(len(left), -1)
        lost = total_damage(damages, flat).reshape(len(left), -1) - total_damage(damages, genomes[left])[:, None]
        price = np.where(genomes[left] > 0, lost.clip(1e-12) / relief.clip(1e-9), np.inf)
        genomes[left] = lower[np.arange(len(left)), price.argmin(axis=1)]
    return [genomes]


def _excess(setup: SearchSetup, genomes: IntArray) -> FloatArray:
    """Return by how much each genome is beyond its limits, the shares of all limits summed."""
    costs = setup.costs(genomes)
    shares = [np.maximum(0.0, costs[name] / limit - 1) for name, limit in setup.limits.items()]
    excess: FloatArray = np.sum(shares, axis=0)
    return excess


def _exchanges(setup: SearchSetup, genome: IntArray) -> IntArray:
    """Return the genomes with one level more or less of one variable, or one more of one and one less of another."""
    step = np.eye(setup.space.n_variables, dtype=np.int64)
    swaps = (step[:, None, :] - step[None, :, :]).reshape(-1, len(step))
    moved = genome + np.concatenate([step, -step, swaps])
    return moved[((moved >= 0) & (moved < setup.space.n_levels)).all(axis=1)]


def _non_dominated(costs: IntArray, damages: FloatArray) -> IntArray:
    """Return positions of the points that no other beats in both, by increasing cost, equal points once."""
    order = np.lexsort((damages, costs))
    ranked = damages[order]
    is_better: BoolArray = np.ones(len(order), dtype=np.bool_)
    is_better[1:] = ranked[1:] < np.minimum.accumulate(ranked)[:-1]
    return order[is_better]
