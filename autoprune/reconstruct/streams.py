"""Streams: channels that nothing non-linear stands between, from those that make them to those that read them.

The bottlenecks of MobileNetV2 and its descendants are such streams, and linear layers in a row: convolutions write into
them (a BatchNorm and additions may follow), and convolutions read them. Any invertible change of basis between the
two leaves the function as it is, so that a *subspace* of the channels can be kept and not just a subset of them:

    y' = U^T y,    what writes: W' = U^T W,    what reads: W' = W U^-T                                (1)

With ``G = L L^T`` the second moment of the stream, averaged over its readers, and ``W_i`` their weights, each relative
to the variance of its output, the columns of ``U = L^-T Q`` with the eigenvectors ``Q`` of ``L^T (sum_i W_i^T W_i) L``,
largest eigenvalue first, are the best basis for one reader (its first k channels lose least of all subspaces of k
dimensions), and nearly so for several. They are scaled so that the variance of a channel is in proportion to its
eigenvalue: what criteria see of a channel, the size of its weights or of the scale of its norm, is then what it is
worth. SliceGPT (Ashkboos et al., ICLR 2024) turns the streams of transformers by principal components of the stream
alone; weighing them by what the readers do with them is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.core.groups import ChannelGroup, IntArray, Structure
from autoprune.surgery.copying import copy_model
from autoprune.surgery.forward import counted_outputs, forward
from autoprune.surgery.precision import double

RIDGE = 1e-5
"""Of the mean second moment of a stream, added to every channel's: directions that are empty stay harmless."""

LEAST = 1e-6
"""Least share of the largest variance that a new channel gets."""

SAME = 1e-3
"""Outputs of a model whose stream was turned at random may differ by this much of their spread: rounding."""


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a stream's channels stand in a tensor.

    Attributes:
        module: dotted name of the layer that owns the tensor.
        dim: the dimension.
        positions: (w,) positions along it, channel by channel.
    """

    module: str
    dim: int
    positions: Tensor


@dataclass(frozen=True, eq=False)
class Stream:
    """A group of channels that any change of basis leaves the function of the model alone.

    Attributes:
        group: index of the group.
        writers: weights whose outputs are its channels.
        readers: weights whose inputs are its channels.
        norms: places in the batch norms right behind writers, by the writer's module.
    """

    group: int
    writers: tuple[_Place, ...]
    readers: tuple[_Place, ...]
    norms: Mapping[str, _Place]


@torch.no_grad()
def find_streams(model: nn.Module, structure: Structure, inputs: Any, groups: Iterable[int]) -> tuple[Stream, ...]:
    """Find the streams of a model: by the layers at their ends, then by turning them.

    What looks like a stream is turned by a random rotation in a copy of the model, which must then answer as before.

    Args:
        model: the model that was traced, in evaluation mode.
        structure: its traced structure.
        inputs: a few real items: what is linear on them is taken to be linear.
        groups: indices of the groups to look at.
    """
    candidates = [stream for group in groups if (stream := _by_layers(model, structure, group)) is not None]
    if not candidates:
        return ()
    norms = _norms_behind(model, {place.module for stream in candidates for place in stream.writers}, inputs)
    candidates = [found for stream in candidates if (found := _with_norms(stream, norms)) is not None]
    wanted = counted_outputs(forward(model, inputs), structure.outputs)
    generator = torch.Generator().manual_seed(0)
    streams = []
    for stream in candidates:
        width = structure.groups[stream.group].width
        rotation = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator)).Q
        turned = copy_model(model)
        turn(turned, stream, rotation)
        if _is_same(counted_outputs(forward(turned, inputs), structure.outputs), wanted):
            streams.append(stream)
    return tuple(streams)


def _by_layers(model: nn.Module, structure: Structure, index: int) -> Stream | None:
    """Return a group as a stream without norms behind its writers, None where other layers carry its channels."""
    group = structure.groups[index]
    modules = dict(model.named_modules())
    axes = {axis.key: axis for axis in structure.axes}
    shared = {info.name for info in structure.tensors if len(info.aliases) > 1 or info.numbers > 1}
    read = {gene for statistic in structure.statistics for gene in statistic.genes.tolist()}
    if index in (*structure.paired, *structure.scaled) or not read.isdisjoint(group.genes.tolist()):
        return None
    writers, readers, passed = list[_Place](), list[_Place](), dict[str, _Place]()
    for tensor, dim, role, copies in group.axes:
        owner, _, leaf = tensor.rpartition(".")
        module = modules.get(owner)
        if copies != 1 or tensor in shared:
            return None
        place = _Place(owner, dim, _positions(axes[tensor, dim].genes, group))
        if role == "thru":
            has_all = all(getattr(module, name, None) is not None for name in ("running_mean", "weight", "bias"))
            if not isinstance(module, _BatchNorm) or not has_all:
                return None
            passed[owner] = place
        elif not _mixes(module) or leaf not in ("weight", "bias"):
            return None
        elif leaf == "weight":
            (writers if role == "out" else readers).append(place)
    if not writers or not readers:
        return None
    return Stream(index, tuple(writers), tuple(readers), passed)


def _mixes(module: nn.Module | None) -> bool:
    """Say whether every output of a layer reads every input, through a weight of its own."""
    if type(module) is nn.Linear:
        return True
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return type(module) in kinds and getattr(module, "groups", 0) == 1


def _positions(genes: IntArray, group: ChannelGroup) -> Tensor:
    """Return the (w,) positions of a group's channels along an axis, channel by channel."""
    where = np.flatnonzero((genes >= group.start) & (genes < group.start + group.width))
    return torch.from_numpy(where[np.argsort(genes[where], kind="stable")])


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


