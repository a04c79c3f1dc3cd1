"""The groups that validation cuts together, the genomes at which it does, and the search for those that fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core.groups import BoolArray, IntArray, Structure
from autoprune.core.space import SearchSpace
from autoprune.core.variables import WidthRules

N_RANDOM = 3
"""Random genomes that are compared, beside the smallest one."""

SMALLEST = N_RANDOM
"""Number of the smallest genome."""

Problem = tuple[str, str]
"""Why something must not be cut, and the line of source that says so."""

Check = Callable[[Sequence[int]], Problem | None]
"""Says what is wrong when some units are cut, None if nothing is."""


@dataclass(frozen=True)
class Unit:
    """Groups that can only be cut together, and to which widths below the dense one."""

    groups: tuple[int, ...]
    widths: tuple[int, ...]


def units_of(structure: Structure, space: SearchSpace | None) -> list[Unit]:
    """Return sets of groups that are cut together: the space's variables, or what is tied and every group alone."""
    if space is not None:
        return [Unit(v.groups, tuple(width for width in v.widths[:-1] if width)) for v in space.variables]
    rules = WidthRules(None, min_keep_ratio=0)
    return [Unit(groups, rules.widths(*_full(structure, groups))[:-1]) for groups in structure.tied_sets]


def _full(structure: Structure, groups: Sequence[int]) -> tuple[int, list[int]]:
    """Return the dense width of the first of several groups and those of the others."""
    first, *others = (structure.groups[g].width for g in groups)
    return first, others


def random_genome(structure: Structure, units: Sequence[Unit], seed: int, number: int) -> BoolArray:
    """Return kept genes of a random genome of unequal widths, or of the smallest one.

    Two in turn rank the channels in opposite order: few channels are not the first ones in both by chance.
    """
    rng = np.random.default_rng([seed, number])
    order = np.random.default_rng([seed, N_RANDOM + 2, number // 2])
    orders = [order.permutation(group.width)[:: -1 if number % 2 else 1] for group in structure.groups]

    def width(allowed: tuple[int, ...], _: int) -> int:
        return allowed[0] if number == SMALLEST else int(rng.choice(allowed))

    return _kept_genes(structure, units, orders, width)


def gentle_genome(structure: Structure, units: Sequence[Unit], seed: int, attempt: int = 0) -> BoolArray:
    """Return kept genes of a genome that removes about a quarter of every group, at random."""
    rng = np.random.default_rng([seed, N_RANDOM + 1, attempt])

    def width(allowed: tuple[int, ...], full: int) -> int:
        return min(allowed, key=lambda w: abs(w - full + full // 4))

    orders = [rng.permutation(group.width) for group in structure.groups]
    return _kept_genes(structure, units, orders, width)


def _kept_genes(
    structure: Structure,
    units: Sequence[Unit],
    orders: Sequence[IntArray],
    choose: Callable[[tuple[int, ...], int], int],
) -> BoolArray:
    widths = structure.full_widths.copy()
    for unit in units:
        if unit.widths:
            groups, full = list(unit.groups), int(widths[unit.groups[0]])
            widths[groups] = widths[groups] * choose(unit.widths, full) // full
    return structure.kept_genes(orders, widths)


def sample_genomes(structure: Structure, seed: int, space: SearchSpace | None = None) -> list[BoolArray]:
    """Return kept genes of the dense model, of one that keeps about half and of one that keeps three quarters.

    Where whole branches may vanish, also of the dense model without any of them.
    """
    units = units_of(structure, space)
    full = np.ones(structure.n_genes, dtype=np.bool_)
    found = [full, random_genome(structure, units, seed, 0), gentle_genome(structure, units, seed)]
    stays = structure.least_widths[structure.group_of] > 0
    return found if stays.all() else [*found, stays]


def bisect(units: Sequence[int], check: Check) -> tuple[list[int], dict[int, Problem]]:
    """Return the units that pass a check together, and those that break it with the reason."""
    passed: list[int] = []
    rejected: dict[int, Problem] = {}

    def add(chunk: Sequence[int]) -> None:
        problem = check([*passed, *chunk])
        if problem is None:
            passed.extend(chunk)
        elif len(chunk) == 1:
            rejected[chunk[0]] = problem
        else:
            half = len(chunk) // 2
            add(chunk[:half])
            add(chunk[half:])

    if units:
        add(units)
    return passed, rejected
