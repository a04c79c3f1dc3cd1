"""Regularizers of DAIS (Guan et al., arXiv 2011.02166): equations 8 and 11; for 10 see `dais_budget`."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from autoprune.core.groups import Structure
from autoprune.train.soft_gates import GateLayout


def lasso(gates: Tensor) -> Tensor:
    """Return the sum of the gates, equation 8: they are not negative."""
    return gates.sum()


def asymmetry(gates: Tensor, layout: GateLayout, structure: Structure) -> Tensor:
    """Return by how much neighbours on a residual stream differ in soft width, equation 11.

    The neighbours are consecutive consumers of one group, with gates of their own; each difference counts relative to
    the width of the group, or wide stages would dominate. Gates that consumers share give 0.

    Args:
        gates: (n_gates,) tensor.
        layout: maps gates to what they scale.
        structure: the traced structure of the model.
    """
    total = gates.new_zeros(())
    for (group, own), (next_group, other) in pairwise(layout.blocks):
        if group == next_group:
            difference = gates[torch.from_numpy(own)].sum() - gates[torch.from_numpy(other)].sum()
            total = total + difference.abs() / structure.groups[group].width
    return total
