"""Differentiable rank pruning: how likely each channel stays when a group keeps a given share of its channels.

Ning et al., "DSA: More efficient budgeted pruning via differentiable sparsity allocation" (ECCV 2020). A channel of
importance ``b`` stays with probability ``1 / (1 + (b / beta1)^(-beta2))``. The soft threshold ``beta1`` follows from
the keep ratio: the probabilities of a group must have it for their mean. The sharpness ``beta2`` says how close that is
to cutting at a hard threshold. The released code finds one root per group and adds a floor of 0.01 to the
probabilities; here all groups are bisected at once, and there is no floor, so that the mean is exact.

Letters: ``g`` groups, ``w`` channels of the widest group; narrower groups are padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.core.bisection import bisect
from autoprune.core.groups import FloatArray
from autoprune.errors import InvalidArgumentError

BISECTIONS = 60
"""Halvings of the bracket, which is at most a few tens wide: the threshold is then exact in float64."""

LARGEST_RATIO = 1 - 1e-9
"""Ratios are cut off here: the threshold of a ratio of 1 lies at minus infinity."""

SMALLEST_RATIO = 1e-12
"""And here at the other end: a group that may vanish has ratios down to 0."""

SMALLEST_IMPORTANCE = 1e-12
"""Importance relative to the mean of the group from which on a channel counts as dead."""


def keep_probabilities(keep_ratios: Tensor, log_importance: Tensor, sharpness: float) -> Tensor:
    """Return the probability that each channel stays; differentiable in the keep ratios.

    The gradient comes from the condition that the probabilities average to the ratio (implicit function theorem):
    ``dp_c / dratio = w p_c (1 - p_c) / sum_k p_k (1 - p_k)``. Only channels near the threshold pass it on.

    Args:
        keep_ratios: (g,) float64 in 0..1.
        log_importance: (g, w) float64, minus infinity where there is no channel.
        sharpness: ``beta2``, positive.

    Returns:
        (g, w) float64, 0 where there is no channel.

    Raises:
        InvalidArgumentError: the sharpness is not positive.
    """
    if not sharpness > 0:
        msg = f"expected a positive sharpness, got {sharpness!r}"
        raise InvalidArgumentError(msg)
    found: Tensor = _KeepProbabilities.apply(keep_ratios, log_importance, sharpness)
    return found


def soft_thresholds(keep_ratios: Tensor, log_importance: Tensor, sharpness: float) -> Tensor:
    """Return the (g,) logarithms of ``beta1`` at which the probabilities of each group average to its keep ratio.

    Arguments as of `keep_probabilities`.
    """
    is_channel = log_importance.isfinite()
    n_channels = is_channel.sum(dim=1)
    ratios = keep_ratios.clamp(SMALLEST_RATIO, LARGEST_RATIO)
    # With all channels as important as the least (the most), the ratio would be met exactly here: a tight bracket.
    offset = torch.logit(ratios) / sharpness
    low = log_importance.masked_fill(~is_channel, torch.inf).amin(dim=1) - offset
    high = log_importance.amax(dim=1) - offset

    def keeps_too_many(thresholds: Tensor) -> Tensor:
        mean = torch.sigmoid(sharpness * (log_importance - thresholds[:, None])).sum(dim=1) / n_channels
        return mean > ratios

    low, high = bisect(keeps_too_many, low, high, BISECTIONS, torch.where)
    return (low + high) / 2


def draw_masks(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw a Bernoulli mask per channel; its gradient passes to the probabilities as if the mask were one of them.

    The likeliest channel of every group always stays, since no network survives a group without channels.

    Args:
        probabilities: (g, w) of `keep_probabilities`.
        generator: generator that draws, on the device of the probabilities; None for torch's own.

    Returns:
        (g, w) of zeros and ones.
    """
    noise = torch.rand(probabilities.shape, generator=generator, dtype=probabilities.dtype, device=probabilities.device)
    masks = (noise < probabilities).to(probabilities.dtype)
    likeliest = probabilities.argmax(dim=1, keepdim=True)
    masks = masks.scatter(1, likeliest, 1.0)
    return masks + (probabilities - probabilities.detach())


def padded_log_importance(importance: Sequence[FloatArray]) -> Tensor:
    """Return the (g, w) float64 logarithms of the importance of every channel, minus infinity where there is none.

    Args:
        importance: per group a (w,) array of numbers of any scale, at least one of them not negative; a negative one
            marks a channel that is not there.
    """
    widest = max(len(values) for values in importance)
    padded = np.full((len(importance), widest), -np.inf)
    for row, values in zip(padded, importance, strict=True):
        present = np.flatnonzero(values >= 0)
        largest = values[present].max()
        relative = values[present] / largest if largest > 0 else np.ones(len(present))
        relative /= relative.mean()  # of numbers up to 1: the mean of the smallest ones there are would round to 0
        row[present] = np.log(np.maximum(relative, SMALLEST_IMPORTANCE))
    return torch.from_numpy(padded)


class _KeepProbabilities(torch.autograd.Function):
    """The probabilities, with the gradient of the implicit function that the mean condition defines."""

    @staticmethod
    def forward(ctx: Any, keep_ratios: Tensor, log_importance: Tensor, sharpness: float) -> Tensor:
        thresholds = soft_thresholds(keep_ratios, log_importance, sharpness)
        exponents = sharpness * (log_importance - thresholds[:, None])
        ctx.save_for_backward(exponents)
        return torch.sigmoid(exponents)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (exponents,) = ctx.saved_tensors
        is_channel = exponents.isfinite()
        # p (1 - p) underflows where the mask is nearly hard; its logarithm does not.
        finite = exponents.masked_fill(~is_channel, 0.0)
        logs = (F.logsigmoid(finite) + F.logsigmoid(-finite)).masked_fill(~is_channel, -torch.inf)
        weights = torch.softmax(logs, dim=1) * is_channel.sum(dim=1, keepdim=True)
        return (gradients[0] * weights).sum(dim=1), None, None
