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

from autoprune.core.groups import ChannelGroup, FloatArray, Structure
from autoprune.reconstruct.consumers import Consumer
from autoprune.reconstruct.least_squares import factorised, to_features
from autoprune.reconstruct.statistics import Moments
from autoprune.surgery.precision import double

BLOCK = 64
"""Features that leave before the matrices are brought up to date, in one product instead of many thin ones."""


@torch.no_grad()
def elimination_scores(
    weights: Mapping[str, Tensor],
    structure: Structure,
    consumers: Sequence[Consumer],
    moments: Mapping[str, Moments],
) -> tuple[FloatArray, ...]:
    """Score every group's channels by what their departure costs once all cheaper ones have left.

    The score is the rise of the consumers' output errors, each relative to its output energy, when the channel leaves;
    made increasing along the sequence, so that sorting by score gives the sequence back. Relative errors mean the same
    in every group, so scores can be compared between groups.

    Args:
        weights: the dense weights by name.
        structure: the traced structure of the model.
        consumers: result of `find_consumers`.
        moments: result of `collect`.

    Returns:
        Per group (w,) scores, all different, higher stays longer; not numbers for groups none of whose consumers has
        second moments that are.
    """
    found = []
    for group in structure.groups:
        readers = [
            _Reader(weights[consumer.weight], consumer, moments[consumer.weight], group)
            for consumer in consumers
            if consumer.weight in moments and bool(np.isin(consumer.axis.genes, group.genes).any())
        ]
        found.append(_eliminate(readers, group.width) if readers else np.full(group.width, np.nan))
    return tuple(found)


