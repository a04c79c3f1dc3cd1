"""Functions that only move data: they are executed on the ids themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.trace._book import Extent
from autoprune.trace._ids import along, constant, has_ids, varying
from autoprune.trace._sizes import AxisSize, TracedInt, expression_of, untraced
from autoprune.trace.handlers.factories import issue
from autoprune.trace.handlers.registry import TracedCall, handles

if TYPE_CHECKING:
    from autoprune.trace._recorder import IdRecorder


def on_ids(function: Callable[[Tensor], Any], ids: Tensor) -> Any:
    """Run a data-moving function on ids; kernels without an integer form run on (exact) doubles."""
    try:
        return function(ids)
    except (RuntimeError, NotImplementedError):
        moved = function(ids.double())
        return moved.long() if isinstance(moved, Tensor) else tuple(m.long() for m in moved)


def put_moved(recorder: IdRecorder, call: TracedCall, function: Callable[[Tensor], Any]) -> None:
    """Give the results of a call the ids that ``function``, which only moves data, makes of its first input's."""
    moved = []
    for layer in recorder.layers(call.inputs[0]):
        if has_ids(layer):
            result = on_ids(function, layer)
            moved.append([result] if isinstance(result, Tensor) else list(result))
        else:
            moved.append([constant(output.shape) for output in call.outputs])
    for i, output in enumerate(call.outputs):
        recorder.put(output, tuple(parts[i] for parts in moved))


_MOVES = """
permute transpose t swapaxes swapdims movedim moveaxis squeeze unsqueeze flip fliplr flipud rot90 atleast_2d
tile repeat repeat_interleave get:T get:mT get:H atleast_1d flatten ravel adjoint
"""
_VIEWS = "view reshape unflatten view_as reshape_as"
_EXPANSIONS = "expand expand_as broadcast_to"

MOVING = frozenset(f"{_MOVES} {_VIEWS} {_EXPANSIONS}".split()) | {"__getitem__"}
"""Plain names of functions that move elements and compute nothing."""


@handles(_MOVES)
def move(recorder: IdRecorder, call: TracedCall) -> None:
    """Run the same function on the ids."""
    if call.name.startswith("get:"):
        attribute = call.name[4:]
        put_moved(recorder, call, lambda ids: getattr(ids, attribute))
    elif call.name == "flatten":
        put_moved(recorder, call, lambda ids: ids.reshape(call.outputs[0].shape))
    else:
        source = call.inputs[0]
        put_moved(
            recorder, call, lambda ids: call.function(*_swap(call, source, ids), **_swap_kwargs(call, source, ids))
        )
    _tie_rows(recorder, call)


@handles("roll")
def roll(recorder: IdRecorder, call: TracedCall) -> None:
    """Rolling by a fixed number moves other channels to the front when there are fewer of them."""
    source = call.inputs[0]
    dims = call.arg(2, "dims")
    rolled = range(source.dim()) if dims is None or dims == () else [dims] if isinstance(dims, int) else dims
    for layer in recorder.layers(source):
        for dim in rolled:
            recorder.stays(layer, dim % source.dim(), "`roll`")
    put_moved(recorder, call, lambda ids: call.function(ids, *call.args[1:], **call.kwargs))


@handles("channel_shuffle native_channel_shuffle")
def channel_shuffle(recorder: IdRecorder, call: TracedCall) -> None:
    """Channels of equal blocks are interleaved: every block keeps the same local positions."""
    source = call.inputs[0]
    ids = recorder.book.slice_ids(recorder.single(source, 1), 1, recorder.site())
    recorder.book.tie_blocks(ids, call.arg(1, "groups"), recorder.site())
    shuffled = ids.reshape(call.arg(1, "groups"), -1).t().reshape(-1)
    recorder.put(call.outputs[0], (along(shuffled, 1, source.shape),))


@handles("pixel_shuffle pixel_unshuffle")
def pixel_shuffle(recorder: IdRecorder, call: TracedCall) -> None:
    """Run on the ids; the convolution that follows decides what vanishes together."""
    move(recorder, call)


def _swap(call: TracedCall, source: Tensor, ids: Tensor) -> tuple[Any, ...]:
    return tuple(ids if a is source else a for a in call.args)


