"""The regularizers of DAIS (Guan et al., arXiv 2011.02166), equations 8, 10 and 11, over any cost."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from autoprune.core.groups import Structure
from autoprune.errors import unknown_name
from autoprune.train.soft_gates import GateLayout

BUDGET_FORMS = ("hinge", "squared")


def budget_penalty(cost: Tensor, target: float, dead_zone: float, form: str = "hinge") -> Tensor:
    """Return how far ``cost`` is from ``[(1 - dead_zone) target, target]``, on the scale of logarithms.

    Equation 10 is ``+log E`` above and ``-log E`` below. Taking the logarithm of the ratio to the nearer edge instead
    changes no gradient and makes it continuous, and zero inside.

    Args:
        cost: expected cost, positive, without dimensions.
        target: largest wanted cost, positive.
        dead_zone: 0 to below 1; 1 for an upper bound alone.
        form: ``"hinge"``, whose gradient does not shrink towards the edge as in the paper, or ``"squared"``, which
            does not chatter around it.

    Raises:
        UnknownNameError: there is no such form.
    """
    if form not in BUDGET_FORMS:
        raise unknown_name("form of the budget penalty", form, BUDGET_FORMS)
    distance = torch.relu(torch.log(cost / target))
    if dead_zone < 1:
        distance = distance + torch.relu(torch.log((1 - dead_zone) * target / cost))
    return distance if form == "hinge" else distance.square()


def lasso(gates: Tensor) -> Tensor:
    """Return the sum of the gates, equation 8: they are not negative."""
    return gates.sum()


def asymmetry(gates: Tensor, layout: GateLayout, structure: Structure) -> Tensor:
    """Return by how much neighbours on a residual stream differ in soft width, equation 11.

    The neighbours are consecutive consumers of one group, with gates of their own; each difference counts relative to
    the width of the group, or wide stages would dominate. Gates that consumers share give 0.

    Args:
        gates: (n_gates,) tensor.
        layout: which gate scales what.
        structure: what the trace found.
    """
    total = gates.new_zeros(())
    for (group, own), (next_group, other) in pairwise(layout.blocks):
        if group == next_group:
            difference = gates[torch.from_numpy(own)].sum() - gates[torch.from_numpy(other)].sum()
            total = total + difference.abs() / structure.groups[group].width
    return total
