"""Sequential polish of a cut model: each consumer is re-solved on what really arrives at it.

`least_squares` solves every consumer as if everything before it were still dense. Here the consumers are taken in
execution order; with ``x`` the input of a consumer in the dense model and ``x'`` in the cut one, whose earlier layers
are polished already, the weights ``V`` of the cut consumer become the minimizer of

    E ||t - V x'||^2 + damping ||V - V_0||^2,   that is   V = V_0 + (C - V_0 B) (B + damping I)^-1,      (1)

``C = E t x'^H`` and ``B = E x' x'^H``, where ``t = W x`` is what the dense consumer computes. So errors made upstream
are undone as well. A consumer that is added to a residual stream also makes up for what the stream ``s'`` has lost
against the dense ``s``: it aims at the sum (He, Zhang, Sun 2017, section 3.2, with the batch norm in between),

    t = W x + (s - s') / a,        a = gamma / sigma of the batch norm behind the consumer, 1 without one,      (2)

and the batch norm is set to pass the solution on at the scale ``a``. As in `least_squares` the penalty shrinks towards
the weights that were there: no consumer gets worse on the calibration data.

Where nothing but a rectifier reads what the consumer (or its sum) gives, outputs that it sets to zero in the dense
model need not be met, only to stay where it sets them to zero. So the goal follows the output there, in a few steps
from the solution of (1): with ``z`` the output at which the rectifier opens,

    t <- t where it is open for t, min(V x', z) elsewhere,                                              (3)

and (1) again, whose factorisation is there already. Every step lowers the error behind the rectifier, or keeps it
(majorize and minimize; the aim is that of Zhang, Zou, He, Sun 2015, arXiv 1505.06798, section 2.2).

The damping is that of `least_squares` where items abound. Few items of many features (a last layer sees one row of an
item) say more about themselves than about others; so weights solved on every second batch are tried on the others, and
the damping grows tenfold for as long as that brings these much nearer.

Costs one calibration pass of the dense model, for all models that are cut from it, and one of each cut one, that stops
at every consumer (`Passes`); more where memory is short or a layer runs several times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.core.groups import BoolArray, Structure
from autoprune.reconstruct.consumers import Consumer
from autoprune.reconstruct.goals import DenseTargets, Goal, Sum
from autoprune.reconstruct.least_squares import factorised, from_features, to_features
from autoprune.reconstruct.norms import Batches, MovedNorms
from autoprune.reconstruct.passes import Passes, Seen
from autoprune.reconstruct.statistics import ROWS_PER_BATCH, products
from autoprune.surgery.forward import evaluating
from autoprune.surgery.precision import double

N_STEPS = 3
"""Steps of equation (3); more of them change little."""

MORE_DAMPING = (1.0, 10.0, 100.0, 1e3, 1e4, 1e6)
"""Multiples of the usual damping that a consumer may get."""

ENOUGH = 0.5
"""A consumer gets the least damping with which held-out items gain at least this share of what they can gain.

