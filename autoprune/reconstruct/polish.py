"""Sequential polish of a cut model: each consumer is re-solved on what really arrives at it.

`least_squares` solves every consumer as if everything before it were still dense. Here the consumers are taken in
execution order; with ``x`` the input of a consumer in the dense model and ``x'`` in the cut one, whose earlier layers
are polished already, the weights ``V`` of the cut consumer become the minimizer of

    E ||t - V x'||^2 + damping ||V - V_0||^2,   that is   V = V_0 + (C - V_0 B) (B + damping I)^-1,      (1)

``C = E t x'^T`` and ``B = E x' x'^T``, where ``t = W x`` is what the dense consumer computes. So errors made upstream
are undone as well. A consumer that is added to a residual stream also makes up for what the stream ``s'`` has lost
against the dense ``s``: it aims at the sum (He, Zhang, Sun 2017, section 3.2, with the batch norm in between),

    t = W x + (s - s') / a,        a = gamma / sigma of the batch norm behind the consumer, 1 without one,      (2)

and the batch norm is set to pass the solution on at the scale ``a``. As in `least_squares` the penalty shrinks towards
the weights that were there: no consumer gets worse on the calibration data.

Costs one calibration pass of the dense model and one of the cut one, that stops at every consumer (`Passes`); more
where memory is short or a layer runs several times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.core.groups import BoolArray, Structure
from autoprune.reconstruct.consumers import Consumer
from autoprune.reconstruct.goals import Batches, DenseNorms, Goal, find_goals, watch_dense
from autoprune.reconstruct.least_squares import factorised, from_features, to_features
from autoprune.reconstruct.passes import Passes
from autoprune.reconstruct.statistics import ROWS_PER_BATCH

MAX_BYTES = 2**30
"""Memory for what the dense consumers compute, and as much for the activations of the cut model."""

N_ROWS = 40 * 1024
"""Positions per consumer of all batches together, but no more of one than for second moments, nor less than 1024."""


@torch.no_grad()
def polish(
    dense: nn.Module,
    pruned: nn.Module,
    structure: Structure,
    kept: BoolArray,
    consumers: Sequence[Consumer],
    batches: Batches,
    *,
    by_difference: bool = False,
    seed: int = 0,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Re-solve the consumers of ``pruned`` one after the other, in place.

    Its BatchNorm statistics are left for the caller to recalibrate, unless they are set ``by_difference``.

    Args:
        dense: the model that was cut; unchanged.
        pruned: the cut model.
        structure: the structure traced from ``dense``; gives the execution order.
        kept: (n_genes,) boolean array, what ``pruned`` still has.
        consumers: result of `find_consumers`.
        batches: batches of inputs, augmented like training items.
        by_difference: whether the statistics of the batch norms become the dense model's, moved by what the cut
            changes (`DenseNorms`), rather than being left for the caller to take from calibration items. Right as
            well for items that differ from what the dense model was trained on.
        seed: seed for the positions that are sampled in large feature maps.
        max_bytes: memory for what the dense consumers compute, and as much for the activations of the cut model; where
            it does not suffice, parts of the models run several times.
    """
    turns = {operator.module: turn for turn, operator in reversed(list(enumerate(structure.operators)))}
    max_rows = min(ROWS_PER_BATCH, max(1024, N_ROWS // len(batches)))
    left = sorted(consumers, key=lambda consumer: turns.get(consumer.module, len(turns)))
    with _as_calibrated(dense, pruned, by_difference=by_difference):
        goals = find_goals(dense, structure, kept, consumers, batches)
        norms = DenseNorms(dense, structure, kept) if by_difference else None
        passes = Passes(pruned, goals, batches, seed=seed, max_rows=max_rows, norms=norms, max_bytes=max_bytes)
        try:
            while left:
                sizes = [goals[consumer.module].weight.shape[:2].numel() for consumer in left]
                fitting = np.cumsum(sizes) * 4 * max_rows * len(batches) <= max_bytes
                chunk, left = left[: max(1, fitting.sum())], left[max(1, fitting.sum()) :]
                watch_dense(dense, chunk, goals, batches, seed=seed, max_rows=max_rows, norms=norms)
                for consumer in chunk:
                    found = passes.moments(consumer) if goals[consumer.module].n_calls else None
                    goal = goals.pop(consumer.module)
                    if found is not None:
                        _solve(pruned, consumer, goal, *found, norms)
            if norms:
                watch_dense(dense, (), goals, batches, seed=seed, max_rows=max_rows, norms=norms)
                passes.finish()
                norms.settle(pruned)
        finally:
            passes.close()


def _solve(
    pruned: nn.Module, consumer: Consumer, goal: Goal, cross: Tensor, own: Tensor, norms: DenseNorms | None
) -> None:
    """Apply equation (1) to the weight, to the bias that takes the constant, and to the batch norm of equation (2)."""
    mean_goal, mean_own = cross[:, :, -1], own[:, -1, :-1]
    cross, own = cross[:, :, :-1], own[:, :-1, :-1]
    if goal.absorbs_constant:
        cross = cross - mean_goal.unsqueeze(2) * mean_own.unsqueeze(1)
        own = own - mean_own.unsqueeze(2) * mean_own.unsqueeze(1)
    weight = pruned.get_parameter(consumer.weight)
    layout = to_features(weight, consumer)
    now = (layout.flatten(1, 2) if consumer.shared_taps else layout).double()
    factor = factorised(own)
    if factor is None:
        return  # no numbers: keep what was there
    residual = cross - torch.bmm(now, own)
    solved = now + torch.cholesky_solve(residual.transpose(1, 2), factor).transpose(1, 2)
    weight.copy_(from_features(solved.reshape(layout.shape), weight, consumer))
    if consumer.takes_constant:
        shift = mean_goal - torch.einsum("bof,bf->bo", solved, mean_own)
        module: Any = pruned.get_submodule(consumer.module)
        module.bias.copy_(goal.bias + shift.flatten())
    if goal.sum and goal.sum.norm:
        norm: Any = pruned.get_submodule(goal.sum.norm)
        variance = torch.einsum("bof,bfg,bog->bo", solved, own, solved).flatten()
        mean = mean_goal.flatten() + goal.bias
        if norms:
            missing, variance = norms.expected(goal.sum.norm, variance)
            mean = mean + missing
        norm.weight.copy_(goal.sum.scale * (variance + norm.eps).sqrt())
        norm.bias.copy_(goal.sum.offset + goal.sum.scale * mean)


@contextmanager
def _as_calibrated(dense: nn.Module, pruned: nn.Module, *, by_difference: bool) -> Iterator[None]:
    """Put both models in eval mode, but for the batch norms of ``pruned`` that use the statistics of each batch."""
    flags = [(module, module.training) for model in (dense, pruned) for module in model.modules()]
    dense.eval()
    pruned.eval()
    for module in pruned.modules():
        if isinstance(module, _BatchNorm) and not by_difference:
            module.train()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
