"""The target of every consumer of a cut model, read off the dense model's passes over the batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

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
        offset: (o,) what the batch norm adds to ``a y``.
        norm: name of the batch norm, "" for nothing.
    """

    scale: Tensor
    offset: Tensor
    norm: str

    def before(self, stream: Tensor) -> Tensor:
        """Return (rows, o) values of the stream in units of the consumer's output."""
        small = self.scale.abs() <= _NO_SCALE * self.scale.abs().max()
        return stream * torch.where(small, 0.0, 1 / self.scale)


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
    n_calls: int
    rows: list[list[Tensor]] = field(default_factory=list)

    def in_blocks(self, rows: Tensor) -> Tensor:
        """View (rows, o) as (blocks, rows, o of a block)."""
        return rows.reshape(len(rows), len(self.weight), -1).transpose(0, 1)


def find_goals(
    dense: nn.Module, structure: Structure, kept: BoolArray, consumers: Sequence[Consumer], batches: Batches
) -> dict[str, Goal]:
    """See on one batch where the consumers' outputs go; the rows are missing yet.

    Returns:
        The goals by the names of the consumers' modules.
    """
    with OutputFollower(dense, [consumer.module for consumer in consumers], lambda *_: None) as follower:
        forward(dense, next(iter(batches))[0])
    joining, n_calls = follower.joining(), follower.n_calls
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
        joins = name in joining and owns_norm and not consumer.shared_taps
        goals[name] = Goal(
            features.flatten(1, 2) if consumer.shared_taps else features,
            outputs,
            bias,
            consumer.shared_taps,
            bool(consumer.takes_constant or norm),
            _sum(dense, norm, outputs) if joins else None,
            n_calls[name],
        )
    return goals


def _sum(dense: nn.Module, norm: str, outputs: Tensor) -> Sum | None:
    """Return the way to a sum, None where a batch norm cannot pass on what is asked of it."""
    if not norm:
        plain = torch.zeros(len(outputs), device=outputs.device)
        return Sum(plain + 1, plain, "")
    layer: Any = dense.get_submodule(norm)
    if layer.weight is None or layer.running_var is None:
        return None
    scale = layer.weight / (layer.running_var + layer.eps).sqrt()
    offset = layer.bias - layer.running_mean * scale
    return Sum(scale[outputs], offset[outputs], norm)


def watch_dense(
    dense: nn.Module,
    consumers: Sequence[Consumer],
    goals: Mapping[str, Goal],
    batches: Batches,
    *,
    seed: int,
    max_rows: int,
    norms: DenseNorms | None = None,
) -> None:
    """Fill in the rows of the goals, and what is missing in ``norms`` of the same part of the model."""
    readers = {
        consumer.module: FeatureReader(consumer, dense.get_submodule(consumer.module), seed, max_rows)
        for consumer in consumers
    }
    n_left = 0

    def reached() -> None:
        nonlocal n_left
        n_left -= 1
        if not n_left:
            raise _Reached

    def on_call(name: str, x: Tensor, y: Tensor) -> None:
        goal = goals[name]
        if goal.shared_taps:
            rows = torch.bmm(readers[name](x)[:, :, :-1], goal.weight.float().transpose(1, 2))
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


class DenseNorms:
    """Statistics of the dense model's batch norms, batch by batch: cut ones are normalised by the difference.

    With ``m, v`` the stored statistics of a dense batch norm, ``m_b, v_b`` those of its inputs on a batch and
    ``m'_b, v'_b`` those of the cut one's, the cut one uses ``m + m'_b - m_b`` and ``v v'_b / v_b``. So a model that
    nothing was cut from remains what it is, whatever the batches are, and one that something was cut from sees its
    layers' inputs on the scale that the dense model sees them on.

    Args:
        dense: the model that was cut.
        structure: the traced structure of the model.
        kept: (n_genes,) boolean array of what the cut model still has.
    """

    def __init__(self, dense: nn.Module, structure: Structure, kept: BoolArray) -> None:
        self._layers: dict[str, Any] = {
            name: module
            for name, module in dense.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
        }
        self._seen: dict[str, list[list[tuple[Tensor, Tensor]]]] = {name: [] for name in self._layers}
        self._used: dict[str, dict[tuple[int, int], tuple[Tensor, Tensor]]] = {name: {} for name in self._layers}
        self._kept = {}
        for name, layer in self._layers.items():
            axes = structure.axes_of.get(f"{name}.running_mean", ())
            positions = [torch.from_numpy(structure.kept_positions(axis, kept)) for axis in axes]
            found = positions[0] if positions else torch.arange(layer.num_features)
            self._kept[name] = found.to(layer.running_mean.device)
        self._turn = -1
        self._calls: Counter[str] = Counter()
        self._hooks = ExitStack()

    def __enter__(self) -> None:
        """Watch the next passes over all batches."""
        self._turn = -1
        for name, layer in self._layers.items():
            hook = layer.register_forward_pre_hook(lambda _, args, name=name: self._watch(name, args[0]))
            self._hooks.callback(hook.remove)

    def __exit__(self, *_: object) -> None:
        """Watch no more."""
        self._hooks.close()

    def next_batch(self) -> None:
        """Say that what follows belongs to the next batch."""
        self._turn += 1
        self._calls.clear()
        for seen in self._seen.values():
            if len(seen) == self._turn:
                seen.append([])

    def _watch(self, name: str, x: Tensor) -> None:
        seen = self._seen[name][self._turn]
        if len(seen) == self._calls[name]:  # no earlier pass has come as far
            mean, variance = input_statistics(x)
            seen.append((mean[self._kept[name]], variance[self._kept[name]]))
        self._calls[name] += 1

    def normalise(self, name: str, layer: Any, x: Tensor, turn: int, call: int) -> None:
        """Give the batch norm ``name`` of the cut model its statistics for the input of a batch, in place."""
        mean, variance = input_statistics(x)
        seen = self._seen[name][turn]
        if call < len(seen):
            stored, positions = self._layers[name], self._kept[name]
            mean = stored.running_mean[positions] + (mean - seen[call][0])  # exactly the stored one without a cut
            variance = stored.running_var[positions] * self._ratio(variance, seen[call][1])
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
        seen = [statistics for batch in self._seen[name] for statistics in batch]
        means, variances = (torch.stack(found) for found in zip(*seen, strict=True))
        dense_variance = variances.mean(0) + means.var(0, correction=0)
        stored, positions = self._layers[name], self._kept[name]
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
