"""Contributions of modules to the counted costs, as products of sizes that depend on the widths."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autoprune.core.groups import Count, IntArray, Structure
from autoprune.core.patterns import module_of


@dataclass(frozen=True)
class Term:
    """A contribution ``weight * product(factors)``.

    Attributes:
        module: dotted name of the module it belongs to.
        weight: whatever does not depend on a width.
        factors: the sizes that do.
    """

    module: str
    weight: int
    factors: tuple[Count, ...]

    def at(self, widths: IntArray) -> IntArray:
        """Evaluate at (n, g) ``widths``; returns (n,) int64."""
        total = np.full(len(widths), self.weight, dtype=np.int64)
        for factor in self.factors:
            total *= factor.at(widths)
        return total


def cost_terms(structure: Structure) -> dict[str, tuple[Term, ...]]:
    """Return the terms of ``"macs"`` and ``"params"``.

    MACs are the multiply-adds of convolutions, linear layers and matrix products (attention included), one
    multiply-add counting 1 (3 where it is complex, see `cost.multiply_adds`), for one sample. Parameters are counted
    once where names are tied, complex ones as two numbers; buffers are not counted.
    """
    macs = tuple(Term(o.module, o.weight, o.factors) for o in structure.operators)
    params = []
    for info in structure.tensors:
        if info.kind != "parameter":
            continue
        axes = structure.axes_of.get(info.name, ())
        cut = {axis.dim for axis in axes}
        fixed = info.numbers * math.prod(size for dim, size in enumerate(info.shape) if dim not in cut)
        params.append(Term(module_of(info.name), fixed, tuple(structure.count(axis) for axis in axes)))
    return {"macs": macs, "params": tuple(params)}
