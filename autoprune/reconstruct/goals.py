"""The target of every consumer of a cut model, read off the dense model's passes over the batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.groups import BoolArray, Structure
from autoprune.reconstruct.consumers import Consumer
from autoprune.reconstruct.following import OutputFollower
from autoprune.reconstruct.least_squares import to_features
from autoprune.reconstruct.norms import Batches, DenseNorms
from autoprune.reconstruct.statistics import FeatureReader
from autoprune.surgery.forward import forward
from autoprune.surgery.precision import single
from autoprune.surgery.slicing import scale_factors, scaled

_NO_SCALE = 1e-6
"""Channels that a batch norm scales by less than this share of its largest scale are left out of equation (2)."""


class _Reached(BaseException):
    """Raised when the rest of a forward pass is not needed: no error, and nothing that a model may catch."""


@dataclass(frozen=True, eq=False)
class Sum:
    """The link between a consumer's output and the sum that it is a term of: direct, or through a batch norm.

    Attributes:
        scale: (o,) ``a``.
        inverse: (o,) of it, 0 where the dense batch norm takes next to nothing.
        offset: (o,) what the batch norm adds to ``a y``.
        norm: name of the batch norm, "" for nothing.
    """

    scale: Tensor
    inverse: Tensor
    offset: Tensor
    norm: str

    def before(self, stream: Tensor) -> Tensor:
        """Return (rows, o) values of the stream in units of the consumer's output."""
        return stream * self.inverse


@dataclass(eq=False)
class Goal:
    """The target of one consumer.

    Attributes:
        weight: (blocks, o, f) of the dense consumer, for the outputs that stay; all taps in o where they are shared.
        outputs: (o,) channels of the dense output that stay.
        bias: (o,) of them, zeros without one.
        factor: (o,) what a cut multiplies the output with, see `Structure.scaled`; in the weight and the bias already.
        shared_taps: see `Consumer`.
        absorbs_constant: see `Moments`.
        sum: the sum of equation (2); None for equation (1) alone.
        gate: the sum before the rectifier of equation (3), the same as ``sum`` if there is one; None for a consumer
            from which anything else reads.
        n_calls: number of times that the consumer runs in a forward pass.
        rows: (blocks, rows, o) tensors of every call, per batch and in order: ``t``, except for the cut stream's part.
            Filled while the dense model runs, used up while the cut one does; empty for a consumer that never runs.
        counts: number of positions of the same calls, sampled or not. Where the cut model has others at a consumer, it
            is given something else: an expert that other tokens are sent to.
    """

    weight: Tensor
    outputs: Tensor
    bias: Tensor
    factor: Tensor
    shared_taps: bool
    absorbs_constant: bool
    sum: Sum | None
    gate: Sum | None
    n_calls: int
    rows: list[list[Tensor]] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)

    def in_blocks(self, rows: Tensor) -> Tensor:
        """View (rows, o) as (blocks, rows, o of a block)."""
        return rows.reshape(len(rows), len(self.weight), -1).transpose(0, 1)

    def of_all(self, rows: Tensor) -> Tensor:
        """Return the rows of this goal from (blocks, rows, o) ones of the same consumer with all its outputs."""
        each = rows.transpose(0, 1)
        taps = self.weight.shape[:2].numel() // len(self.outputs)
        return self.in_blocks(each.reshape(len(each), -1, taps)[:, self.outputs] * self.factor[:, None])


