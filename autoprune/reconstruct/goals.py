"""The target of every consumer of a cut model, read off the dense model's passes over the batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.core.groups import BoolArray, Structure
from autoprune.reconstruct.consumers import Consumer
from autoprune.reconstruct.following import OutputFollower
from autoprune.reconstruct.least_squares import to_features
from autoprune.reconstruct.statistics import FeatureReader
from autoprune.surgery.forward import forward
from autoprune.surgery.precision import single

_NO_SCALE = 1e-6
"""Channels that a batch norm scales by less than this share of its largest scale are left out of equation (2)."""

_LARGEST_RATIO = 20.0
"""Of the variances of a cut and a dense model: beyond it, or below its inverse, a channel is as good as dead in one."""


class Batches(Protocol):
    """Pairs of inputs and targets, the same ones whenever they are iterated. Targets are not looked at."""

    def __len__(self) -> int:
        """Return the number of batches."""
        ...

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yield the batches."""
        ...


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
        shared_taps: see `Consumer`.
        absorbs_constant: see `Moments`.
        sum: the sum of equation (2); None for equation (1) alone.
        gate: the sum before the rectifier of equation (3), the same as ``sum`` if there is one; None for a consumer
            from which anything else reads.
        n_calls: number of times that the consumer runs in a forward pass.
        rows: (blocks, rows, o) tensors of every call, per batch and in order: ``t``, except for the cut stream's part.
            Filled while the dense model runs, used up while the cut one does; empty for a consumer that never runs.
    """

    weight: Tensor
    outputs: Tensor
    bias: Tensor
    shared_taps: bool
    absorbs_constant: bool
    sum: Sum | None
    gate: Sum | None
    n_calls: int
    rows: list[list[Tensor]] = field(default_factory=list)

    def in_blocks(self, rows: Tensor) -> Tensor:
        """View (rows, o) as (blocks, rows, o of a block)."""
        return rows.reshape(len(rows), len(self.weight), -1).transpose(0, 1)

    def of_all(self, rows: Tensor) -> Tensor:
        """Return the rows of this goal from (blocks, rows, o) ones of the same consumer with all its outputs."""
        each = rows.transpose(0, 1)
        taps = self.weight.shape[:2].numel() // len(self.outputs)
        return self.in_blocks(each.reshape(len(each), -1, taps)[:, self.outputs])


def find_goals(
    dense: nn.Module, structure: Structure, kept: BoolArray, consumers: Sequence[Consumer], batches: Batches
) -> dict[str, Goal]:
    """See on one batch where the consumers' outputs go; the rows are missing yet.

    Returns:
        The goals by the names of the consumers' modules.
    """
    with OutputFollower(dense, [consumer.module for consumer in consumers], lambda *_: None) as follower:
        forward(dense, next(iter(batches))[0])
    joining, rectified, n_calls = follower.joining(), follower.rectified(), follower.n_calls
    taken = Counter(follower.norms.values())
    goals = {}
    for consumer in consumers:
        weight: Tensor = dense.get_parameter(consumer.weight)
        outputs = torch.arange(weight.shape[1 if consumer.axis.dim == 0 else 0], device=weight.device)
        for axis in structure.axes_of[consumer.weight]:
            if axis.key != consumer.axis.key:
                outputs = torch.from_numpy(structure.kept_positions(axis, kept)).to(weight.device)
                weight = weight.index_select(axis.dim, outputs)
        name = consumer.module
        module: Any = dense.get_submodule(name)
        bias = module.bias[outputs] if consumer.has_bias else weight.new_zeros(len(outputs))
        features = to_features(weight, consumer)
        norm = follower.norms.get(name, "")
        owns_norm = not norm or (taken[norm] == 1 and n_calls[norm] == n_calls[name])
        passes_on = owns_norm and not consumer.shared_taps
        way = _sum(dense, norm, outputs) if passes_on and name in joining | rectified else None
        goals[name] = Goal(
            features.flatten(1, 2) if consumer.shared_taps else features,
            outputs,
            bias,
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
        goal.rows[:] = [[goal.of_all(rows) for rows in batch] for batch in self._goals[consumer.module].rows]

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


class DenseNorms:
    """What the batch norms of the dense model see, batch by batch; the same for every model that is cut from it.

    Args:
        dense: the dense model.
    """

    def __init__(self, dense: nn.Module) -> None:
        self.layers: dict[str, Any] = {
            name: module
            for name, module in dense.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
        }
        self.seen: dict[str, list[list[tuple[Tensor, Tensor]]]] = {name: [] for name in self.layers}
        self._turn = -1
        self._calls: Counter[str] = Counter()
        self._hooks = ExitStack()

    def __enter__(self) -> None:
        """Watch the next passes, which begin with the first batch."""
        self._turn = -1
        for name, layer in self.layers.items():
            hook = layer.register_forward_pre_hook(lambda _, args, name=name: self._watch(name, args[0]))
            self._hooks.callback(hook.remove)

    def __exit__(self, *_: object) -> None:
        """Watch no more."""
        self._hooks.close()

    def next_batch(self) -> None:
        """Say that what follows belongs to the next batch."""
        self._turn += 1
        self._calls.clear()
        for seen in self.seen.values():
            if len(seen) == self._turn:
                seen.append([])

    def _watch(self, name: str, x: Tensor) -> None:
        seen = self.seen[name][self._turn]
        if len(seen) == self._calls[name]:  # no earlier pass has come as far
            seen.append(input_statistics(x))
        self._calls[name] += 1


class MovedNorms:
    """Normalises a cut model by the difference.

    With ``m, v`` the stored statistics of a dense batch norm, ``m_b, v_b`` those of its inputs on a batch and
    ``m'_b, v'_b`` those of the cut one's, the cut one uses ``m + m'_b - m_b`` and ``v v'_b / v_b``. So a model that
    nothing was cut from remains what it is, whatever the batches are, and one that something was cut from sees its
    layers' inputs on the scale that the dense model sees them on.

    Args:
        dense: statistics of the dense batch norms.
        structure: the structure traced from the dense model.
        kept: (n_genes,) boolean array of what the cut model still has.
    """

    def __init__(self, dense: DenseNorms, structure: Structure, kept: BoolArray) -> None:
        self._dense = dense
        self._used: dict[str, dict[tuple[int, int], tuple[Tensor, Tensor]]] = {name: {} for name in dense.layers}
        self._kept = {}
        for name, layer in dense.layers.items():
            axes = structure.axes_of.get(f"{name}.running_mean", ())
            positions = [torch.from_numpy(structure.kept_positions(axis, kept)) for axis in axes]
            found = positions[0] if positions else torch.arange(layer.num_features)
            self._kept[name] = found.to(layer.running_mean.device)

    def normalise(self, name: str, layer: Any, x: Tensor, turn: int, call: int) -> None:
        """Give the batch norm ``name`` of the cut model its statistics for the input of a batch, in place."""
        mean, variance = input_statistics(x)
        seen = self._dense.seen[name][turn]
        if call < len(seen):
            stored, positions = self._dense.layers[name], self._kept[name]
            dense_mean, dense_variance = (found[positions] for found in seen[call])
            mean = stored.running_mean[positions] + (mean - dense_mean)  # exactly the stored one without a cut
            variance = stored.running_var[positions] * self._ratio(variance, dense_variance)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
        self._used[name][turn, call] = (mean, variance)

    def settle(self, pruned: nn.Module) -> None:
        """Give the batch norms of the cut model the means of what they used on the batches when they last ran."""
        for name, used in self._used.items():
            layer: Any = pruned.get_submodule(name)
            if used:
                mean, variance = (torch.stack(found).mean(0) for found in zip(*used.values(), strict=True))
                layer.running_mean.copy_(mean)
                layer.running_var.copy_(variance)

    def expected(self, name: str, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a cut batch norm uses over all batches.

        Args:
            name: name of the batch norm.
            variance: (o,) of its inputs in the cut model.

        Returns:
            (o,) stored mean less that of the dense inputs, and the (o,) variance by difference.
        """
        seen = [statistics for batch in self._dense.seen[name] for statistics in batch]
        stored, positions = self._dense.layers[name], self._kept[name]
        means, variances = (torch.stack(found)[:, positions] for found in zip(*seen, strict=True))
        dense_variance = variances.mean(0) + means.var(0, correction=0)
        ratio = self._ratio(variance, dense_variance)
        return stored.running_mean[positions] - means.mean(0), stored.running_var[positions] * ratio

    @staticmethod
    def _ratio(cut: Tensor, dense: Tensor) -> Tensor:
        least = torch.finfo(dense.dtype).tiny
        return ((cut + least) / (dense + least)).clamp(1 / _LARGEST_RATIO, _LARGEST_RATIO)


def input_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (c,) mean and variance of a batch norm's input, by the kernel that is fast for it."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    mean, variance = (torch.zeros(x.shape[1], device=x.device, dtype=dtype) for _ in range(2))
    F.batch_norm(x.to(dtype), mean, variance, training=True, momentum=1.0)
    return mean, variance