def _swap_kwargs(call: TracedCall, source: Tensor, ids: Tensor) -> dict[str, Any]:
    return {name: ids if a is source else a for name, a in call.kwargs.items()}


def _tie_rows(recorder: IdRecorder, call: TracedCall) -> None:
    """Note results that vary along more dimensions than what went in."""
    before = [len(varying(layer)) for layer in recorder.layers(call.inputs[0])]
    for output in call.outputs:
        for n, layer in zip(before, recorder.layers(output), strict=False):
            if len(varying(layer)) > max(n, 1):
                recorder.grid(layer, {})


@handles(_VIEWS)
def view(recorder: IdRecorder, call: TracedCall) -> None:
    """Reshape the ids; every size argument must follow the widths."""
    source, output = call.inputs[0], call.outputs[0]
    if call.name == "view" and len(call.args) > 1 and isinstance(call.args[1], torch.dtype):
        recorder.give_up([source], [output], "is reinterpreted as another dtype")
        return
    sizes = _view_sizes(recorder, call)
    put_moved(recorder, call, lambda ids: ids.reshape(output.shape))
    _follow_sizes(recorder, call, sizes)
    for before, layer in zip(recorder.layers(source), recorder.layers(output), strict=True):
        if len(varying(layer)) > len(varying(before)):
            recorder.grid(layer, sizes)


@handles(_EXPANSIONS)
def expand(recorder: IdRecorder, call: TracedCall) -> None:
    """Repeat what has size 1: a size that was computed vanishes with whatever the result meets."""
    source, output = call.inputs[0], call.outputs[0]
    put_moved(recorder, call, lambda ids: ids.expand(output.shape))
    moved, new = recorder.layers(output), output.dim() - source.dim()
    sizes = _view_sizes(recorder, call)
    repeated = {dim: size for dim, size in sizes.items() if dim < new or source.shape[dim - new] == 1}
    carried = tuple(layer for layer in moved if has_ids(layer))
    if carried:  # as wide as another axis; a number of repetitions is none
        repeated = {dim: size for dim, size in repeated.items() if isinstance(expression_of(size), AxisSize)}
    made = issue(recorder, call, repeated)
    recorder.put(output, (*carried, *made) or moved)
    if carried:
        _follow_sizes(recorder, call, sizes)


def _follow_sizes(recorder: IdRecorder, call: TracedCall, sizes: dict[int, int]) -> None:
    """Note what the size arguments of a view must follow, given by dimension of the result."""
    layers = recorder.layers(call.outputs[0])
    for layer in layers:
        for dim, size in sizes.items():
            other = any(dim in varying(known) for known in layers)  # the size is that of the layer that varies there
            if size != -1 and (dim in varying(layer) or (isinstance(size, TracedInt) and not other)):
                recorder.rule(size, Extent(layer, dim), f"`{call.name}`")


def _view_sizes(recorder: IdRecorder, call: TracedCall) -> dict[int, int]:
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


@handles("pad")
def pad(recorder: IdRecorder, call: TracedCall) -> None:
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


@handles("view_as_complex view_as_real get:real get:imag")
def complex_parts(recorder: IdRecorder, call: TracedCall) -> None:
    """Real and imaginary parts, joined to or taken from one number; as a view they are the last dimension."""
    source, output = call.inputs[0], call.outputs[0]
    if call.name == "view_as_complex":
        for layer in recorder.layers(source):
            recorder.stays(layer, source.dim() - 1, "`view_as_complex`")
        recorder.put(output, tuple(layer.select(-1, 0) for layer in recorder.layers(source)))
    else:
        spread = (*source.shape, 1)[: output.dim()]
        recorder.put(output, tuple(layer.reshape(spread).expand(output.shape) for layer in recorder.layers(source)))


@handles("glu")
def glu(recorder: IdRecorder, call: TracedCall) -> None:
    """First half times the sigmoid of the second: both halves keep the same channels."""
    source, output = call.inputs[0], call.outputs[0]
    dim = call.arg(1, "dim", -1) % source.dim()
    half = source.shape[dim] // 2
    layers = recorder.layers(source)
    for layer in layers:
        recorder.book.unite(layer.narrow(dim, 0, half), layer.narrow(dim, half, half), recorder.site())
    recorder.put(output, tuple(layer.narrow(dim, 0, half) for layer in layers))
