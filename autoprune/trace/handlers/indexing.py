"""Taking tensors apart: chunks, splits, slices, indices, and writing into them."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from autoprune.trace._book import EqualCounts, Extent
from autoprune.trace._ids import align, along, constant, has_ids, shrink, varying
from autoprune.trace._sizes import TracedInt, untraced
from autoprune.trace.handlers.elementwise import combine
from autoprune.trace.handlers.movement import put_moved
from autoprune.trace.handlers.registry import TracedCall, handles

if TYPE_CHECKING:
    from autoprune.trace._recorder import IdRecorder


@handles("chunk tensor_split")
def chunk(recorder: IdRecorder, call: TracedCall) -> None:
    """Equal parts: they must keep equally many channels, not the same ones."""
    source = call.inputs[0]
    parts = call.arg(1, "chunks", call.kwargs.get("sections"))
    dim = call.arg(2, "dim", 0) % source.dim()
    put_moved(recorder, call, lambda ids: call.function(ids, *call.args[1:], **call.kwargs))
    for layer in recorder.layers(source):
        if dim not in varying(layer):
            continue
        sizes = [output.shape[dim] for output in call.outputs]
        if isinstance(parts, int) and (len(set(sizes)) == 1 or call.name == "chunk"):
            _in_proportion(recorder, layer, dim, sizes)
        else:
            recorder.stays(layer, dim, f"`{call.name}` into unequal parts")


def _in_proportion(recorder: IdRecorder, layer: Tensor, dim: int, sizes: list[int]) -> None:
    """Let parts of an axis keep equal fractions of their channels, which `chunk` then takes apart in the same way."""
    stops = list(itertools.accumulate(sizes))
    extents = tuple(Extent(layer, dim, stop - size, stop) for stop, size in zip(stops, sizes, strict=True))
    whole = math.lcm(*sizes)
    recorder.book.equal_counts.append(EqualCounts(extents, recorder.site(), tuple(whole // size for size in sizes)))


@handles("split split_with_sizes")
def split(recorder: IdRecorder, call: TracedCall) -> None:
    """Parts of given sizes: each size must follow the part it cuts off."""
    source = call.inputs[0]
    sizes = call.traced(
        1, "split_size_or_sections", call.traced_kwargs.get("split_size", call.traced_kwargs.get("split_sizes"))
    )
    dim = call.arg(2, "dim", 0) % source.dim()
    plain = untraced(sizes)
    put_moved(recorder, call, lambda ids: torch.split(ids, plain, dim))
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
def unbind(recorder: IdRecorder, call: TracedCall) -> None:
    """Single positions are taken out: that dimension keeps its size."""
    source = call.inputs[0]
    dim = call.arg(1, "dim", 0) % source.dim()
    for layer in recorder.layers(source):
        recorder.stays(layer, dim, f"`{call.name}`")
    put_moved(recorder, call, lambda ids: call.function(ids, *call.args[1:], **call.kwargs))


@handles("narrow")
def narrow(recorder: IdRecorder, call: TracedCall) -> None:
    """A contiguous range of positions."""
    source = call.inputs[0]
    dim = call.arg(1, "dim") % source.dim()
    start, length = call.traced(2, "start"), call.traced(3, "length")
    for layer in recorder.layers(source):
        slice_rule(recorder, layer, dim, slice(start, start + length))
    put_moved(recorder, call, lambda ids: call.function(ids, *call.args[1:], **call.kwargs))


@handles("hsplit vsplit dsplit")
def split_along(recorder: IdRecorder, call: TracedCall) -> None:
    """Equal or given parts of a fixed dimension."""
    source = call.inputs[0]
    dim = {"hsplit": min(1, source.dim() - 1), "vsplit": 0, "dsplit": 2}[call.name]
    put_moved(recorder, call, lambda ids: call.function(ids, *call.args[1:], **call.kwargs))
    for layer in recorder.layers(source):
        if dim in varying(layer) and len({output.shape[dim] for output in call.outputs}) == 1:
            _in_proportion(recorder, layer, dim, [output.shape[dim] for output in call.outputs])
        else:
            recorder.stays(layer, dim, f"`{call.name}` into unequal parts")


@handles("gather take_along_dim")
def gather(recorder: IdRecorder, call: TracedCall) -> None:
    """Positions along one dimension, picked anew at every other place: the others keep what they are.

    An index that was itself computed channel by channel (where a pool found its values) vanishes with its channel.
    """
    source, index = call.inputs[:2]
    dim = call.arg(1, "dim") if call.name == "gather" else call.arg(2, "dim")
    if dim is None:
        recorder.give_up([source], call.outputs, f"is picked by index through `{call.name}`")
        return
    own = [layer for layer in recorder.layers(index) if has_ids(layer)] if recorder.carries(index) else []
    if index.dim() != source.dim() or any(dim % source.dim() in varying(layer) for layer in own):
        _refuse_channels_as_index(recorder, index)
        own = []
    for layer in recorder.layers(source):
        for other in range(source.dim()):
            if other == dim % source.dim() or index.shape[other] not in (1, source.shape[other]):
                recorder.stays(layer, other, f"`{call.name}`")
    put_moved(recorder, call, lambda ids: torch.take_along_dim(ids, index.cpu(), dim) if call.name != "gather" else (
        torch.gather(ids.expand(source.shape), dim, index.cpu())
    ))  # fmt: skip
    for layer in own:
        for moved in recorder.layers(call.outputs[0]):
            recorder.book.unite(layer, moved, recorder.site())


def _refuse_channels_as_index(recorder: IdRecorder, index: Tensor) -> None:
    if recorder.carries(index):
        recorder.give_up([index], [], "is used as an index")


@handles("index_add index_copy index_fill index_reduce scatter scatter_add scatter_reduce")
def write_along(recorder: IdRecorder, call: TracedCall) -> None:
    """Write to positions along one dimension: along the others equal places of both tensors belong together."""
    target, index, *sources = call.inputs
    output = call.outputs[0]
    dim = call.arg(1, "dim") % target.dim()
    _refuse_channels_as_index(recorder, index)
    sources = [t for t in sources if t.dim()]
    rows = []
    for tensor in (target, *sources):
        rest = [size for d, size in enumerate(tensor.shape) if d != dim]
        places = [
            size for d, size in enumerate((index if call.name.startswith("scatter") else tensor).shape) if d != dim
        ]
        if rest != [size for d, size in enumerate(target.shape) if d != dim] or rest != places:
            recorder.give_up([target, *sources], [output], f"is written in part by `{call.name}`")
            return
        row = tensor.narrow(dim, 0, 1)
        if recorder.follows([tensor]):
            for layer in recorder.layers(tensor):
                recorder.stays(layer, dim, f"`{call.name}`")
            recorder.put(row, tuple(layer.narrow(dim, 0, 1) for layer in recorder.layers(tensor)))
        rows.append(row)
    both = torch.empty_like(rows[0])
    combine(recorder, rows, both)
    recorder.put(output, tuple(layer.expand(output.shape) for layer in recorder.layers(both)))


@handles("index_put")
def index_put(recorder: IdRecorder, call: TracedCall) -> None:
    """``x[indices] = values``, or ``+=``."""
    target, index = call.args[0], tuple(call.arg(1, "indices"))
    _write(recorder, target, call.outputs[0], index, index, call.arg(2, "values"))


@handles("index_select masked_select unfold")
def pick(recorder: IdRecorder, call: TracedCall) -> None:
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
    put_moved(recorder, call, lambda ids: call.function(ids, *rest, **named))


def _im2col(recorder: IdRecorder, call: TracedCall) -> None:
    """Patches: ``(n, channels, h, w)`` to ``(n, channels * area, positions)``."""
    source, output = call.inputs[0], call.outputs[0]
    ids = recorder.book.slice_ids(recorder.single(source, 1), 1, recorder.site())
    recorder.put(output, (along(ids.repeat_interleave(output.shape[1] // len(ids)), 1, output.shape),))


def slice_rule(recorder: IdRecorder, layer: Tensor, dim: int, index: slice) -> None:
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


def index_rules(recorder: IdRecorder, layer: Tensor, index: Any) -> None:
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
def getitem(recorder: IdRecorder, call: TracedCall) -> None:
    """Index the ids."""
    source = call.args[0]
    index = call.args[1]
    if not recorder.follows([source]):  # a constant table indexed by an activation
        recorder.give_up(call.inputs[1:], call.outputs, "is used as an index")
        return
    single = _single_position(index, source.dim())
    for layer in recorder.layers(source):
        if varying(layer) == single:  # may be taken for its shape alone
            recorder.debts.owe(call.outputs[0], layer, "has a size hard-coded in an index")
        else:
            index_rules(recorder, layer, call.traced_args[1])
    put_moved(recorder, call, lambda ids: ids[_on_cpu(index)])


def _single_position(index: Any, n_dims: int) -> tuple[int, ...] | None:
    """Return the dimension at whose end one position is taken, all others being taken whole; None for other indices."""
    entries = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in entries:
        at = entries.index(Ellipsis)
        entries[at : at + 1] = [slice(None)] * (n_dims - len(entries) + 1)
    taken = tuple(d for d, entry in enumerate(entries) if entry != slice(None))
    return taken if len(taken) == 1 and type(entries[taken[0]]) is int and entries[taken[0]] in (0, -1) else None


@handles("__setitem__")
def setitem(recorder: IdRecorder, call: TracedCall) -> None:
    """Follow ``x[index] = value``: the written elements take the ids of the value."""
    target, index, value = call.args
    _write(recorder, target, target, index, call.traced_args[1], value)


def _write(recorder: IdRecorder, target: Tensor, output: Tensor, index: Any, traced_index: Any, value: Any) -> None:
    width = recorder.layers(value)[0] if isinstance(value, Tensor) and recorder.follows([value]) else None
    last = varying(width)[-1] - width.dim() if width is not None and varying(width) else 0
    ids = recorder.single(target, target.dim() + last)
    for entry in ids, shrink(_written(recorder, ids, index, value)):
        index_rules(recorder, entry, traced_index)
    recorder.put(output, (_written(recorder, ids, index, value),))


def _written(recorder: IdRecorder, ids: Tensor, index: Any, value: Any) -> Tensor:
    written = ids.clone(memory_format=torch.contiguous_format)
    incoming = recorder.single(value) if isinstance(value, Tensor) else constant(())
    index = _on_cpu(index)
    region = written[index]
    if not has_ids(incoming) and has_ids(region):
        if isinstance(value, Tensor) and value.numel() > 1:
            recorder.book.pin(region, "is overwritten with a constant", recorder.site())
        return written
    incoming = shrink(align(incoming, region.shape).expand(region.shape))
    recorder.adopt(shrink(region), incoming)
    written[index] = incoming
    return written