def _is_same(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    return len(found) == len(wanted) > 0 and all(
        a.shape == b.shape and bool(((a - b).abs() <= SAME * b.std(correction=0) + 1e-12).all())
        for a, b in zip(map(double, found), map(double, wanted), strict=True)
    )


class StreamMoments:
    """Second moments at both ends of streams: of what readers read, and of what goes into the norms behind writers.

    Args:
        model: the model.
        streams: its streams.
    """

    def __init__(self, model: nn.Module, streams: Sequence[Stream]) -> None:
        self._model = model
        self._sums: dict[str, tuple[Tensor, Tensor, int]] = {}
        self._modules = {place.module for stream in streams for place in stream.readers}
        self._modules |= {place.module for stream in streams for place in stream.norms.values()}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Add up what passes while the model runs."""
        hooks = [
            self._model.get_submodule(name).register_forward_pre_hook(partial(self._add, name))
            for name in self._modules
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _add(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        x = double(args[0].detach())
        is_last = isinstance(module, nn.Linear)
        rows = x.flatten(0, -2) if is_last else x.transpose(0, 1).flatten(1).T
        total, square, n = self._sums.get(name, (torch.zeros(()), torch.zeros(()), 0))
        device = rows.device
        self._sums[name] = (total.to(device) + rows.sum(0), square.to(device) + rows.T @ rows, n + len(rows))

    def of(self, place: _Place, *, centred: bool) -> Tensor:
        """Return the (w, w) float64 second moment of a stream's channels in the input of a layer."""
        total, square, n = self._sums[place.module]
        at = place.positions.to(total.device)
        mean = total[at] / n
        moment = square[at][:, at] / n
        return moment - torch.outer(mean, mean) if centred else moment


def best_basis(model: nn.Module, stream: Stream, moments: StreamMoments) -> Tensor | None:
    """Return the (w, w) float64 matrix ``U`` of equation (1), best direction first; None where nothing is read.

    Args:
        model: the model.
        stream: one of its streams.
        moments: second moments of what passed on calibration items.
    """
    total: Any = 0
    read: Any = 0
    power = list[Tensor]()
    for place in stream.readers:
        layer: Any = model.get_submodule(place.module)
        gram = moments.of(place, centred=layer.bias is not None)
        weight = double(layer.weight.detach()).movedim(place.dim, -1)
        rows = weight[..., place.positions.to(weight.device)].flatten(0, -2)
        energy = ((rows @ gram) * rows).sum()
        if not bool(energy > 0):
            continue
        power.append(gram.trace())
        total = total + gram / power[-1]
        read = read + rows.T @ rows / energy
    if not power:
        return None
    scale = total.diagonal().mean()
    lower = torch.linalg.cholesky(total + RIDGE * scale * torch.eye(len(total), dtype=total.dtype, device=total.device))
    values, vectors = torch.linalg.eigh(lower.T @ read @ lower)
    variances = values.flip(0).clamp_min(LEAST * values[-1])
    variances *= torch.stack(power).mean() / variances.sum()
    return torch.linalg.solve_triangular(lower.T, vectors.flip(1), upper=True) * variances.sqrt()


@torch.no_grad()
def turn(model: nn.Module, stream: Stream, basis: Tensor, moments: StreamMoments | None = None) -> None:
    """Change the basis of a stream, in place: the function of the model stays what it is, up to rounding.

    A batch norm behind a writer hands its scale over to that writer: its own scale then undoes its own variance,
    which is that of the new channels.

    Args:
        model: the model.
        stream: one of its streams.
        basis: (w, w) float64 invertible matrix ``U`` of equation (1).
        moments: second moments of the norms' inputs, whose correlations say what variances new channels have, given
            the stored ones of the old channels; None takes these to be uncorrelated.
    """
    for place in stream.writers:
        layer: Any = model.get_submodule(place.module)
        into = basis.to(layer.weight.device)
        scale = torch.ones(len(into), dtype=into.dtype, device=into.device)
        if place.module in stream.norms:
            scale = _turn_norm(model, stream.norms[place.module], into, moments)
        into = into.T * scale
        _mix(layer.weight, place.dim, place.positions, into)
        if layer.bias is not None:
            _mix(layer.bias, 0, place.positions, into)
    inverse = torch.linalg.inv(basis)
    for place in stream.readers:
        layer = model.get_submodule(place.module)
        _mix(layer.weight, place.dim, place.positions, inverse.to(layer.weight.device))


def _turn_norm(model: nn.Module, place: _Place, basis: Tensor, moments: StreamMoments | None) -> Tensor:
    """Change the basis behind a batch norm; returns the (w,) scale that it had, which its writer is to have instead."""
    norm: Any = model.get_submodule(place.module)
    at = place.positions.to(norm.weight.device)
    mean, variance, weight, bias = (
        double(tensor[at]) for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    scale = weight / (variance + norm.eps).sqrt()
    correlation = torch.eye(len(at), dtype=mean.dtype, device=mean.device)
    if moments is not None:
        covariance = moments.of(place, centred=True)
        deviation = covariance.diagonal().clamp_min(0).sqrt()
        varies = deviation > 0
        both = varies[:, None] & varies[None, :]
        correlation = torch.where(both, covariance / torch.outer(deviation, deviation).clamp_min(1e-300), correlation)
    outgoing = scale * variance.sqrt()
    turned = ((basis.T * outgoing) @ correlation * (basis.T * outgoing)).sum(1).clamp_min(0)
    norm.running_mean[at] = (basis.T @ (scale * mean)).to(norm.running_mean.dtype)
    norm.running_var[at] = turned.to(norm.running_var.dtype)
    norm.weight[at] = (turned + norm.eps).sqrt().to(norm.weight.dtype)
    norm.bias[at] = (basis.T @ bias).to(norm.bias.dtype)
    return scale


def _mix(tensor: Tensor, dim: int, positions: Tensor, matrix: Tensor) -> None:
    """Replace slices of a tensor along a dimension by the (w, w) ``matrix`` times these slices, in place."""
    at = positions.to(tensor.device)
    moved = tensor.movedim(dim, 0)
    moved[at] = torch.tensordot(matrix, double(moved[at]), dims=1).to(tensor.dtype)
