"""Streams: channels that nothing non-linear stands between, from those that make them to those that read them.

The bottlenecks of MobileNetV2 and its descendants are such streams, and linear layers in a row: convolutions write into
them (a BatchNorm and additions may follow), and convolutions read them. Any invertible change of basis between the
two leaves the function as it is, so that a *subspace* of the channels can be kept and not just a subset of them:

    y' = U^T y,    what writes: W' = U^T W,    what reads: W' = W U^-T                                (1)

With ``G = L L^T`` the second moment of the stream, averaged over its readers, and ``W_i`` their weights, each relative
to the variance of its output, the columns of ``U = L^-T Q`` with the eigenvectors ``Q`` of ``L^T (sum_i W_i^T W_i) L``,
largest eigenvalue first, are the best basis for one reader (its first k channels lose least of all subspaces of k
dimensions), and nearly so for several. They are scaled so that the variance of a channel is in proportion to its
eigenvalue, so that what criteria see of a channel, the size of its weights or of the scale of its norm, is what it is
worth; all channels together are as large as they were, so that training goes on at the same learning rates. SliceGPT
(Ashkboos et al., ICLR 2024) turns the streams of transformers by principal components of the stream alone; weighing
them by what the readers do with them is ours.

*Heads.* Where widths within the heads of an attention are cut, a channel has a place in every head, and every head a
basis of its own: between the layer of its values and the projection that reads them stands a sum over tokens.

*Queries and keys* meet in scores ``q^T k = (U^T q)^T (U^-1 k)``: the keys read the queries, and are turned as readers
are. The first r channels of ``U`` give the scores of r channels per head that are nearest to all of them, in the mean
square over pairs of tokens (the singular values of ``L_q^T L_k``, by Eckart and Young), with ``G`` the second moment of
the queries and that of the keys in the place of ``sum_i W_i^T W_i``. What is the same for all keys of a row the softmax
ignores, so keys count without their mean over the sequence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.surgery.precision import double

RIDGE = 1e-5
"""Of the mean second moment of a stream, added to every channel's: directions that are empty stay harmless."""

LEAST = 1e-6
"""Least share of the largest variance that a new channel gets."""

APART = 1.001
"""Norms of neighbouring pairs of queries and keys are this far apart, so that no rounding decides which is larger."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where a stream's channels stand in a tensor.

    Attributes:
        module: dotted name of the layer that owns the tensor.
        dim: the dimension.
        positions: (copies, w) positions along it, channel by channel: one copy for every head.
        weight: name of the tensor in the layer.
    """

    module: str
    dim: int
    positions: Tensor
    weight: str = "weight"

    def weight_in(self, model: nn.Module) -> Tensor:
        """Return the weight in a model."""
        return getattr(model.get_submodule(self.module), self.weight)

    def bias_in(self, model: nn.Module) -> Tensor | None:
        """Return the bias beside it, None without one."""
        return getattr(model.get_submodule(self.module), self.bias)

    @property
    def bias(self) -> str:
        """Name of the bias beside the weight."""
        return self.weight.removesuffix("weight") + "bias"


