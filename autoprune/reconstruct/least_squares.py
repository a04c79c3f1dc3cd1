"""The best weights on the inputs that stay, in closed form.

Removing input features ``R`` of a consumer ``W`` leaves the features ``K``. With ``G`` the second moment of the inputs
we minimise, over the new weights ``V`` on ``K``,

    E ||W x - V x_K||^2 + damping ||V - W_K||^2,      damping = 1e-3 mean diag G_KK

whose optimum is

    V = W_K + W_R G_RK (G_KK + damping I)^-1.                                                     (1)

Complex weights and features alike, with ``G = E x x^H``.

Shrinking towards the weights that were there, rather than towards zero, costs nothing and gives two laws by
construction: nothing removed changes nothing, bit for bit; and the calibration error of ``V`` never exceeds that of the
plain ``W_K``, because ``W_K`` is feasible and pays no penalty. Where the model absorbs a constant, ``G`` is centred and
the constant follows as the difference of the means.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from autoprune.core.groups import BoolArray
from autoprune.reconstruct.consumers import Consumer
from autoprune.reconstruct.statistics import Moments
from autoprune.surgery.precision import double

DAMPING = 1e-3

_TRIES = 12


def damping(gram: Tensor) -> Tensor:
    """Return the (blocks, f, f) multiple of the identity that keeps (blocks, f, f) second moments invertible."""
    scale = DAMPING * gram.diagonal(dim1=1, dim2=2).abs().mean(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return scale[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)


def factorised(gram: Tensor, times: float = 1.0) -> Tensor | None:
    """Return the lower factor of (blocks, f, f) float64 second moments with `damping`, None where they are no numbers.

    ``times`` as much of it is added.

    Few items leave most directions empty, and rounding (the moments are stored in float32) may turn an empty one
    negative. So the damping grows tenfold until every pivot is at least half of it, as without rounding it would be.
    """
    if not torch.isfinite(gram).all():
        return None
    more = times * damping(gram)
    for _ in range(_TRIES):
        factor, info = torch.linalg.cholesky_ex(gram + more)
        pivots = factor.diagonal(dim1=1, dim2=2).abs().square()
        if not info.any() and bool((pivots >= more.diagonal(dim1=1, dim2=2).abs() / 2).all()):
            return factor
        more = 10 * more
    return None


def solve(weight: Tensor, gram: Tensor, kept: Tensor) -> Tensor:
    """Apply equation (1) to every block.

    Args:
        weight: (blocks, o, f) dense weights.
        gram: (blocks, f, f) float32 second moments; float64 where it matters, in the factorisation.
        kept: (k,) sorted feature indices that stay, the same in every block.

    Returns:
        (blocks, o, k) float64 weights on the kept features.
    """
    weight = double(weight)
    features = weight.shape[2]
    removed = torch.ones(features, dtype=torch.bool, device=weight.device)
    removed[kept] = False
    gone = removed.nonzero().squeeze(1)
    plain = weight[:, :, kept]
    if not len(gone) or not len(kept):
        return plain
    rows = gram[:, kept]
    inner = double(rows[:, :, kept])
    right = torch.bmm(double(rows[:, :, gone]), weight[:, :, gone].mH)  # G_KR W_R^H
    factor = factorised(inner)
    if factor is None:
        return plain  # no numbers: keep what was there
    return plain + torch.cholesky_solve(right, factor).mH


class LeastSquares:
    """Re-solves the consumers that a cut touches, for one set of weights.

    What is best for a consumer depends on which of its inputs stay and on nothing else, and candidates whose channels
    leave in one order keep the same inputs over and over. So the answers are remembered, as many as fit: they are those
    that would be found again.

    Args:
        weights: the dense weights by name.
        consumers: result of `find_consumers`.
        moments: result of `collect`.
        max_bytes: memory for the answers.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        consumers: Sequence[Consumer],
        moments: Mapping[str, Moments],
        *,
        max_bytes: int,
    ) -> None:
        self._weights = weights
        self._consumers = [consumer for consumer in consumers if consumer.weight in moments]
        self._moments = moments
        self._answers: OrderedDict[tuple[str, bytes], dict[str, Tensor]] = OrderedDict()  # the latest used last
        self._room = max_bytes

    def __call__(self, kept: BoolArray) -> dict[str, Tensor]:
        """Solve for a cut.

        Args:
            kept: (n_genes,) boolean array of the channels that stay.

        Returns:
            The new tensors by name: weights (and biases that took a constant) in their *dense* shapes, removed
            positions untouched, so that slicing them afterwards is the only surgery. Tensors that do not change are
            left out. Not to be written to.
        """
        changed: dict[str, Tensor] = {}
        for consumer in self._consumers:
            genes = consumer.axis.genes
            stays = (genes < 0) | kept[genes]
            if not stays.all():
                changed |= self._answer(consumer, stays)
        return changed

    def _answer(self, consumer: Consumer, stays: BoolArray) -> dict[str, Tensor]:
        key = (consumer.weight, np.packbits(stays).tobytes())
        answer = self._answers.pop(key, None)
        if answer is None:
            answer = self._solved(consumer, stays)
            self._room -= _n_bytes(answer)
        self._answers[key] = answer
        while self._room < 0:
            _, oldest = self._answers.popitem(last=False)
            self._room += _n_bytes(oldest)
        return answer

    @torch.no_grad()
    def _solved(self, consumer: Consumer, stays: BoolArray) -> dict[str, Tensor]:
        """Return the weight, and the bias that takes the constant, for the inputs that stay."""
        dense, moments = self._weights[consumer.weight], self._moments[consumer.weight]
        rows = layout = to_features(dense, consumer)
        if consumer.shared_taps:  # every tap of every output is one more row to solve for
            rows = layout.flatten(1, 2)
        stays = np.repeat(stays, 1 if consumer.shared_taps else consumer.taps)
        positions = torch.from_numpy(np.flatnonzero(stays)).to(dense.device)
        solved = solve(rows, moments.gram, positions)
        updated = double(rows).clone()
        updated[:, :, positions] = solved
        answer = {consumer.weight: from_features(updated.reshape(layout.shape), dense, consumer)}
        if consumer.takes_constant:
            bias = self._weights[consumer.weight.removesuffix("weight") + "bias"]
            mean = double(moments.mean)
            shift = torch.einsum("bof,bf->bo", double(rows), mean)
            shift -= torch.einsum("bok,bk->bo", solved, mean[:, positions])
            answer[consumer.weight.removesuffix("weight") + "bias"] = (bias + shift.reshape(-1)).to(bias.dtype)
        return answer


def _n_bytes(answer: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in answer.values())


def to_features(weight: Tensor, consumer: Consumer) -> Tensor:
    """View a weight as (blocks, o, f), or (blocks, o, taps, channels) where taps are shared."""
    if consumer.axis.dim == 0:  # transposed convolution: (in, out, *kernel)
        return weight.flatten(2).permute(1, 2, 0).unsqueeze(0)
    out, taps = weight.shape[0] // consumer.blocks, math.prod(weight.shape[2:])  # there may be no channel to infer from
    if consumer.shared_taps:
        split = weight.reshape(consumer.blocks, out, weight.shape[1], taps)
        return split.transpose(2, 3)
    return weight.reshape(consumer.blocks, out, weight.shape[1] * taps)


def from_features(features: Tensor, like: Tensor, consumer: Consumer) -> Tensor:
    """Undo `to_features`, in the shape and dtype of ``like``."""
    if consumer.axis.dim == 0:
        features = features.squeeze(0).permute(2, 0, 1)
    elif consumer.shared_taps:
        features = features.transpose(2, 3)
    return features.reshape(like.shape).to(like.dtype)
