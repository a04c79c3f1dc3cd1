"""Channel indicators that anneal from soft to hard: DAIS (Guan et al., arXiv 2011.02166), equation 7.

An indicator alpha is a real number per gate; ``H_T(alpha) = 1 / (1 + exp(-alpha / T))`` is the gate's value, which
tends to ``1[alpha > 0]`` as the temperature T falls.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from autoprune.core.groups import FloatArray, IntArray, Structure
from autoprune.train.soft_gates import GateLayout

ANNEALED = 0.9
"""Share of the search in which the temperature falls; it rests for the remainder."""


def temperature(progress: float, first: float, last: float) -> float:
    """Return the temperature at ``progress`` in 0..1: geometric from ``first`` to ``last``, then constant.

    The paper's own annealing function is not known; this one is ours.

    >>> temperature(0.0, 1.0, 0.01), round(temperature(0.45, 1.0, 0.01), 9), temperature(1.0, 1.0, 0.01)
    (1.0, 0.1, 0.01)
    """
    return float(first * (last / first) ** min(1.0, progress / ANNEALED))


def gate_values(indicators: Tensor, at: float, *, straight_through: bool = False) -> Tensor:
    """Return the (n_gates,) gates ``H_T(indicators)`` at temperature ``at``.

    Args:
        indicators: (n_gates,) real tensor.
        at: the temperature.
        straight_through: give the hard gates ``1[indicators > 0]``.
    """
    return (indicators > 0).to(indicators.dtype) if straight_through else torch.sigmoid(indicators / at)


def initial_indicators(
    layout: GateLayout,
    structure: Structure,
    orders: Sequence[IntArray],
    widths: IntArray,
    *,
    level: float,
    spread: float,
) -> FloatArray:
    """Return the (n_gates,) indicators that open the ``widths`` best channels of every group.

    Open gates start around ``level``, closed ones around ``-level``; ``spread`` says by which share of it the best
    channel stands above and the worst below. The paper starts from a constant, which is ``spread = 0``.

    Args:
        layout: maps gates to what they scale.
        structure: the traced structure of the model.
        orders: per group, (w,) channels, best first.
        widths: (g,) open channels per group.
        level: positive.
        spread: 0 to below 1.
    """
    of_gene = np.empty(structure.n_genes)
    for group, order, width in zip(structure.groups, orders, widths.tolist(), strict=True):
        rank = np.empty(group.width)
        rank[order] = np.arange(group.width)
        better = 1 - 2 * (rank + 0.5) / group.width  # from nearly 1 for the best to nearly -1
        of_gene[group.start : group.start + group.width] = level * (np.where(rank < width, 1, -1) + spread * better)
    return of_gene[layout.gene_of]


def reopen(indicators: Tensor, layout: GateLayout, least: IntArray, level: float) -> None:
    """Raise the indicators of the ``least`` best channels of every group to ``level`` where they are below, in place.

    A group that closes altogether would cut the network in two, and no gradient would open it again. Where consumers
    have gates of their own, each of them keeps that many channels.

    Args:
        indicators: (n_gates,) tensor.
        layout: maps gates to what they scale.
        least: (g,) channels to keep open per group.
        level: positive.
    """
    for group, block in layout.blocks:
        gates = torch.from_numpy(block).to(indicators.device)
        best = gates[indicators[gates].topk(min(int(least[group]), len(gates))).indices]
        indicators[best] = indicators[best].clamp(min=level)


def soft_widths(gates: Tensor, layout: GateLayout, structure: Structure) -> Tensor:
    """Return the (g,) soft widths of the groups: the sums of their gates, ``S_l`` of the paper.

    Where consumers have gates of their own, a channel counts by its most open gate, as an export keeps the union.

    Args:
        gates: (n_gates,) tensor.
        layout: maps gates to what they scale.
        structure: the traced structure of the model.
    """
    genes = torch.from_numpy(layout.gene_of).to(gates.device)
    of_gene = gates.new_zeros(structure.n_genes).scatter_reduce(0, genes, gates, "amax", include_self=False)
    return torch.stack([part.sum() for part in of_gene.split(structure.full_widths.tolist())])


def ranked(
    indicators: FloatArray, layout: GateLayout, structure: Structure, orders: Sequence[IntArray]
) -> tuple[tuple[IntArray, ...], IntArray]:
    """Return what the indicators say: an order per group, and the open channels.

    Args:
        indicators: (n_gates,) real array.
        layout: maps gates to what they scale; a channel counts by its highest indicator.
        structure: the traced structure of the model.
        orders: per group, (w,) channels, best first; decides between equal indicators, and among channels without.

    Returns:
        Per group, (w,) channels, best first, and the (g,) numbers of channels with a positive indicator.
    """
    of_gene = np.full(structure.n_genes, -np.inf)
    np.maximum.at(of_gene, layout.gene_of, indicators)
    found = []
    for group, order in zip(structure.groups, orders, strict=True):
        own = of_gene[group.start : group.start + group.width]
        found.append(order[np.argsort(-own[order], kind="stable")])
    counts = np.bincount(structure.group_of[of_gene > 0], minlength=len(structure.groups))
    return tuple(found), counts
