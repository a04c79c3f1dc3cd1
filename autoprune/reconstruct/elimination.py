"""The order in which channels leave when every departure is made good by least squares.

Greedy backward elimination on the second moments of a group's consumers: optimal brain surgeon for blocks of features
(Frantar and Alistarh 2022, 2208.11580; structured: Kurtic et al. 2023, 2302.04089). The sequence is an order blob: one
nested order for all widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from autoprune.core.groups import ChannelGroup, IntArray, Structure
from autoprune.reconstruct.consumers import Consumer
from autoprune.reconstruct.least_squares import DAMPING, _to_features, centred
from autoprune.reconstruct.statistics import Moments


def elimination_order(
    weights: Mapping[str, Tensor],
    structure: Structure,
    consumers: Sequence[Consumer],
    moments: Mapping[str, Moments],
    fallback: Sequence[IntArray],
) -> tuple[IntArray, ...]:
    """Order every group's channels, best first.

    Args:
        weights: the dense weights by name.
        structure: what the trace found.
        consumers: from `find_consumers`.
        moments: from `collect`.
        fallback: per group, an order for groups none of whose consumers has second moments.

    Returns:
        Per group a (w,) integer permutation of its channels, best first.
    """
    orders = []
    for group, other in zip(structure.groups, fallback, strict=True):
        readers = [
            _Reader(weights[c.weight], c, moments[c.weight], group)
            for c in consumers
            if c.weight in moments and bool(np.isin(c.axis.genes, group.genes).any())
        ]
        orders.append(_eliminate(readers, group.width) if readers else np.asarray(other, dtype=np.int64))
    return tuple(orders)


def _eliminate(readers: Sequence[_Reader], width: int) -> IntArray:
    alive = torch.ones(width, dtype=torch.bool)
    gone: list[int] = []
    for _ in range(width - 1):
        errors = torch.stack([reader.errors() for reader in readers]).sum(dim=0)
        errors[~alive] = torch.inf
        worst = int(errors.argmin())
        alive[worst] = False
        gone.append(worst)
        for reader in readers:
            reader.remove(worst)
    gone.append(int(alive.nonzero()))
    return np.array(gone[::-1], dtype=np.int64)


class _Reader:
    """One consumer during the elimination of one group: current weights and inverse second moments.

    With ``H = (G + damping I)^-1`` over the features still there, losing the features ``c`` of a channel raises the
    damped error by ``tr(W_c H_cc^-1 W_c^T)``; the optimal answer is ``W <- W - W_c H_cc^-1 H_c`` and the inverse
    without them is ``H <- H - H_c^T H_cc^-1 H_c``.
    """

    def __init__(self, weight: Tensor, consumer: Consumer, moments: Moments, group: ChannelGroup) -> None:
        rows = _to_features(weight, consumer).double()
        if consumer.shared_taps:
            rows = rows.flatten(1, 2)
        gram = centred(moments)
        damping = DAMPING * gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram + damping[:, None, None] * eye))
        self.weight = rows.clone()  # (blocks, o, f)
        self.energy = float(torch.einsum("bof,bfg,bog->", rows, gram, rows)) or 1.0
        per_channel = 1 if consumer.shared_taps else consumer.taps
        genes = np.repeat(consumer.axis.genes, per_channel)
        members = [np.flatnonzero(genes == gene) for gene in group.genes]
        self.members = torch.from_numpy(np.stack(members)).to(weight.device)  # (w, features per channel)
        self.present = torch.ones(group.width, dtype=torch.bool, device=weight.device)

    def errors(self) -> Tensor:
        """Return the (w,) rise of the error, relative to the consumer's output energy, for losing each channel."""
        total = torch.full((len(self.members),), torch.inf, dtype=torch.float64)
        ids = self.members[self.present]
        inner = self.inverse[:, ids[:, :, None], ids[:, None, :]]  # (blocks, channels, t, t)
        rows = self.weight[:, :, ids].permute(0, 2, 3, 1)  # (blocks, channels, t, o)
        solved = torch.cholesky_solve(rows, torch.linalg.cholesky(inner))
        total[self.present.cpu()] = (rows * solved).sum(dim=(0, 2, 3)).cpu() / self.energy
        return total

    def remove(self, channel: int) -> None:
        """Drop ``channel`` and let the others take over what they can."""
        ids = self.members[channel]
        columns = self.inverse[:, ids]  # H_c: (blocks, t, f)
        factor = torch.linalg.cholesky(columns[:, :, ids])
        solved = torch.cholesky_solve(columns, factor)  # H_cc^-1 H_c
        self.weight -= torch.bmm(self.weight[:, :, ids], solved)
        self.inverse -= torch.bmm(columns.transpose(1, 2), solved)
        self.present[channel] = False