def find_goals(
    dense: nn.Module, structure: Structure, kept: BoolArray, consumers: Sequence[Consumer], batches: Batches
) -> dict[str, Goal]:
    """See on one batch where the consumers' outputs go; the rows are missing yet.

    Returns:
        The goals by the names of the consumers' modules; none of those that have lost all their outputs.
    """
    with OutputFollower(dense, [consumer.module for consumer in consumers], lambda *_: None) as follower:
        forward(dense, next(iter(batches))[0])
    joining, rectified, n_calls = follower.joining(), follower.rectified(), follower.n_calls
    taken = Counter(follower.norms.values())
    factors = scale_factors(structure, kept)
    goals = {}
    for consumer in consumers:
        weight: Tensor = dense.get_parameter(consumer.weight)
        factor = torch.ones(weight.shape[1 if consumer.axis.dim == 0 else 0], device=weight.device)
        outputs = torch.arange(weight.shape[1 if consumer.axis.dim == 0 else 0], device=weight.device)
        for axis in structure.axes_of[consumer.weight]:
            if axis.key in factors:
                factor = torch.from_numpy(factors[axis.key]).to(factor)
            if axis.key != consumer.axis.key:
                outputs = torch.from_numpy(structure.kept_positions(axis, kept)).to(weight.device)
                weight = weight.index_select(axis.dim, outputs)
        if not len(outputs):
            continue
        name = consumer.module
        module: Any = dense.get_submodule(name)
        bias = module.bias[outputs] if consumer.has_bias else weight.new_zeros(len(outputs))
        factor = factor[outputs]
        weight, bias = scaled(weight, 1 if consumer.axis.dim == 0 else 0, factor), bias * factor
        features = to_features(weight, consumer)
        norm = follower.norms.get(name, "")
        owns_norm = not norm or (taken[norm] == 1 and n_calls[norm] == n_calls[name])
        passes_on = owns_norm and not consumer.shared_taps
        way = _sum(dense, norm, outputs) if passes_on and name in joining | rectified else None
        goals[name] = Goal(
            features.flatten(1, 2) if consumer.shared_taps else features,
            outputs,
            bias,
            factor,
            consumer.shared_taps,
            bool(consumer.takes_constant or norm),
            way if name in joining else None,
            way if name in rectified else None,
            n_calls[name],
        )
    return goals


def _sum(dense: nn.Module, norm: str, outputs: Tensor) -> Sum | None:
    """Return the way to a sum, None where a batch norm cannot pass on what is asked of it."""
    if not norm:
        ones = torch.ones(len(outputs), device=outputs.device)
        return Sum(ones, ones, torch.zeros_like(ones), "")
    layer: Any = dense.get_submodule(norm)
    if layer.weight is None or layer.running_var is None:
        return None
    scale = layer.weight / (layer.running_var + layer.eps).sqrt()
    offset = layer.bias - layer.running_mean * scale
    inverse = torch.where(scale.abs() <= _NO_SCALE * scale.abs().max(), 0.0, 1 / scale)
    return Sum(scale[outputs], inverse[outputs], offset[outputs], norm)


def watch_dense(
    dense: nn.Module,
    consumers: Sequence[Consumer],
    goals: Mapping[str, Goal],
    batches: Batches,
    *,
    seed: int,
    max_rows: int,
    norms: DenseNorms | None = None,
    to_the_end: bool = False,
) -> None:
    """Fill in the rows of the goals, and what is missing in ``norms`` of the same part of the model.

    The model runs as far as its last consumer, or to the end.
    """
    readers = {
        consumer.module: FeatureReader(consumer, dense.get_submodule(consumer.module), seed, max_rows)
        for consumer in consumers
    }
    n_left = 0

    def reached() -> None:
        nonlocal n_left
        n_left -= 1
        if not n_left and not to_the_end:
            raise _Reached

    def on_call(name: str, x: Tensor, y: Tensor) -> None:
        goal = goals[name]
        if goal.shared_taps:
            rows = torch.bmm(readers[name](x)[:, :, :-1], single(goal.weight).transpose(1, 2))
        else:
            rows = goal.in_blocks(readers[name].sampled(y)[:, goal.outputs] - goal.bias)
        goal.rows[-1].append(rows)
        goal.counts[-1].append(readers[name].n_rows)
        if not goal.sum:
            reached()

    def on_sum(name: str, other: Tensor) -> None:
        goal = goals[name]
        if goal.sum:
            stream = readers[name].outputs(other)[:, goal.outputs]
            goal.rows[-1][-1] += goal.in_blocks(goal.sum.before(stream))
            reached()

    with OutputFollower(dense, list(readers), on_call, on_sum), norms or ExitStack():
        for inputs, _ in batches:
            n_left = sum(goals[name].n_calls for name in readers)
            for name in readers:
                goals[name].rows.append([])
                goals[name].counts.append([])
            if norms:
                norms.next_batch()
            with suppress(_Reached):
                forward(dense, inputs)


