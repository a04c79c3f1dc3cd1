"""Finding streams: by the layers at the ends of a group of channels, and then by turning them.

What looks like a stream is turned into a basis drawn at random in a copy of the model, which must answer as before.
That says nothing where the answer does not depend on the channels, as on scores that are next to nothing: so the same
with what writes alone must be seen in the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from autoprune.core.groups import ChannelGroup, IntArray, Structure
from autoprune.reconstruct.streams import Place, Stream, turn
from autoprune.surgery.copying import copy_model
from autoprune.surgery.forward import counted_outputs, evaluating, forward
from autoprune.surgery.precision import double

SAME = 1e-3
"""Outputs of a model whose stream was turned at random may differ by this much of their spread: rounding."""

SEEN = 1e-2
"""... and by this much of what turning the layers that write alone changes."""

STRETCH = 2.0
"""Directions of a random basis are stretched by up to this factor: a norm of a vector stands a mere rotation."""


@torch.no_grad()
def find_streams(model: nn.Module, structure: Structure, inputs: Any, groups: Iterable[int]) -> tuple[Stream, ...]:
    """Find the streams of a model.

    Args:
        model: the model that was traced; it is left as it is.
        structure: its traced structure.
        inputs: a few real items: what is linear on them is taken to be linear.
        groups: indices of the groups to look at.
    """
    with evaluating(model):  # what users left in training mode would change with every item that it sees
        return tuple(_found(model, structure, inputs, groups))


def _found(model: nn.Module, structure: Structure, inputs: Any, groups: Iterable[int]) -> Iterator[Stream]:
    """Yield the streams of a model in evaluation mode."""
    candidates = {group: list(_by_layers(model, structure, group)) for group in groups}
    writers = {place.module for found in candidates.values() for stream in found for place in stream.writers}
    if not writers:
        return
    norms = _norms_behind(model, writers, inputs)
    check = _Check(model, structure, inputs)
    for found in candidates.values():
        complete = (_with_norms(stream, norms) for stream in found)
        stream = next((stream for stream in complete if stream is not None and check(stream)), None)
        if stream is not None:
            yield check.told_apart(stream) if stream.keys else stream


class _Check:
    """Turns streams in copies of a model and compares the answers.

    Args:
        model: the model, in evaluation mode.
        structure: its traced structure.
        inputs: a few real items.
    """

    def __init__(self, model: nn.Module, structure: Structure, inputs: Any) -> None:
        self._model = model
        self._inputs = inputs
        self._names = structure.outputs
        self._wanted = self._answers(lambda _: None)
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, stream: Stream) -> bool:
        """Say whether a random change of its basis changes nothing, and one of what writes alone something."""
        heads, width = stream.shape
        drawn = torch.randn(2, heads, width, width, dtype=torch.float64, generator=self._generator)
        left, right = torch.linalg.qr(drawn).Q
        stretch = STRETCH ** (2 * torch.rand(heads, 1, width, dtype=torch.float64, generator=self._generator) - 1)
        basis = left * stretch @ right
        found = self._answers(lambda copy: turn(copy, stream, basis))
        if not same(found, self._wanted):
            return False
        without = self._answers(lambda copy: turn(copy, replace(stream, readers=(), keys=()), basis))
        return _apart(found, self._wanted) < SEEN * _apart(without, self._wanted)

    def told_apart(self, stream: Stream) -> Stream:
        """Return a stream of queries and keys with the keys as keys: what is added to all of them changes nothing.

        Where that holds for neither, as where no softmax follows, they stay as they are, and are not centred.
        """
        swapped = replace(stream, writers=stream.keys, keys=stream.writers)
        moved, swapped_moved = (
            _apart(self._answers(partial(self._shift, found.keys)), self._wanted) for found in (stream, swapped)
        )
        if min(moved, swapped_moved) >= SEEN * max(moved, swapped_moved):
            return stream
        return replace(stream if moved < swapped_moved else swapped, centred=True)

    def _shift(self, places: Sequence[Place], copy: nn.Module) -> None:
        for place in places:
            weight, bias = place.weight_in(copy), place.bias_in(copy)
            if bias is None:
                bias = nn.Parameter(weight.new_zeros(weight.shape[place.dim]))
                setattr(copy.get_submodule(place.module), place.bias, bias)
            at = place.positions.to(bias.device)
            spread = weight.square().sum().sqrt() / len(bias) ** 0.5
            drawn = torch.randn(at.shape, dtype=torch.float64, generator=self._generator)
            bias[at] += spread * drawn.to(bias)

    def _answers(self, change: Callable[[nn.Module], None]) -> list[Tensor]:
        copy = copy_model(self._model)
        change(copy)
        return counted_outputs(forward(copy, self._inputs), self._names)


def same(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """Say whether two answers agree up to rounding, every output relative to its spread."""
    return len(found) == len(wanted) > 0 and all(
        a.shape == b.shape and bool(((a - b).abs() <= SAME * b.std(correction=0) + 1e-12).all())
        for a, b in zip(map(double, found), map(double, wanted), strict=True)
    )


def _apart(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Return how far two answers are apart: root mean squares, each relative to the output's spread, added up."""
    total = 0.0
    for a, b in zip(map(double, found), map(double, wanted), strict=True):
        spread = b.std(correction=0).clamp_min(torch.finfo(b.real.dtype).tiny)
        total += float(((a - b).abs().square().mean().sqrt() / spread).nan_to_num(posinf=0.0))
    return total