def _eliminate(readers: Sequence[_Reader], width: int) -> FloatArray:
    if not all(reader.is_sound for reader in readers):
        return np.full(width, np.nan)
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
    """One consumer during the elimination of one group.

    With ``H = (G + damping I)^-1`` over the features still there, losing the features ``c`` of a channel raises the
    damped error by ``tr(W_c H_cc^-1 W_c^T)``; the optimal answer is ``W <- W - W_c H_cc^-1 H_c`` and the inverse
    without them is ``H <- H - H_c^T H_cc^-1 H_c``. Only ``A = W^T W`` of the weights is needed, and of both only what
    belongs to the group. With ``Y = L^-1 H_c`` for ``H_cc = L L^T`` and ``U = H_cc^-1 H_c`` the steps are, of complex
    numbers with the conjugate transpose throughout,

        H <- H - Y^T Y,     A <- A - U^T V - V^T U,     V = A_c - A_cc U / 2.

    Every step needs the (t, t) blocks of both on the diagonal, for the scores, and the rows of the channel that leaves.
    These are brought up to date one by one; the whole matrices only every `BLOCK` features, without what has left.
    """

    def __init__(self, weight: Tensor, consumer: Consumer, moments: Moments, group: ChannelGroup) -> None:
        rows = double(to_features(weight, consumer))
        if consumer.shared_taps:
            rows = rows.flatten(1, 2)
        gram = double(moments.gram)
        factor = factorised(gram)
        self.is_sound = factor is not None and bool(torch.isfinite(rows).all())
        if factor is None or not self.is_sound:
            return
        self._energy = float(torch.einsum("bof,bfg,bog->", rows, gram, rows.conj()).real) or 1.0
        per_channel = 1 if consumer.shared_taps else consumer.taps
        genes = np.repeat(consumer.axis.genes, per_channel)
        members = np.stack([np.flatnonzero(genes == gene) for gene in group.genes])  # (w, features of a channel)
        own = torch.from_numpy(members.reshape(-1)).to(gram.device)  # channel after channel
        inverse = torch.cholesky_inverse(factor)
        self._inverse = inverse[:, own[:, None], own]
        self._products = torch.bmm(rows[:, :, own].mH, rows[:, :, own])
        self._width, self._t = members.shape
        self._channels = torch.arange(group.width)  # whose features the matrices hold, in their order
        self._start()

    def rises(self) -> Tensor:
        """Return the (w,) rise of the relative error for losing each channel; infinite for those that have left."""
        if self._t == 1:  # what has left is at zero, or next to it
            costs = (self._their_products / self._their_inverses).sum(dim=(0, 2, 3)).real
        else:
            factors, info = torch.linalg.cholesky_ex(self._their_inverses)
            solved = torch.cholesky_solve(self._their_products, factors)
            costs = solved.diagonal(dim1=2, dim2=3).sum(dim=(0, 2)).real
            costs[(info > 0).any(dim=0)] = 0.0  # nothing of its own to tell, but for rounding
        total = torch.full((self._width,), torch.inf, dtype=torch.float64)
        costs = costs.clamp_min(0.0).cpu()
        total[self._channels] = torch.where(self._is_here, costs / self._energy, torch.inf)
        return total

    def remove(self, channel: int) -> None:
        """Drop ``channel`` and let the others take over what they can."""
        t = self._t
        place = int((self._channels == channel).nonzero())
        own = slice(place * t, place * t + t)
        y, u, v = (kept[:, : self._n] for kept in (self._y, self._u, self._v))
        h = self._inverse[:, own] - torch.bmm(y[:, :, own].mH, y)  # H_c: (blocks, t, f)
        a = self._products[:, own] - torch.bmm(u[:, :, own].mH, v)
        a -= torch.bmm(v[:, :, own].mH, u)
        factor = _root(h[:, :, own])
        y = torch.linalg.solve_triangular(factor, h, upper=False)
        u = torch.linalg.solve_triangular(factor.mH, y, upper=True)
        v = a - torch.bmm(a[:, :, own], u) / 2
        cross = self._in_channels(u).mH @ self._in_channels(v)
        self._their_inverses -= self._in_channels(y).mH @ self._in_channels(y)
        self._their_products -= cross + cross.mH
        for kept, rows in ((self._y, y), (self._u, u), (self._v, v)):
            kept[:, self._n : self._n + t] = rows
        self._n += t
        self._is_here[place] = False
        if self._n + t > self._y.shape[1]:
            self._bring_up_to_date()

    def _bring_up_to_date(self) -> None:
        """Apply all steps since the last time to the whole matrices, and forget what has left."""
        y, u, v = (kept[:, : self._n] for kept in (self._y, self._u, self._v))
        self._inverse.baddbmm_(y.mH, y, alpha=-1)
        self._products.baddbmm_(u.mH, v, alpha=-1).baddbmm_(v.mH, u, alpha=-1)
        stays = self._is_here.repeat_interleave(self._t).nonzero().squeeze(1).to(self._inverse.device)
        self._inverse = self._inverse[:, stays[:, None], stays]
        self._products = self._products[:, stays[:, None], stays]
        self._channels = self._channels[self._is_here]
        self._start()

    def _start(self) -> None:
        """Take the blocks on the diagonal from the matrices; no step is pending."""
        blocks, features = self._inverse.shape[:2]
        self._is_here = torch.ones(len(self._channels), dtype=torch.bool)
        self._their_inverses, self._their_products = (
            matrix.reshape(blocks, features // self._t, self._t, features // self._t, self._t)
            .diagonal(dim1=1, dim2=3)
            .permute(0, 3, 1, 2)
            .clone()
            for matrix in (self._inverse, self._products)
        )
        room = max(BLOCK // self._t, 1) * self._t
        self._y, self._u, self._v = (self._inverse.new_zeros(blocks, room, features) for _ in range(3))
        self._n = 0

    def _in_channels(self, rows: Tensor) -> Tensor:
        """View (blocks, t, f) rows as (blocks, channels, t, t of a channel)."""
        return rows.reshape(rows.shape[0], rows.shape[1], -1, self._t).transpose(1, 2)


def _root(blocks: Tensor) -> Tensor:
    """Return (blocks, t, t) lower factors, by as little more on the diagonal as it takes after rounding."""
    size = blocks.diagonal(dim1=1, dim2=2).abs().mean(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    more = torch.diag_embed(size[:, None].expand(-1, blocks.shape[1]))
    factor, info = torch.linalg.cholesky_ex(blocks)
    share = torch.finfo(torch.float64).eps
    while info.any() and share < 1:
        share *= 10
        factor, info = torch.linalg.cholesky_ex(blocks + share * more)
    return factor
