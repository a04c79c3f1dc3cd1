"""Functions that only move data: they are executed on the ids themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from autoprune.trace._book import EqualCounts, Extent
from autoprune.trace._ids import align, along, compact, constant, has_ids, shrink, varying
from autoprune.trace._registry import Call, handles
from autoprune.trace._sizes import TracedInt, untraced

if TYPE_CHECKING:
    from autoprune.trace._recorder import Recorder


def on_ids(function: Callable[[Tensor], Any], ids: Tensor) -> Any:
    """Run a data-moving function on ids; kernels without an integer form run on (exact) doubles."""
    try:
        return function(ids)
    except (RuntimeError, NotImplementedError):
        moved = function(ids.double())
        return moved.long() if isinstance(moved, Tensor) else tuple(m.long() for m in moved)


def _put_moved(recorder: Recorder, call: Call, function: Callable[[Tensor], Any]) -> None:
    moved = []
    for layer in recorder.layers(call.inputs[0]):
        if has_ids(layer):
            result = on_ids(function, layer)
            moved.append([result] if isinstance(result, Tensor) else list(result))
        else:
            moved.append([constant(output.shape) for output in call.outputs])
    for i, output in enumerate(call.outputs):
        recorder.put(output, tuple(parts[i] for parts in moved))


@handles(
    """permute transpose t swapaxes swapdims movedim moveaxis squeeze unsqueeze flip fliplr flipud rot90 atleast_2d
    tile repeat repeat_interleave broadcast_to get:T get:mT get:H atleast_1d flatten ravel adjoint"""
)
def move(recorder: Recorder, call: Call) -> None:
    """Run the same function on the ids."""
    if call.name.startswith("get:"):
        attribute = call.name[4:]
        _put_moved(recorder, call, lambda ids: getattr(ids, attribute))
    elif call.name == "flatten":
        _put_moved(recorder, call, lambda ids: ids.reshape(call.outputs[0].shape))
    else:
        source = call.inputs[0]
        _put_moved(
            recorder, call, lambda ids: call.function(*_swap(call, source, ids), **_swap_kwargs(call, source, ids))
        )
    _tie_rows(recorder, call)


@handles("roll")
def roll(recorder: Recorder, call: Call) -> None:
    """Rolling by a fixed number moves other channels to the front when there are fewer of them."""
    source = call.inputs[0]
    dims = call.arg(2, "dims")
    rolled = range(source.dim()) if dims is None or dims == () else [dims] if isinstance(dims, int) else dims
    for layer in recorder.layers(source):
        for dim in rolled:
            recorder.stays(layer, dim % source.dim(), "`roll`")
    _put_moved(recorder, call, lambda ids: call.function(ids, *call.args[1:], **call.kwargs))


@handles("channel_shuffle native_channel_shuffle")
def channel_shuffle(recorder: Recorder, call: Call) -> None:
    """Channels of equal blocks are interleaved: every block keeps the same local positions."""
    source = call.inputs[0]
    ids = recorder.book.slice_ids(recorder.single(source, 1), 1, recorder.site())
    recorder.book.tie_blocks(ids, call.arg(1, "groups"), recorder.site())
    shuffled = ids.reshape(call.arg(1, "groups"), -1).t().reshape(-1)
    recorder.put(call.outputs[0], (along(shuffled, 1, source.shape),))


@handles("pixel_shuffle pixel_unshuffle")
def pixel_shuffle(recorder: Recorder, call: Call) -> None:
    """Run on the ids; the convolution that follows decides what vanishes together."""
    move(recorder, call)


def _swap(call: Call, source: Tensor, ids: Tensor) -> tuple[Any, ...]:
    return tuple(ids if a is source else a for a in call.args)


def _swap_kwargs(call: Call, source: Tensor, ids: Tensor) -> dict[str, Any]:
    return {name: ids if a is source else a for name, a in call.kwargs.items()}


def _tie_rows(recorder: Recorder, call: Call) -> None:
    """Note results that vary along more dimensions than what went in."""
    before = [len(varying(layer)) for layer in recorder.layers(call.inputs[0])]
    for output in call.outputs:
        for n, layer in zip(before, recorder.layers(output), strict=False):
            if len(varying(layer)) > max(n, 1):
                recorder.grid(layer, {})


# ---------------------------------------------------------------------------- views


@handles("view reshape unflatten view_as reshape_as expand expand_as")
def view(recorder: Recorder, call: Call) -> None:
    """Reshape the ids; every size argument must follow the widths."""
    source, output = call.inputs[0], call.outputs[0]
    if call.name == "view" and len(call.args) > 1 and isinstance(call.args[1], torch.dtype):
        recorder.give_up([source], [output], "is reinterpreted as another dtype")
        return
    sizes = _view_sizes(recorder, call)
    if call.name.startswith("expand"):
        _put_moved(recorder, call, lambda ids: ids.expand(output.shape))
    else:
        _put_moved(recorder, call, lambda ids: ids.reshape(output.shape))
    for before, layer in zip(recorder.layers(source), recorder.layers(output), strict=True):
        for dim, size in sizes.items():
            if size != -1 and (dim in varying(layer) or isinstance(size, TracedInt)):
                recorder.rule(size, Extent(layer, dim), f"`{call.name}`")
        if len(varying(layer)) > len(varying(before)):
            recorder.grid(layer, sizes)


def _view_sizes(recorder: Recorder, call: Call) -> dict[int, int]:
    """Return the size arguments of a view by output dimension (-1: follows by itself)."""
    if call.name in ("view_as", "reshape_as", "expand_as"):
        other = call.inputs[1]
        return {d: recorder.size(other, d) for d in range(other.dim())}
    if call.name == "unflatten":
        start = call.arg(1, "dim") % call.inputs[0].dim()
        return {start + i: size for i, size in enumerate(call.traced(2, "sizes"))}
    given: Sequence[Any] = call.traced_args[1:]
    if not given:
        given = next(iter(call.traced_kwargs.values()))
    if len(given) == 1 and not isinstance(given[0], int):
        given = given[0]
    return dict(enumerate(given))


# ---------------------------------------------------------------------------- joining


@handles("cat concat concatenate")
def cat(recorder: Recorder, call: Call) -> None:
    """Join the ids; along the other dimensions equal positions vanish together."""
    output = call.outputs[0]
    tensors = (
        [t for t in call.args[0] if not (t.dim() == 1 and t.numel() == 0)] if call.args else call.kwargs["tensors"]
    )
    dim = call.arg(1, "dim", call.kwargs.get("axis", 0)) % output.dim()
    _join(recorder, list(tensors), dim, output, torch.cat)


@handles("stack")
def stack(recorder: Recorder, call: Call) -> None:
    """Join the ids along a new dimension."""
    output = call.outputs[0]
    dim = call.arg(1, "dim", 0) % output.dim()
    tensors = call.arg(0, "tensors")
    _join(recorder, list(tensors), dim, output, torch.stack)


def _join(recorder: Recorder, tensors: list[Tensor], dim: int, output: Tensor, function: Callable[..., Tensor]) -> None:
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
    recorder: Recorder,
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


# ---------------------------------------------------------------------------- taking apart


@handles("chunk tensor_split")
def chunk(recorder: Recorder, call: Call) -> None:
    """Equal parts: they must keep equally many channels, not the same ones."""
    source = call.inputs[0]
    parts = call.arg(1, "chunks", call.kwargs.get("sections"))
    dim = call.arg(2, "dim", 0) % source.dim()
    _put_moved(recorder, call, lambda ids: call.function(ids, *call.args[1:], **call.kwargs))
    for layer in recorder.layers(source):
        if dim not in varying(layer):
            continue
        sizes = {output.shape[dim] for output in call.outputs}
        if not isinstance(parts, int) or len(sizes) > 1:
            recorder.stays(layer, dim, f"`{call.name}` into unequal parts")
            continue
        _equal_parts(recorder, layer, dim, len(call.outputs))


def _equal_parts(recorder: Recorder, layer: Tensor, dim: int, n: int) -> None:
    size = layer.shape[dim] // n
    extents = tuple(Extent(layer, dim, i * size, (i + 1) * size) for i in range(n))
    recorder.book.equal_counts.append(EqualCounts(extents, recorder.site()))


@handles("split split_with_sizes")
def split(recorder: Recorder, call: Call) -> None:
    """Parts of given sizes: each size must follow the part it cuts off."""
    source = call.inputs[0]
    sizes = call.traced(
        1, "split_size_or_sections", call.traced_kwargs.get("split_size", call.traced_kwargs.get("split_sizes"))
    )
    dim = call.arg(2, "dim", 0) % source.dim()
    plain = untraced(sizes)
    _put_moved(recorder, call, lambda ids: torch.split(ids, plain, dim))
    expected = [sizes] * len(call.outputs) if isinstance(sizes, int) else list(sizes)
    for layer in recorder.layers(source):
        start = 0
        for size, output in zip(expected, call.outputs, strict=True):
            stop = start + output.shape[dim]
            if dim in varying(layer) or isinstance(size, TracedInt):
                if output.shape[dim] == size:
                    recorder.rule(size, Extent(layer, dim, start, stop), "`split`")
                else:  # a smaller rest
                    recorder.stays(layer, dim, "`split` with a rest")
            start = stop


@handles("unbind select")
def unbind(recorder: Recorder, call: Call) -> None:
    """Single positions are taken out: that dimension keeps its size."""
    source = call.inputs[0]
    dim = call.arg(1, "dim", 0) % source.dim()
    for layer in recorder.layers(source):
        recorder.stays(layer, dim, f"`{call.name}`")
    _put_moved(recorder, call, lambda ids: call.function(ids, *call.args[1:], **call.kwargs))


@handles("narrow")
def narrow(recorder: Recorder, call: Call) -> None:
    """A contiguous range of positions."""
    source = call.inputs[0]
    dim = call.arg(1, "dim") % source.dim()
    start, length = call.traced(2, "start"), call.traced(3, "length")
    for layer in recorder.layers(source):
        slice_rule(recorder, layer, dim, slice(start, start + length))
    _put_moved(recorder, call, lambda ids: call.function(ids, *call.args[1:], **call.kwargs))


@handles("index_select gather take_along_dim masked_select unfold")
def pick(recorder: Recorder, call: Call) -> None:
    """Positions picked by an index: that dimension keeps its size."""
    source = call.inputs[0]
    if call.function is F.unfold:
        _im2col(recorder, call)
        return
    if call.name not in ("index_select", "unfold"):
        recorder.give_up([source], call.outputs, f"is picked by index through `{call.name}`")
        return
    dim = call.arg(1, "dim" if call.name == "index_select" else "dimension") % source.dim()
    for layer in recorder.layers(source):
        recorder.stays(layer, dim, f"`{call.name}`")
    rest, named = _on_cpu(call.args[1:]), _on_cpu(call.kwargs)
    _put_moved(recorder, call, lambda ids: call.function(ids, *rest, **named))


def _im2col(recorder: Recorder, call: Call) -> None:
    """Patches: ``(n, channels, h, w)`` to ``(n, channels * area, positions)``."""
    source, output = call.inputs[0], call.outputs[0]
    ids = recorder.book.slice_ids(recorder.single(source, 1), 1, recorder.site())
    recorder.put(output, (along(ids.repeat_interleave(output.shape[1] // len(ids)), 1, output.shape),))


# ---------------------------------------------------------------------------- indexing


def slice_rule(recorder: Recorder, layer: Tensor, dim: int, index: slice) -> None:
    """Note what the bounds of a slice must follow."""
    if dim not in varying(layer):
        return
    n = layer.shape[dim]
    if untraced(index.step) not in (None, 1):
        recorder.stays(layer, dim, "a slice with a step")
        return
    for bound in (index.start, index.stop):
        if bound is None or bound >= n or bound == 0:  # a bound behind the end stays behind it
            continue
        if bound > 0:
            recorder.rule(bound, Extent(layer, dim, 0, int(bound)), "a slice bound")
        else:
            recorder.rule(-bound, Extent(layer, dim, n + int(bound), n), "a slice bound")


def index_rules(recorder: Recorder, layer: Tensor, index: Any) -> None:
    """Note what an index expression asks of the dimensions it touches."""
    entries = list(index) if isinstance(index, tuple) else [index]
    taken = sum(_consumed(entry) for entry in entries)
    dim = 0
    for entry in entries:
        if entry is Ellipsis:
            dim += layer.dim() - taken
        elif entry is None or isinstance(entry, bool):
            continue
        elif isinstance(entry, slice):
            slice_rule(recorder, layer, dim, entry)
            dim += 1
        else:
            for touched in range(dim, dim + _consumed(entry)):
                recorder.stays(layer, touched, "an index")
            dim += _consumed(entry)


def _on_cpu(index: Any) -> Any:
    """Return an index whose tensors are where the ids are."""
    return pytree.tree_map(lambda entry: entry.cpu() if isinstance(entry, Tensor) else entry, index)


def _consumed(entry: Any) -> int:
    if entry is None or entry is Ellipsis or isinstance(entry, bool):
        return 0
    if isinstance(entry, Tensor) and entry.dtype in (torch.bool, torch.uint8):
        return entry.dim()
    return 1


@handles("__getitem__")
def getitem(recorder: Recorder, call: Call) -> None:
    """Index the ids."""
    source = call.args[0]
    index = call.args[1]
    if not recorder.follows([source]):  # a constant table indexed by an activation
        recorder.give_up(call.inputs[1:], call.outputs, "is used as an index")
        return
    for layer in recorder.layers(source):
        index_rules(recorder, layer, call.traced_args[1])
    _put_moved(recorder, call, lambda ids: ids[_on_cpu(index)])


@handles("__setitem__")
def setitem(recorder: Recorder, call: Call) -> None:
    """Follow ``x[index] = value``: the written elements take the ids of the value."""
    target, index, value = call.args[0], call.args[1], call.args[2]
    ids = recorder.single(target)
    for entry in ids, shrink(_written(recorder, ids, index, value)):
        index_rules(recorder, entry, call.traced_args[1])
    recorder.put(target, (_written(recorder, ids, index, value),))


def _written(recorder: Recorder, ids: Tensor, index: Any, value: Any) -> Tensor:
    written = ids.clone(memory_format=torch.contiguous_format)
    incoming = recorder.single(value) if isinstance(value, Tensor) else constant(())
    index = _on_cpu(index)
    region = written[index]
    if not has_ids(incoming) and has_ids(region):
        if isinstance(value, Tensor) and value.numel() > 1:
            recorder.book.pin(region, "is overwritten with a constant", recorder.site())
        return written
    written[index] = align(incoming, region.shape)
    return written


# ---------------------------------------------------------------------------- padding


@handles("pad")
def pad(recorder: Recorder, call: Call) -> None:
    """Added channels are constants that always stay; padding inside a channel belongs to it."""
    source, output = call.inputs[0], call.outputs[0]
    amounts = call.traced(1, "pad")
    mode = call.arg(2, "mode", "constant")
    results = []
    for layer in recorder.layers(source):
        result = layer
        for k in range(len(amounts) // 2):
            dim = source.dim() - 1 - k
            left, right = untraced(amounts[2 * k]), untraced(amounts[2 * k + 1])
            if dim not in varying(layer):
                shape = list(result.shape)
                shape[dim] = output.shape[dim]
                result = result.narrow(dim, 0, 1).expand(shape)
            elif mode == "constant" and left >= 0 and right >= 0:
                edge = [0, 0] * (source.dim() - 1 - dim) + [left, right]
                result = F.pad(result, edge)
                for amount, start in ((amounts[2 * k], 0), (amounts[2 * k + 1], left + layer.shape[dim])):
                    if isinstance(amount, TracedInt):
                        recorder.rule(amount, Extent(result, dim, start, start + int(amount)), "`pad`")
            elif left or right:
                recorder.give_up([source], [output], f"is padded over channels in mode {mode!r}")
                return
        results.append(result)
    recorder.put(output, tuple(results))


@handles("glu")
def glu(recorder: Recorder, call: Call) -> None:
    """First half times the sigmoid of the second: both halves keep the same channels."""
    source, output = call.inputs[0], call.outputs[0]
    dim = call.arg(1, "dim", -1) % source.dim()
    half = source.shape[dim] // 2
    layers = recorder.layers(source)
    for layer in layers:
        recorder.book.unite(layer.narrow(dim, 0, half), layer.narrow(dim, half, half), recorder.site())
    recorder.put(output, tuple(layer.narrow(dim, 0, half) for layer in layers))