The weights to start from were solved on these items, so that their half of any change looks worse than it is.
"""

ITEMS_PER_FEATURE = 4
"""Where a consumer sees so many items for each of its inputs, the usual damping is right."""

MAX_BYTES = 2**30
"""Memory for what the dense consumers compute, and as much for the activations of the cut model."""

N_ROWS = 40 * 1024
"""Positions per consumer of all batches together, but no more of one than for second moments, nor less than 1024."""


class Polisher:
    """Polishes models that are cut from one dense model, which runs over the batches once for all of them.

    Args:
        dense: the model that is cut; unchanged.
        structure: the traced structure of the model; gives the execution order.
        consumers: result of `find_consumers`.
        batches: batches of inputs, augmented like training items.
        by_difference: whether the statistics of the batch norms become the dense model's, moved by what the cut
            changes (`MovedNorms`), rather than being left for the caller to take from calibration items. Right as
            well for items that differ from what the dense model was trained on.
        seed: seed for the positions that are sampled in large feature maps.
        max_bytes: memory for what the dense consumers compute, and as much for the activations of the cut model; where
            it does not suffice, parts of the models run several times.
    """

    def __init__(
        self,
        dense: nn.Module,
        structure: Structure,
        consumers: Sequence[Consumer],
        batches: Batches,
        *,
        by_difference: bool = False,
        seed: int = 0,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._dense = dense
        self._structure = structure
        self._batches = batches
        self._seed = seed
        self._max_rows = min(ROWS_PER_BATCH, max(1024, N_ROWS // len(batches)))
        self._max_bytes = max_bytes
        with torch.no_grad(), evaluating(dense):
            self._targets = DenseTargets(
                dense,
                structure,
                consumers,
                batches,
                by_difference=by_difference,
                seed=seed,
                max_rows=self._max_rows,
                max_bytes=max_bytes,
            )

    @property
    def n_bytes(self) -> int:
        """Memory for what is remembered from one cut model to the next."""
        return self._targets.n_bytes

    @torch.no_grad()
    def __call__(self, pruned: nn.Module, kept: BoolArray) -> None:
        """Re-solve the consumers of ``pruned`` one after the other, in place.

        Its BatchNorm statistics are left for the caller to recalibrate, unless they are set by difference.

        Args:
            pruned: the cut model.
            kept: (n_genes,) boolean array, what it still has.
        """
        targets = self._targets
        norms = MovedNorms(targets.norms, self._structure, kept) if targets.norms else None
        with evaluating(self._dense), _as_calibrated(pruned, by_difference=norms is not None):
            goals = targets.goals(kept)
            passes = Passes(
                pruned,
                goals,
                self._batches,
                seed=self._seed,
                max_rows=self._max_rows,
                norms=norms,
                max_bytes=self._max_bytes,
            )
            try:
                for consumer in [consumer for consumer in targets.consumers if consumer.module in goals]:
                    goal = goals[consumer.module]
                    found = None
                    if goal.n_calls:
                        targets.fill(goal, consumer)
                        found = passes.moments(consumer)
                    del goals[consumer.module]
                    if found is not None:
                        _solve(pruned, consumer, goal, found, norms)
                if norms:
                    targets.finish()
                    passes.finish()
                    norms.settle(pruned)
            finally:
                passes.close()


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
    """Polish one cut model, in place; see `Polisher`."""
    polisher = Polisher(
        dense, structure, consumers, batches, by_difference=by_difference, seed=seed, max_bytes=max_bytes
    )
    polisher(pruned, kept)


def _solve(pruned: nn.Module, consumer: Consumer, goal: Goal, seen: Seen, norms: MovedNorms | None) -> None:
    """Apply equation (1) to the weight, to the bias that takes the constant, and to the batch norm of equation (2)."""
    cross, mean_goal = _centred(seen.cross, seen.own, goal)
    mean_own, own = seen.own[:, :-1, -1], _covariance(seen.own, goal)
    weight = pruned.get_parameter(consumer.weight)
    layout = to_features(weight, consumer)
    now = double(layout.flatten(1, 2) if consumer.shared_taps else layout)
    factor = factorised(own, _damping_times(seen, goal, now))
    if factor is None:
        return  # no numbers: keep what was there
    residual = cross - torch.bmm(now, own)
    solved = now + torch.cholesky_solve(residual.mH, factor).mH
    if goal.gate and seen.rows:
        for _ in range(N_STEPS):
            cross, mean_goal = _centred(_rectified(goal, goal.gate, seen, solved, mean_goal), seen.own, goal)
            residual = cross - torch.bmm(now, own)
            solved = now + torch.cholesky_solve(residual.mH, factor).mH
    weight.copy_(from_features(solved.reshape(layout.shape), weight, consumer))
    if consumer.takes_constant:
        shift = mean_goal - torch.einsum("bof,bf->bo", solved, mean_own)
        module: Any = pruned.get_submodule(consumer.module)
        module.bias.copy_(goal.bias + shift.flatten())
    way = goal.sum or goal.gate
    if way and way.norm:
        norm: Any = pruned.get_submodule(way.norm)
        variance = torch.einsum("bof,bfg,bog->bo", solved, own, solved).flatten()
        mean = mean_goal.flatten() + goal.bias
        if norms:
            missing, variance = norms.expected(way.norm, variance)
            mean = mean + missing
        norm.weight.copy_(way.scale * (variance + norm.eps).sqrt())
        norm.bias.copy_(way.offset + way.scale * mean)


def _damping_times(seen: Seen, goal: Goal, now: Tensor) -> float:
    """Return how much more damping than usual serves items that were not solved for.

    Weights that are solved on every second batch are tried on the others, and the other way round: few items of many
    features (the last layer sees one row an item) say more about themselves than about others.

    Args:
        seen: rows that the consumer sees, summed up.
        goal: see `Goal`.
        now: (blocks, o, k) its weights.
    """
    if seen.n_items >= ITEMS_PER_FEATURE * now.shape[2]:
        return MORE_DAMPING[0]
    halves = []
    for cross, own in seen.halves:
        gram = _covariance(own, goal)
        halves.append((gram, _centred(cross, own, goal)[0] - torch.bmm(now, gram)))
    found: list[float] = []
    for more in MORE_DAMPING:
        error = 0.0  # on the other half, above that of the weights as they are
        for (gram, residual), (other, missing) in zip(halves, halves[::-1], strict=True):
            factor = factorised(gram, more)
            if factor is None:
                return MORE_DAMPING[0]
            change = torch.cholesky_solve(residual.mH, factor).mH
            energy = (torch.bmm(now, other) * now.conj()).real.sum(2).clamp_min(torch.finfo(torch.float32).tiny)
            gained = (torch.bmm(change, other) - 2 * missing) * change.conj()
            error += float((gained.real.sum(2) / energy).sum())
        if found and not error < found[-1]:
            break
        found.append(error)
    enough = max(found[-1], ENOUGH * found[-1])
    pairs = zip(MORE_DAMPING, found, strict=False)
    return next((more for more, error in pairs if error <= enough), MORE_DAMPING[0])  # no numbers: as usual


def _covariance(own: Tensor, goal: Goal) -> Tensor:
    """Return the (blocks, k, k) products of features, about their means where these are absorbed."""
    mean = own[:, :-1, -1]
    gram = own[:, :-1, :-1]
    return gram - mean.unsqueeze(2) * mean.unsqueeze(1).conj() if goal.absorbs_constant else gram


def _centred(cross: Tensor, own: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
    """Return the (blocks, o, k) products, about the means where these are absorbed, and the (blocks, o) mean goals."""
    mean_goal = cross[:, :, -1]
    if not goal.absorbs_constant:
        return cross[:, :, :-1], mean_goal
    return cross[:, :, :-1] - mean_goal.unsqueeze(2) * own[:, -1, :-1].unsqueeze(1), mean_goal


def _rectified(goal: Goal, gate: Sum, seen: Seen, solved: Tensor, mean_goal: Tensor) -> Tensor:
    """Return the products of equation (3): of goals that follow the output where the rectifier gives zero anyway.

    Args:
        goal: see `Goal`.
        gate: the sum before the rectifier.
        seen: the rows that the consumer sees.
        solved: (blocks, o, k) its latest weights.
        mean_goal: (blocks, o) mean output that comes with them, where means are absorbed.
    """
    weights = solved.transpose(1, 2).float()
    constant = torch.zeros_like(mean_goal)
    if goal.absorbs_constant:
        constant = mean_goal - torch.einsum("bof,bf->bo", solved, seen.own[:, -1, :-1])
    constant = constant.float().unsqueeze(1)
    edge = goal.in_blocks((-gate.offset * gate.inverse - goal.bias)[None])
    upward, counts = (goal.in_blocks(flags[None]) for flags in (gate.scale > 0, gate.inverse != 0))
    all_upward = bool((gate.scale > 0).all())
    total, n_rows = torch.zeros_like(seen.cross), 0
    for aim, features, stream in seen.rows:
        zero = edge if stream is None else edge - stream
        output = torch.bmm(features[:, :, :-1], weights) + constant
        closed, follows = aim < zero, torch.minimum(output, zero)
        if not all_upward:
            closed = torch.where(upward, closed, aim > zero)
            follows = torch.where(upward, follows, torch.maximum(output, zero))
        total += products(torch.where(closed & counts, follows, aim), features)
        n_rows += features.shape[1]
    return total / n_rows


@contextmanager
def _as_calibrated(pruned: nn.Module, *, by_difference: bool) -> Iterator[None]:
    """Put a cut model in evaluation mode, but for the batch norms that use the statistics of each batch."""
    with evaluating(pruned):
        for module in pruned.modules():
            if isinstance(module, _BatchNorm) and not by_difference:
                module.train()
        yield
