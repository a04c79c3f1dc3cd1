"""Joining tensors: the ids are joined the same way; along other dimensions equal positions belong together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autoprune.trace._ids import compact, constant, varying
from autoprune.trace.handlers.registry import TracedCall, handles

if TYPE_CHECKING:
    from autoprune.trace._recorder import IdRecorder


@handles("cat concat concatenate")
def cat(recorder: IdRecorder, call: TracedCall) -> None:
    """Join the ids; along the other dimensions equal positions vanish together."""
    output = call.outputs[0]
    tensors = [t for t in call.arg(0, "tensors") if t.numel()]
    dim = call.arg(1, "dim", call.kwargs.get("axis", 0)) % output.dim()
    if tensors:  # what is empty adds nothing, whatever its shape
        _join(recorder, tensors, dim, output, torch.cat)
    else:
        recorder.put(output, (constant(output.shape),))


@handles("stack")
def stack(recorder: IdRecorder, call: TracedCall) -> None:
    """Join the ids along a new dimension."""
    output = call.outputs[0]
    dim = call.arg(1, "dim", 0) % output.dim()
    tensors = call.arg(0, "tensors")
    _join(recorder, list(tensors), dim, output, torch.stack)


def _join(
    recorder: IdRecorder, tensors: list[Tensor], dim: int, output: Tensor, function: Callable[..., Tensor]
) -> None:
    counts = {len(recorder.layers(t)) for t in tensors if recorder.follows([t])}
    n = counts.pop() if len(counts) == 1 else 1
    results = []
    for i in range(n):
        parts: list[Tensor | None] = []
        for t in tensors:
            if not recorder.follows([t]):
                parts.append(None)
            elif n == 1:
                parts.append(recorder.single(t))
            else:
                parts.append(recorder.layers(t)[i])
        results.append(_join_layer(recorder, tensors, parts, dim, output, function))
    recorder.put(output, tuple(results))


def _join_layer(
    recorder: IdRecorder,
    tensors: list[Tensor],
    parts: list[Tensor | None],
    dim: int,
    output: Tensor,
    function: Callable[..., Tensor],
) -> Tensor:
    stacking = function is torch.stack
    site = recorder.site()
    reference = next((p for p in parts if p is not None and varying(p)), None)
    filled = []
    for t, part in zip(tensors, parts, strict=True):
        if part is None:
            part = constant(t.shape)
            if reference is not None:
                part = _adopt(t, reference, dim, stacking=stacking)
        filled.append(part)
    others = [p for p in filled if varying(p)]
    for part in filled:  # along the other dimensions, positions of all parts belong together
        if not others or part is others[0]:
            continue
        first = others[0]
        if stacking:
            recorder.book.unite(first, part, site)
        elif set(varying(first)) - {dim} or set(varying(part)) - {dim}:
            recorder.book.unite(first.narrow(dim, 0, 1), part.narrow(dim, 0, 1), site)
    if others:  # tied positions are interchangeable: show one of them wherever the part does not vary along ``dim``
        filled = [_same(others[0], p, dim, stacking=stacking) for p in filled]
    small = [compact(p) for p in filled]
    if stacking:
        shape = torch.broadcast_shapes(*(p.shape for p in small))
        joined = torch.stack([p.expand(shape) for p in small], dim)
    else:
        rest = torch.broadcast_shapes(*(p.narrow(dim, 0, 1).shape for p in small))
        small = [
            p.narrow(dim, 0, 1).expand((*rest[:dim], t.shape[dim], *rest[dim + 1 :])) if p.shape[dim] == 1
            else p.expand((*rest[:dim], t.shape[dim], *rest[dim + 1 :]))
            for p, t in zip(small, tensors, strict=True)
        ]  # fmt: skip
        joined = torch.cat(small, dim)
    return joined.expand(output.shape)


def _same(first: Tensor, part: Tensor, dim: int, *, stacking: bool) -> Tensor:
    if stacking:
        return first
    if dim in varying(first) or dim in varying(part):
        return part
    return first.narrow(dim, 0, 1).expand(part.shape)


def _adopt(tensor: Tensor, reference: Tensor, dim: int, *, stacking: bool) -> Tensor:
    """Return ids for a constant joined to channels: along the other dimensions it is cut as they are."""
    shape = tensor.shape
    if stacking:
        return reference
    dims = set(varying(reference)) - {dim}
    if not dims or any(not bool((tensor == tensor.narrow(d, 0, 1)).all()) for d in dims):
        return constant(shape)
    return reference.narrow(dim, 0, 1).expand(shape)