class DenseTargets:
    """The targets of all consumers with all their outputs: the dense model runs once for all models cut from it.

    Args:
        dense: the model that is cut, in evaluation mode.
        structure: the traced structure of the model; gives the execution order.
        consumers: result of `find_consumers`.
        batches: batches of inputs, augmented like training items.
        by_difference: whether to note what its batch norms see.
        seed: seed for the positions that are sampled in large feature maps.
        max_rows: see `FeatureReader`.
        max_bytes: memory for what the consumers compute. Where it does not suffice for all of them, the dense model
            runs again for the next ones, and for every cut model.

    Attributes:
        consumers: the consumers, in the order in which they run.
        norms: None where not noted.
        n_bytes: bytes of what is remembered for more than one cut model.
    """

    def __init__(
        self,
        dense: nn.Module,
        structure: Structure,
        consumers: Sequence[Consumer],
        batches: Batches,
        *,
        by_difference: bool,
        seed: int,
        max_rows: int,
        max_bytes: int,
    ) -> None:
        turns = {operator.module: turn for turn, operator in reversed(list(enumerate(structure.operators)))}
        self.consumers = sorted(consumers, key=lambda consumer: turns.get(consumer.module, len(turns)))
        self.norms = DenseNorms(dense) if by_difference else None
        self._dense = dense
        self._structure = structure
        self._batches = batches
        self._seed = seed
        self._max_rows = max_rows
        everything = np.ones(structure.n_genes, dtype=np.bool_)
        self._goals = find_goals(dense, structure, everything, self.consumers, batches)
        row_bytes = 4 * max_rows * len(batches)
        sizes = [row_bytes * self._goals[consumer.module].weight.shape[:2].numel() for consumer in self.consumers]
        self._parts: list[list[Consumer]] = []  # that are watched in one go
        left = 0
        for consumer, size in zip(self.consumers, sizes, strict=True):
            if size > left:
                self._parts.append([])
                left = max_bytes
            self._parts[-1].append(consumer)
            left -= size
        self._at: list[Consumer] = []  # whose rows are there
        self._is_finished = False
        self.n_bytes = sum(sizes) if len(self._parts) <= 1 else 0

    def goals(self, kept: BoolArray) -> dict[str, Goal]:
        """Return what the consumers of a cut model are to compute, without the rows."""
        return find_goals(self._dense, self._structure, kept, self.consumers, self._batches)

    def fill(self, goal: Goal, consumer: Consumer) -> None:
        """Fill in the rows of a consumer of a cut model."""
        if consumer not in self._at:
            self._watch(next(part for part in self._parts if consumer in part))
        dense = self._goals[consumer.module]
        goal.rows[:] = [[goal.of_all(rows) for rows in batch] for batch in dense.rows]
        goal.counts[:] = [list(batch) for batch in dense.counts]

    def finish(self) -> None:
        """See what is missing of what the batch norms see: those behind the last consumer."""
        if self.norms and not self._is_finished:
            self._watch([])

    def _watch(self, part: list[Consumer]) -> None:
        to_the_end = not self._parts or part in ([], self._parts[-1])
        if self.norms:  # a batch norm before a rectifier stands behind the last consumer
            to_the_end |= any(self._goals[consumer.module].gate for consumer in part)
        self._at = []
        for goal in self._goals.values():
            goal.rows.clear()
            goal.counts.clear()
        watch_dense(
            self._dense,
            part,
            self._goals,
            self._batches,
            seed=self._seed,
            max_rows=self._max_rows,
            norms=self.norms,
            to_the_end=to_the_end,
        )
        self._at = part
        self._is_finished |= to_the_end
