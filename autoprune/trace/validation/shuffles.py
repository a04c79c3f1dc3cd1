"""Would a shuffled index map be noticed? Only where it would does an agreement of two models say anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.groups import Axis, BoolArray, ChannelGroup, Structure
from autoprune.surgery.precision import as_real, is_inexact
from autoprune.surgery.skeleton import Skeleton
from autoprune.surgery.slicing import scale_factors, scaled
from autoprune.trace.validation.probes import ProbedRun, observe
from autoprune.trace.validation.reference import agree, agree_on_the_way

_FLOOR = 1e-3  # smallest scale of a layer's output

Key = tuple[str, int]


class ShuffleEffects:
    """The effect of shuffled axes on one run of a cut model: one backward pass for all axes of all groups.

    A layer's own output is linear in its weight, so that what is seen of it is exact, however deep the layer lies.

    Args:
        skeleton: makes cut models.
        weights: the dense tensors by name.
        structure: the traced structure of the model.
        kept: (n_genes,) boolean array.
        example: the input.
        training: the mode of the model.

    Attributes:
        ran: names of the weights of the layers that ran.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        weights: Mapping[str, Tensor],
        structure: Structure,
        kept: BoolArray,
        example: Any,
        *,
        training: bool,
    ) -> None:
        self._skeleton, self._weights, self._structure = skeleton, weights, structure
        self._kept, self._example, self._training = kept, example, training
        self._observe = partial(observe, outputs=structure.outputs)
        small = skeleton.build(weights, kept)
        self._gradients: dict[str, Tensor] = {}
        parameters = {name: p for name, p in small.named_parameters() if is_inexact(p)}
        try:
            for parameter in parameters.values():
                parameter.requires_grad_()
            seen = self._observe(small, example, training=training, gradients=True)
            found = torch.autograd.grad(_projected(seen), list(parameters.values()), allow_unused=True)
            self._gradients = {n: g for n, g in zip(parameters, found, strict=True) if g is not None}
            self._right = seen.detached()
        except Exception:  # noqa: BLE001  (a forward without gradients: every map is shuffled for real instead)
            small.requires_grad_(requires_grad=False)
            self._right = self._observe(small, example, training=training)
        finally:
            small.requires_grad_(requires_grad=False)
        self.ran = frozenset(probe.weight for probe in self._right.probes)

    def at_first_order(self, axis: Axis, wrong: Axis) -> float:
        """Return how much a shuffled axis changes, to first order, relative to the largest values of what changes."""
        gradient = self._gradients.get(axis.tensor)
        if gradient is None:
            return 0.0
        change = self._slice(axis, wrong) - self._slice(axis, axis)
        return abs(float((gradient.conj() * change).sum().real))

    def in_truth(self, axis: Axis, wrong: Axis) -> float:
        """Return how much a run with a shuffled axis differs."""
        small = self._skeleton.build(self._weights, self._kept)
        _tensor(small, axis.tensor).data = self._slice(axis, wrong)
        seen = self._observe(small, self._example, self._right.factors, training=self._training)
        ends, _ = agree(self._right.outputs, seen.outputs)
        return max(ends, agree_on_the_way(self._right, seen, self._structure)[0])

    def _slice(self, replaced: Axis, used: Axis) -> Tensor:
        values = self._weights[replaced.tensor]
        factors = scale_factors(self._structure, self._kept)
        for axis in self._structure.axes_of[replaced.tensor]:
            positions = self._structure.kept_positions(used if axis.key == replaced.key else axis, self._kept)
            values = values.index_select(axis.dim, torch.from_numpy(positions).to(values.device))
            if axis.key in factors:
                values = scaled(values, axis.dim, torch.from_numpy(factors[axis.key][positions]))
        return values


def shuffled(axis: Axis, group: ChannelGroup) -> Axis:
    """Return an axis in which every channel of a group is mistaken for the next one."""
    inside = (axis.genes >= group.start) & (axis.genes < group.start + group.width)
    rolled = group.start + (axis.genes - group.start + 1) % group.width
    return Axis(axis.tensor, axis.dim, np.where(inside, rolled, axis.genes))


def needed(group: ChannelGroup, ran: Iterable[str]) -> set[Key]:
    """Return the axes of a group that must not be shuffled unnoticed: of its consumers among the layers that ran."""
    return {(tensor, dim) for tensor, dim, role, _ in group.axes if role == "in" and tensor in ran}


def _projected(seen: ProbedRun) -> Tensor:
    """Return random projections of everything that a run showed, each relative to its largest value."""
    generator = torch.Generator().manual_seed(0)
    parts = [t for t in seen.outputs if t.requires_grad and t.numel()]
    parts += [probe.rows for probe in seen.probes if probe.rows.requires_grad]
    total = torch.zeros(())
    for part in parts:
        scale = max(float(part.detach().abs().max()), _FLOOR)
        part = as_real(part)
        total = total + (part * (torch.randn(part.shape, generator=generator).to(part) / scale)).sum()
    return total


def _tensor(model: nn.Module, name: str) -> Tensor:
    owner, _, own = name.rpartition(".")
    found: Tensor = getattr(model.get_submodule(owner), own)
    return found
