"""The order in which channels leave when every departure is made good by least squares.

Greedy backward elimination on the second moments of a group's consumers: optimal brain surgeon for blocks of features
(Frantar and Alistarh 2022, 2208.11580; structured: Kurtic et al. 2023, 2302.04089). The sequence is an order blob: one
nested order for all widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoprune.core.groups import ChannelGroup, Structure
from autoprune.reconstruct.consumers import Consumer
from autoprune.reconstruct.least_squares import damping, to_features
from autoprune.reconstruct.statistics import Moments

FloatArray = npt.NDArray[np.float64]


@torch.no_grad()
def elimination_scores(
    weights: Mapping[str, Tensor],
    structure: Structure,
    consumers: Sequence[Consumer],
    moments: Mapping[str, Moments],
    fallback: Sequence[FloatArray],
) -> tuple[FloatArray, ...]:
    """Score every group's channels by what their departure costs once all cheaper ones have left.

    The score is the rise of the consumers' output errors, each relative to its output energy, when the channel leaves;
    made increasing along the sequence, so that sorting by score gives the sequence back. Relative errors mean the same
    in every group, so scores can be compared between groups.

    Args:
        weights: the dense weights by name.
        structure: what the trace found.
        consumers: from `find_consumers`.
        moments: from `collect`.
        fallback: per group, (w,) scores for groups none of whose consumers has second moments.

    Returns:
        Per group (w,) scores, all different, higher stays longer.
    """
    found = []
    for group, other in zip(structure.groups, fallback, strict=True):
        readers = [
            _Reader(weights[consumer.weight], consumer, moments[consumer.weight], group)
            for consumer in consumers
            if consumer.weight in moments and bool(np.isin(consumer.axis.genes, group.genes).any())
        ]
        found.append(_eliminate(readers, group.width) if readers else np.asarray(other, dtype=np.float64))
    return tuple(found)


def _eliminate(readers: Sequence[_Reader], width: int) -> FloatArray:
    scores = np.empty(width)
    last = 0.0
    for _ in range(width):
        rises = sum((reader.rises() for reader in readers), torch.zeros(width, dtype=torch.float64))
        cheapest = int(rises.argmin())
        last = max(float(rises[cheapest]), float(np.nextafter(last, np.inf)))
        scores[cheapest] = last
        for reader in readers:
            reader.remove(cheapest)
    return scores


class _Reader:
    """One consumer during the elimination of one group: current weights and inverse second moments.

    With ``H = (G + damping I)^-1`` over the features still there, losing the features ``c`` of a channel raises the
    damped error by ``tr(W_c H_cc^-1 W_c^T)``; the optimal answer is ``W <- W - W_c H_cc^-1 H_c`` and the inverse
    without them is ``H <- H - H_c^T H_cc^-1 H_c``.
    """

    def __init__(self, weight: Tensor, consumer: Consumer, moments: Moments, group: ChannelGroup) -> None:
        rows = to_features(weight, consumer).double()
        if consumer.shared_taps:
            rows = rows.flatten(1, 2)
        gram = moments.gram.double()
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram + damping(gram)))
        self.weight = rows.clone()  # (blocks, o, f)
        self.energy = float(torch.einsum("bof,bfg,bog->", rows, gram, rows)) or 1.0
        per_channel = 1 if consumer.shared_taps else consumer.taps
        genes = np.repeat(consumer.axis.genes, per_channel)
        members = [np.flatnonzero(genes == gene) for gene in group.genes]
        self.members = torch.from_numpy(np.stack(members)).to(weight.device)  # (w, features per channel)
        self.present = torch.ones(group.width, dtype=torch.bool, device=weight.device)

    def rises(self) -> Tensor:
        """Return the (w,) rise of the relative error for losing each channel; infinite for those that have left."""
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