@dataclass(frozen=True, eq=False)
class Stream:
    """A group of channels that any change of basis leaves the function of the model alone.

    Attributes:
        group: index of the group.
        writers: weights whose outputs are its channels; of queries and keys those of the queries.
        readers: weights whose inputs are its channels.
        norms: places in the batch norms right behind writers, by the writer's module.
        keys: weights whose outputs meet the channels in scores.
        centred: whether what is the same for all keys of a sequence changes nothing.
    """

    group: int
    writers: tuple[Place, ...]
    readers: tuple[Place, ...]
    norms: Mapping[str, Place]
    keys: tuple[Place, ...] = ()
    centred: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Number of bases, one for every head, and of channels of each; several copies in a row share one."""
        places = (*self.writers, *self.readers, *self.keys)
        return min(len(place.positions) for place in places), places[0].positions.shape[1]


class StreamMoments:
    """Second moments at both ends of streams: of what readers read, and of what goes into the norms behind writers.

    Of queries and keys they are those of what the layers give. What `nn.MultiheadAttention` projects inside is
    computed once more, as if nothing were masked.

    Args:
        model: the model.
        streams: its streams.
    """

    def __init__(self, model: nn.Module, streams: Sequence[Stream]) -> None:
        self._model = model
        self._sums: dict[Place, tuple[Tensor, Tensor, int]] = {}
        self._inputs: dict[str, list[Place]] = defaultdict(list)
        self._outputs: dict[str, list[tuple[Place, bool]]] = defaultdict(list)
        self._inside: dict[str, list[tuple[Place, bool]]] = defaultdict(list)
        for stream in streams:
            for place in (*stream.readers, *stream.norms.values()):
                owner = place.module.rpartition(".")[0]
                if isinstance(model.get_submodule(owner), nn.MultiheadAttention):
                    self._inside[owner].append((place, False))
                else:
                    self._inputs[place.module].append(place)
            for place in (*stream.writers, *stream.keys) if stream.keys else ():
                is_inside = isinstance(model.get_submodule(place.module), nn.MultiheadAttention)
                where = self._inside if is_inside else self._outputs
                where[place.module].append((place, stream.centred and place in stream.keys))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Add up what passes while the model runs."""
        with ExitStack() as hooks:
            for name in self._inputs:
                module = self._model.get_submodule(name)
                hooks.callback(module.register_forward_pre_hook(partial(self._before, name)).remove)
            for name in self._outputs:
                module = self._model.get_submodule(name)
                hooks.callback(module.register_forward_hook(partial(self._after, name)).remove)
            for name in self._inside:
                module = self._model.get_submodule(name)
                hook = partial(self._before_attention, name)
                hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            yield

    def _before(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        rows = _rows(module, args[0])
        for place in self._inputs[name]:
            self._add(place, rows)

    def _after(self, name: str, module: nn.Module, _: Any, output: Tensor) -> None:
        rows = _rows(module, output)
        centred = _rows(module, _without_mean(module, output)) if any(c for _, c in self._outputs[name]) else rows
        for place, is_centred in self._outputs[name]:
            self._add(place, centred if is_centred else rows)

    def _before_attention(
        self, name: str, module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        projected, joined = _projected(module, *args[:3], **{k: kwargs[k] for k in kwargs if k in _INPUTS})
        for place, is_centred in self._inside[name]:
            x = projected if place.module == name else joined
            x = x - x.mean(1, keepdim=True) if is_centred else x
            self._add(place, double(x.detach()).flatten(0, 1))

    def _add(self, place: Place, rows: Tensor) -> None:
        values = rows[:, place.positions.to(rows.device)]
        square = torch.einsum("nci,ncj->cij", values, values)
        if place in self._sums:
            total, squares, n = self._sums[place]
            self._sums[place] = (total + values.sum(0), squares + square, n + len(rows))
        else:
            self._sums[place] = (values.sum(0), square, len(rows))

    def has(self, place: Place) -> bool:
        """Say whether anything has passed."""
        return place in self._sums

    def of(self, place: Place, *, centred: bool) -> Tensor:
        """Return the (copies, w, w) float64 second moments of a stream's channels at one of its ends."""
        total, square, n = self._sums[place]
        mean = total / n
        return square / n - mean.unsqueeze(2) * mean.unsqueeze(1) if centred else square / n


_INPUTS = ("query", "key", "value")


def _projected(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return (items, tokens, 3 e) queries, keys and values side by side, and (items, tokens, e) values by heads.

    Where there are fewer keys than queries, or more, the first tokens of all are taken side by side.
    """
    inputs = [x if x.dim() == 3 else x.unsqueeze(0 if module.batch_first else 1) for x in (query, key, value)]
    inputs = [x if module.batch_first else x.transpose(0, 1) for x in inputs]
    biases = [None] * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    weights = module.in_proj_weight.chunk(3)
    parts = [F.linear(*given) for given in zip(inputs, weights, biases, strict=True)]
    heads = [part.unflatten(2, (module.num_heads, -1)).transpose(1, 2) for part in parts]
    joined = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    tokens = min(part.shape[1] for part in parts)
    return torch.cat([part[:, :tokens] for part in parts], 2), joined


def _rows(module: nn.Module, x: Tensor) -> Tensor:
    """Return (rows, channels) float64 values of what goes into a layer, or comes of it."""
    x = double(x.detach())
    return x.flatten(0, -2) if isinstance(module, nn.Linear) else x.transpose(0, 1).flatten(1).T


def _without_mean(module: nn.Module, x: Tensor) -> Tensor:
    """Return what a layer gives, less its mean over the positions of an item; over all items where it has one only."""
    last = x.dim() - 1
    dims = range(1, last) if isinstance(module, nn.Linear) else range(2, last + 1)
    return x - x.mean(tuple(dims) or 0, keepdim=True)


def best_basis(model: nn.Module, stream: Stream, moments: StreamMoments) -> Tensor | None:
    """Return the (heads, w, w) float64 matrices ``U`` of equation (1), best direction first; None without evidence.

    Args:
        model: the model.
        stream: one of its streams.
        moments: second moments of what passed on calibration items.
    """
    ends = (*stream.norms.values(), *stream.readers, *(stream.writers if stream.keys else ()), *stream.keys)
    if not all(map(moments.has, ends)):
        return None  # a weight that is used without its layer
    heads, width = stream.shape
    total: Any = 0
    read: Any = 0
    power = list[Tensor]()
    for gram, reading in _read(model, stream, moments):
        energy = (gram * reading).sum()
        if not bool(energy > 0):
            continue
        gram, reading = (_pooled(matrices, heads) for matrices in (gram, reading))
        power.append(gram.diagonal(dim1=1, dim2=2).sum(1).clamp_min(torch.finfo(gram.dtype).tiny))
        total = total + gram / power[-1][:, None, None]
        read = read + reading / energy
    if not power or not bool(torch.isfinite(total).all()):
        return None
    scale = total.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(total.dtype).tiny)
    eye = torch.eye(width, dtype=total.dtype, device=total.device)
    lower = torch.linalg.cholesky(total + RIDGE * scale[:, None, None] * eye)
    values, vectors = torch.linalg.eigh(lower.mT @ read @ lower)
    variances = torch.maximum(values.flip(1), LEAST * values[:, -1:])
    variances = torch.where(values[:, -1:] > 0, variances, 1.0)
    variances *= (len(power) / variances.sum(1))[:, None]  # as large as `total`: the stream keeps its size
    basis = torch.linalg.solve_triangular(lower.mT, vectors.flip(2), upper=True) * variances.sqrt().unsqueeze(1)
    return _in_order(model, stream, basis) if stream.keys else basis


def _read(model: nn.Module, stream: Stream, moments: StreamMoments) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for every reader the (copies, w, w) second moments of what it reads, and of its weights."""
    for place in stream.readers:
        weights = _slices(model, place)
        yield moments.of(place, centred=place.bias_in(model) is not None), weights @ weights.mT
    for keys in stream.keys:
        for queries in stream.writers:
            both = moments.of(queries, centred=False), moments.of(keys, centred=False)
            most = min(len(matrices) for matrices in both)
            yield tuple(_pooled(matrices, most) for matrices in both)  # type: ignore[misc]


def _pooled(matrices: Tensor, heads: int) -> Tensor:
    """Return the (heads, w, w) sums of (copies, w, w) matrices over the copies of a head, which follow each other."""
    return matrices.unflatten(0, (heads, -1)).sum(1)


def _slices(model: nn.Module, place: Place) -> Tensor:
    """Return the (copies, w, numbers) float64 slices of a weight."""
    weight = place.weight_in(model)
    return double(weight.detach()).movedim(place.dim, 0)[place.positions.to(weight.device)].flatten(2)


def _in_order(model: nn.Module, stream: Stream, basis: Tensor) -> Tensor:
    """Scale the channels of queries and keys so that the norms of their weights fall, as what they are worth does.

    What one is multiplied with the other is divided by. Of a channel the weights of both become equally large, which is
    the least that they can be together; where a later one is larger, the queries of the earlier one are made larger.
    """
    inverse = torch.linalg.inv(basis)
    queries, keys = _energies(model, stream.writers, basis.mT), _energies(model, stream.keys, inverse)
    least = 2 * (queries * keys).sqrt().sum(0)  # squared norm of a channel, all heads together
    rising = APART ** torch.arange(len(least) - 1, -1, -1, dtype=basis.dtype, device=basis.device)
    wanted = (least / rising).flip(0).cummax(0).values.flip(0) * rising
    ratio = wanted / least
    larger = ratio + (ratio.square() - 1).clamp_min(0).sqrt()  # its sum with its inverse is twice the ratio
    return basis * ((keys / queries).sqrt() * larger).sqrt().unsqueeze(1)


def _energies(model: nn.Module, places: Sequence[Place], matrices: Tensor) -> Tensor:
    """Return the (heads, w) squared norms of the slices of weights, times (heads, w, w) matrices; never zero."""
    total = torch.full(matrices.shape[:2], torch.finfo(matrices.dtype).tiny, dtype=matrices.dtype)
    total = total.to(matrices.device)
    for place in places:
        slices = _for_copies(matrices, len(place.positions)) @ _slices(model, place).to(matrices.device)
        total = total + slices.square().sum(2).unflatten(0, (len(matrices), -1)).sum(1)
    return total


@torch.no_grad()
def turn(model: nn.Module, stream: Stream, basis: Tensor, moments: StreamMoments | None = None) -> None:
    """Change the basis of a stream, in place: the function of the model stays what it is, up to rounding.

    A batch norm behind a writer hands its scale over to that writer: its own scale then undoes its own variance,
    which is that of the new channels.

    Args:
        model: the model.
        stream: one of its streams.
        basis: (heads, w, w) float64 invertible matrices ``U`` of equation (1).
        moments: second moments of the norms' inputs, whose correlations say what variances new channels have, given
            the stored ones of the old channels; None takes these to be uncorrelated.
    """
    for place in stream.writers:
        into = basis.to(place.weight_in(model).device).mT
        if place.module in stream.norms:
            into = into * _turn_norm(model, stream.norms[place.module], into.mT[0], moments)
        _turn_outputs(model, place, into)
    inverse = torch.linalg.inv(basis)
    for place in stream.readers:
        weight = place.weight_in(model)
        _mix(weight, place.dim, place.positions, inverse.to(weight.device))
    for place in stream.keys:
        _turn_outputs(model, place, inverse.to(place.weight_in(model).device))


def _turn_outputs(model: nn.Module, place: Place, matrices: Tensor) -> None:
    """Turn what a layer gives, in place."""
    _mix(place.weight_in(model), place.dim, place.positions, matrices)
    bias = place.bias_in(model)
    if bias is not None:
        _mix(bias, 0, place.positions, matrices)


def _turn_norm(model: nn.Module, place: Place, basis: Tensor, moments: StreamMoments | None) -> Tensor:
    """Change the basis behind a batch norm; returns the (w,) scale that it had, which its writer is to have instead."""
    norm: Any = model.get_submodule(place.module)
    at = place.positions[0].to(norm.weight.device)
    mean, variance, weight, bias = (
        double(tensor[at]) for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    scale = weight / (variance + norm.eps).sqrt()
    correlation = torch.eye(len(at), dtype=mean.dtype, device=mean.device)
    if moments is not None:
        covariance = moments.of(place, centred=True)[0]
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


def _for_copies(matrices: Tensor, copies: int) -> Tensor:
    """Return (copies, w, w) matrices: those of a head for all of its copies."""
    return matrices.repeat_interleave(copies // len(matrices), 0)


def _mix(tensor: Tensor, dim: int, positions: Tensor, matrices: Tensor) -> None:
    """Replace slices of a tensor along a dimension by the (heads, w, w) matrices times these slices, in place."""
    at = positions.to(tensor.device)
    moved = tensor.movedim(dim, 0)
    slices = double(moved[at])
    mixed = _for_copies(matrices, len(at)) @ slices.reshape(*at.shape, -1)
    moved[at] = mixed.reshape(slices.shape).to(tensor.dtype)