def _by_layers(model: nn.Module, structure: Structure, index: int) -> Iterator[Stream]:
    """Yield a group as a stream without norms behind its writers; nothing where other layers carry its channels."""
    group = structure.groups[index]
    modules = dict(model.named_modules())
    axes = {axis.key: axis for axis in structure.axes}
    shared = {info.name for info in structure.tensors if len(info.aliases) > 1 or info.numbers > 1}
    read = {gene for statistic in structure.statistics for gene in statistic.genes.tolist()}
    if not read.isdisjoint(group.genes.tolist()):
        return
    writers, readers, passed = list[Place](), list[Place](), dict[str, Place]()
    for tensor, dim, role, _ in group.axes:
        owner, _, leaf = tensor.rpartition(".")
        module = modules.get(owner)
        if tensor in shared:
            return
        place = Place(owner, dim, _positions(axes[tensor, dim].genes, group), leaf)
        if len(place.positions) > 1 and bool((place.positions.diff(dim=1) != 1).any()):
            return  # the channels of a copy do not stand side by side: copies are not heads, channels may be
        if role == "thru":
            has_all = all(getattr(module, name, None) is not None for name in ("running_mean", "weight", "bias"))
            if not isinstance(module, _BatchNorm) or not has_all or len(place.positions) > 1:
                return
            passed[owner] = place
        elif not _mixes(module, leaf, role):
            return
        elif leaf.endswith("weight"):
            (writers if role == "out" else readers).append(place)
    if index in structure.paired:
        if not readers and not passed:
            yield from _pairs(index, writers)
    elif writers and readers and _fit(*writers, *readers):
        yield Stream(index, tuple(writers), tuple(readers), passed)


def _pairs(index: int, places: Sequence[Place]) -> Iterator[Stream]:
    """Yield what may be queries and keys: of a layer each, or of one that makes both, in halves or by turns."""
    if len(places) == 2:
        sides = [(places[0], places[1])]
    elif len(places) == 1 and len(places[0].positions) % 2 == 0:
        whole, half = places[0], len(places[0].positions) // 2
        ways = [(slice(None, half), slice(half, None)), (slice(None, None, 2), slice(1, None, 2))]
        sides = [tuple(replace(whole, positions=whole.positions[at]) for at in way) for way in ways]  # type: ignore[misc]
    else:
        return
    for queries, keys in sides:
        if _fit(queries, keys):
            yield Stream(index, (queries,), (), {}, keys=(keys,))


def _fit(*places: Place) -> bool:
    """Say whether the copies of every place can be shared out among the fewest of any: heads that others share."""
    copies = [len(place.positions) for place in places]
    return all(n % min(copies) == 0 for n in copies)


def _mixes(module: nn.Module | None, leaf: str, role: str) -> bool:
    """Say whether a tensor is the weight of a layer each of whose outputs reads every input, or the bias beside it."""
    if isinstance(module, nn.MultiheadAttention):
        return leaf in ("in_proj_weight", "in_proj_bias") and role == "out"
    if leaf not in ("weight", "bias"):
        return False
    if type(module) in (nn.Linear, NonDynamicallyQuantizableLinear):
        return True
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return type(module) in kinds and getattr(module, "groups", 0) == 1


def _positions(genes: IntArray, group: ChannelGroup) -> Tensor:
    """Return the (copies, w) positions of a group's channels along an axis, those of a channel in their order."""
    where = np.flatnonzero((genes >= group.start) & (genes < group.start + group.width))
    ordered = where[np.argsort(genes[where], kind="stable")]
    return torch.from_numpy(ordered.reshape(group.width, -1).T.copy())


def _norms_behind(model: nn.Module, writers: set[str], inputs: Any) -> dict[str, str]:
    """Return the batch norm whose input is just what a writer has returned, by the writer's module."""
    made: dict[int, tuple[Tensor, str]] = {}
    found: dict[str, str] = {}

    def after(name: str, _: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            made[id(output)] = (output, name)

    def before(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        if args and id(args[0]) in made:
            found[made[id(args[0])][1]] = name

    hooks = []
    for name, module in model.named_modules():
        if name in writers:
            hooks.append(module.register_forward_hook(partial(after, name)))
        elif isinstance(module, _BatchNorm):
            hooks.append(module.register_forward_pre_hook(partial(before, name)))
    try:
        forward(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _with_norms(stream: Stream, norms: Mapping[str, str]) -> Stream | None:
    """Return a stream with its batch norms by writer, None where one of them stands elsewhere."""
    behind = {place.module: norms[place.module] for place in stream.writers if place.module in norms}
    if sorted(behind.values()) != sorted(stream.norms):  # of one writer each
        return None
    return replace(stream, norms={writer: stream.norms[norm] for writer, norm in behind.items()})
