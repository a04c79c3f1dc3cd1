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
the weights that were there: no consumer gets worse on the calibration data. Costs one calibration pass of the dense
model and, for every consumer, one of the cut model up to it: for chosen points, not for every candidate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.core.groups import BoolArray, Structure
from autoprune.reconstruct.consumers import Consumer
from autoprune.reconstruct.following import OutputFollower
from autoprune.reconstruct.least_squares import factorised, from_features, to_features
from autoprune.reconstruct.statistics import ROWS_PER_BATCH, FeatureReader, products
from autoprune.surgery.forward import forward

MAX_BYTES = 2**30
"""Memory for what the dense consumers compute; where it does not suffice, the dense model runs several times."""

_NO_SCALE = 1e-6
"""Channels that a batch norm scales by less than this share of its largest scale are left out of equation (2)."""


class Batches(Protocol):
    """Pairs of inputs and targets, the same ones whenever they are iterated. Targets are not looked at."""

    def __len__(self) -> int:
        """Return the number of batches."""
        ...

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yield the batches."""
        ...


class _Reached(Exception):  # noqa: N818  no error: what is left of a forward pass is not needed
    pass


@dataclass(frozen=True, eq=False)
class _Sum:
    """What stands between a consumer's output and the sum that it is a term of: nothing, or a batch norm.

    Attributes:
        outputs: (o,) channels of the dense stream that the cut one has, too.
        scale: (o,) ``a``.
        offset: (o,) what the batch norm adds to ``a y``.
        norm: name of the batch norm, "" for nothing.
    """

    outputs: Tensor
    scale: Tensor
    offset: Tensor
    norm: str

    def before(self, stream: Tensor) -> Tensor:
        """Return (rows, o) values of the stream in units of the consumer's output."""
        small = self.scale.abs() <= _NO_SCALE * self.scale.abs().max()
        return stream * torch.where(small, 0.0, 1 / self.scale)


@dataclass(eq=False)
class _Goal:
    """What a consumer is to compute.

    Attributes:
        weight: (blocks, o, f) of the dense consumer, for the outputs that stay; all taps in o where they are shared.
        bias: (o,) of the same outputs, zeros without one.
        absorbs_constant: see `Moments`.
        sum: of equation (2), None for equation (1) alone.
        rows: (blocks, rows, o) of every call, in their order: ``t``, but for the cut stream's part. Filled while the
            dense model runs, used up while the cut one does; empty for a consumer that never runs.
    """

    weight: Tensor
    bias: Tensor
    absorbs_constant: bool
    sum: _Sum | None
    rows: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def polish(
    dense: nn.Module,
    pruned: nn.Module,
    structure: Structure,
    kept: BoolArray,
    consumers: Sequence[Consumer],
    batches: Batches,
    *,
    seed: int = 0,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Re-solve the consumers of ``pruned`` one after the other, in place.

    Its BatchNorm statistics are left for the caller to recalibrate; meanwhile its batch norms use the statistics of
    each batch, so that a solved layer is seen as it will be recalibrated.

    Args:
        dense: the model that was cut; unchanged.
        pruned: the cut model.
        structure: what the trace of ``dense`` found; gives the execution order.
        kept: (n_genes,) boolean array, what ``pruned`` still has.
        consumers: from `find_consumers`.
        batches: of inputs augmented like training items.
        seed: of the positions that are sampled in large feature maps.
        max_bytes: memory for what the dense consumers compute.
    """
    turns = {operator.module: turn for turn, operator in reversed(list(enumerate(structure.operators)))}
    left = sorted(consumers, key=lambda consumer: turns.get(consumer.module, len(turns)))
    with _as_calibrated(dense, pruned):
        goals = _goals(dense, structure, kept, consumers, batches)
        while left:
            sizes = [goals[consumer.module].weight.shape[:2].numel() for consumer in left]
            fitting = np.cumsum(sizes) * 4 * ROWS_PER_BATCH * len(batches) <= max_bytes
            chunk, left = left[: max(1, fitting.sum())], left[max(1, fitting.sum()) :]
            _watch_dense(dense, chunk, goals, batches, seed)
            for consumer in chunk:
                goal = goals.pop(consumer.module)
                if goal.rows:
                    cross, own = _moments(pruned, consumer, goal, batches, seed)
                    _solve(pruned, consumer, goal, cross, own)


def _goals(
    dense: nn.Module, structure: Structure, kept: BoolArray, consumers: Sequence[Consumer], batches: Batches
) -> dict[str, _Goal]:
    """See on one batch where the consumers' outputs go; the rows are missing yet."""
    with OutputFollower(dense, [consumer.module for consumer in consumers], lambda *_: None) as follower:
        forward(dense, next(iter(batches))[0])
    joining = follower.joining()
    taken = Counter(follower.norms.values())
    goals = {}
    for consumer in consumers:
        weight: Tensor = dense.get_parameter(consumer.weight)
        outputs = torch.arange(weight.shape[1 if consumer.axis.dim == 0 else 0], device=weight.device)
        for axis in structure.axes_of[consumer.weight]:
            if axis.key != consumer.axis.key:
                outputs = torch.from_numpy(structure.kept_positions(axis, kept)).to(weight.device)
                weight = weight.index_select(axis.dim, outputs)
        module: Any = dense.get_submodule(consumer.module)
        bias = module.bias[outputs] if consumer.has_bias else weight.new_zeros(len(outputs))
        features = to_features(weight, consumer)
        norm = follower.norms.get(consumer.module, "")
        joins = consumer.module in joining and taken[norm] <= 1 and not consumer.shared_taps
        goals[consumer.module] = _Goal(
            features.flatten(1, 2) if consumer.shared_taps else features,
            bias,
            bool(consumer.takes_constant or norm),
            _sum(dense, norm, outputs) if joins else None,
        )
    return goals


def _sum(dense: nn.Module, norm: str, outputs: Tensor) -> _Sum | None:
    """Return the way to a sum, None where a batch norm cannot pass on what is asked of it."""
    if not norm:
        plain = torch.zeros(len(outputs), device=outputs.device)
        return _Sum(outputs, plain + 1, plain, "")
    layer: Any = dense.get_submodule(norm)
    if layer.weight is None or layer.running_var is None:
        return None
    scale = layer.weight / (layer.running_var + layer.eps).sqrt()
    offset = layer.bias - layer.running_mean * scale
    return _Sum(outputs, scale[outputs], offset[outputs], norm)


def _watch_dense(
    dense: nn.Module, consumers: Sequence[Consumer], goals: Mapping[str, _Goal], batches: Batches, seed: int
) -> None:
    """Fill in the rows of the goals."""
    readers = {
        consumer.module: FeatureReader(consumer, dense.get_submodule(consumer.module), seed) for consumer in consumers
    }

    def on_call(name: str, x: Tensor, _: Tensor) -> None:
        goals[name].rows.append(torch.bmm(readers[name](x)[:, :, :-1], goals[name].weight.float().transpose(1, 2)))

    def on_sum(name: str, other: Tensor) -> None:
        goal = goals[name]
        if goal.sum:
            stream = readers[name].outputs(other)[:, goal.sum.outputs]
            goal.rows[-1] += _in_blocks(goal.sum.before(stream), goal)

    with OutputFollower(dense, list(readers), on_call, on_sum):
        for inputs, _ in batches:
            forward(dense, inputs)


def _moments(pruned: nn.Module, consumer: Consumer, goal: _Goal, batches: Batches, seed: int) -> tuple[Tensor, Tensor]:
    """Return the (blocks, o, k + 1) means of ``t x'^T`` and (blocks, k + 1, k + 1) means of ``x' x'^T``."""
    reader = FeatureReader(consumer, pruned.get_submodule(consumer.module), seed)
    calls_per_batch = len(goal.rows) // len(batches)
    seen: list[Tensor] = []
    cross = own = torch.zeros(())
    n_rows = 0

    def on_call(_: str, x: Tensor, __: Tensor) -> None:
        seen.append(reader(x))
        if not goal.sum:
            add(goal.rows.pop(0))

    def on_sum(_: str, other: Tensor) -> None:
        if goal.sum:
            add(goal.rows.pop(0) - _in_blocks(goal.sum.before(reader.outputs(other)), goal))

    def add(target: Tensor) -> None:
        nonlocal cross, own, n_rows
        x = seen[-1]
        cross = cross + products(target, x)
        own = own + products(x, x)
        n_rows += x.shape[1]
        if len(seen) == calls_per_batch:
            raise _Reached

    with OutputFollower(pruned, [consumer.module], on_call, on_sum):
        for inputs, _ in batches:
            seen.clear()
            with suppress(_Reached):
                forward(pruned, inputs)
    return cross / n_rows, own / n_rows


def _solve(pruned: nn.Module, consumer: Consumer, goal: _Goal, cross: Tensor, own: Tensor) -> None:
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
        norm.weight.copy_(goal.sum.scale * (variance + norm.eps).sqrt())
        norm.bias.copy_(goal.sum.offset + goal.sum.scale * (mean_goal.flatten() + goal.bias))


def _in_blocks(rows: Tensor, goal: _Goal) -> Tensor:
    """View (rows, o) as (blocks, rows, o of a block)."""
    return rows.reshape(len(rows), len(goal.weight), -1).transpose(0, 1)


@contextmanager
def _as_calibrated(dense: nn.Module, pruned: nn.Module) -> Iterator[None]:
    """Put both models in eval mode, but for the batch norms of ``pruned``."""
    flags = [(module, module.training) for model in (dense, pruned) for module in model.modules()]
    dense.eval()
    pruned.eval()
    for module in pruned.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
