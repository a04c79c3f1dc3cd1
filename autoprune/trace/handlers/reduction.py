"""Norms, pools, resampling and reductions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from autoprune.surgery.precision import is_inexact
from autoprune.trace._book import Attach, Extent
from autoprune.trace._ids import along, constant, has_ids, varying
from autoprune.trace._statistics import AVERAGES, STATISTICS
from autoprune.trace.handlers.registry import TracedCall, handles

if TYPE_CHECKING:
    from autoprune.trace._recorder import IdRecorder

_POOLS = """
max_pool avg_pool adaptive_avg_pool adaptive_max_pool lp_pool fractional_max_pool
"""
_POOL_NAMES = [f"{name}{k}d{suffix}" for name in _POOLS.split() for k in (1, 2, 3) for suffix in ("", "_with_indices")]


def tie_last(recorder: IdRecorder, layer: Tensor, k: int) -> Tensor:
    """Tie everything along the last ``k`` dimensions and return ids that do not vary along them."""
    for dim in range(layer.dim() - k, layer.dim()):
        if dim in varying(layer):
            recorder.book.unite(layer, layer.narrow(dim, 0, 1), recorder.site())
            layer = layer.narrow(dim, 0, 1).expand(layer.shape)
    return layer


def _with_last(layer: Tensor, k: int, shape: Sequence[int]) -> Tensor:
    for dim in range(layer.dim() - k, layer.dim()):
        layer = layer.narrow(dim, 0, 1)
    return layer.expand(tuple(shape))


@handles(_POOL_NAMES)
def pool(recorder: IdRecorder, call: TracedCall) -> None:
    """Pools act inside a channel: the last 1, 2 or 3 dimensions."""
    k = next(int(part[-2]) for part in call.name.split("_") if part.endswith("d") and part[-2:-1].isdigit())
    _spatial(recorder, call, k)


@handles("interpolate upsample upsample_nearest upsample_bilinear grid_sample")
def resample(recorder: IdRecorder, call: TracedCall) -> None:
    """Resampling acts inside a channel: everything behind batch and channels."""
    _spatial(recorder, call, call.inputs[0].dim() - 2)


@handles("roi_align roi_pool")
def regions(recorder: IdRecorder, call: TracedCall) -> None:
    """Pooled regions of feature maps, ``(n, channels, h, w)`` to ``(regions, channels, h, w)``."""
    x, output = call.inputs[0], call.outputs[0]
    for extra in call.inputs[1:]:
        if recorder.carries(extra):
            recorder.give_up([extra], [], f"steers `{call.name}`")
    ids = recorder.book.slice_ids(recorder.single(x, 1), 1, recorder.site())
    for each in call.outputs:
        recorder.put(each, (along(ids, 1, output.shape),))


_TRANSFORMS = [f"fft_{kind}fft{n}" for kind in ("", "i", "r", "ir", "h", "ih") for n in ("", "2", "n")]


@handles([*_TRANSFORMS, "diff"])
def transform(recorder: IdRecorder, call: TracedCall) -> None:
    """Functions that mix the elements of some dimensions: the others keep their channels."""
    x, output = call.inputs[0], call.outputs[0]
    default = (-2, -1) if call.name.endswith("2") else -1 if not call.name.endswith("n") else None
    dims = call.arg(2, "dims" if "dim" not in call.kwargs else "dim", default)
    dims = tuple(range(x.dim())) if dims is None else (dims,) if isinstance(dims, int) else tuple(dims)
    layers = recorder.layers(x)
    for dim in (d % x.dim() for d in dims):
        for layer in layers:
            recorder.stays(layer, dim, f"`{call.name}`")
        layers = tuple(layer.narrow(dim, 0, 1) for layer in layers)
    recorder.put(output, tuple(layer.expand(output.shape) for layer in layers))


def _spatial(recorder: IdRecorder, call: TracedCall, k: int) -> None:
    layers = [tie_last(recorder, layer, k) for layer in recorder.layers(call.inputs[0])]
    for extra in call.inputs[1:]:
        if recorder.follows([extra]):
            recorder.give_up([extra], [], f"steers `{call.name}`")
    for output in call.outputs:
        recorder.put(output, tuple(_with_last(layer, k, output.shape) for layer in layers))


def _pin_statistics(recorder: IdRecorder, call: TracedCall, dims: Iterable[int]) -> None:
    """Let channels of a weight stay over which its statistics are taken: the weights that are kept would change.

    Not where a batch norm standardizes it: over the channels that are left, as every norm does.
    """
    if recorder.is_weight(call.inputs[0]):
        for layer in recorder.layers(call.inputs[0]):
            mixed = sorted(set(dims) & set(varying(layer)))
            if len(mixed) == len(varying(layer)) == 1 and call.name == "batch_norm" and call.arg(5, "training", False):
                recorder.debts.statistic(layer, mixed[0], [], "")
            elif mixed:
                recorder.book.pin(layer, f"is normalized over by `{call.name}`", recorder.site())


@handles("batch_norm instance_norm native_batch_norm")
def batch_norm(recorder: IdRecorder, call: TracedCall) -> None:
    """Statistics per channel; weight, bias and running statistics follow the channels."""
    x = call.inputs[0]
    site = recorder.site()
    _pin_statistics(recorder, call, [d for d in range(x.dim()) if d != 1])
    layers = recorder.layers(x)
    for layer in layers:
        if 1 in varying(layer):
            ids = recorder.book.slice_ids(layer, 1, site)
            break
    else:
        ids = constant((x.shape[1],))
    for tensor in call.inputs[1:]:
        recorder.book.unite(ids, recorder.channel_ids(tensor, 0), site)
    recorder.put(call.outputs[0], layers)


@handles("group_norm")
def group_norm(recorder: IdRecorder, call: TracedCall) -> None:
    """Statistics per block of channels: every block keeps the same local positions; one channel a block is free."""
    x = call.inputs[0]
    site = recorder.site()
    _pin_statistics(recorder, call, range(1, x.dim()))
    layer = recorder.single(x, 1)
    ids = recorder.book.slice_ids(layer, 1, site)
    blocks = call.traced(1, "num_groups")
    if int(blocks) == x.shape[1]:
        recorder.rule(blocks, Extent(ids, 0), "the groups of a group norm")
    else:
        recorder.book.tie_blocks(ids, int(blocks), site)
    for tensor in call.inputs[1:]:
        recorder.book.unite(ids, recorder.channel_ids(tensor, 0), site)
    recorder.put(call.outputs[0], (layer,))


@handles("layer_norm rms_norm")
def layer_norm(recorder: IdRecorder, call: TracedCall) -> None:
    """Statistics over the last dimensions; they change with the kept channels, as they should."""
    x = call.inputs[0]
    sizes = call.traced(1, "normalized_shape")
    layers = recorder.layers(x)
    k = len(sizes)
    _pin_statistics(recorder, call, range(x.dim() - k, x.dim()))
    if k > 1 and any(set(varying(layer)) & set(range(x.dim() - k, x.dim())) for layer in layers):
        recorder.give_up([x, *call.inputs[1:]], call.outputs, "is normalized over several dimensions at once")
        return
    last = x.dim() - 1
    layer = recorder.single(x, last)
    if last in varying(layer):
        recorder.rule(sizes[-1], Extent(layer, last), "the normalized shape")
    for tensor in call.inputs[1:]:
        follow(recorder, layer, last, recorder.channel_ids(tensor, tensor.dim() - 1))
    recorder.put(call.outputs[0], (layer,))


def follow(recorder: IdRecorder, layer: Tensor, dim: int, vector: Tensor) -> None:
    """Let a per-position vector follow dimension ``dim`` of ids that may not be decided yet."""
    if len(varying(layer)) > 1:
        recorder.book.attaches.append(Attach(layer, dim, vector, recorder.site()))
    else:
        recorder.book.unite(recorder.book.slice_ids(layer, dim, recorder.site()), vector, recorder.site())


_REDUCTIONS = """
mean sum amax amin std var prod any all logsumexp norm vector_norm var_mean std_mean argmax argmin median nansum nanmean
aminmax count_nonzero linalg_vector_norm
"""
_REDUCTION_DIM = {"norm": 2, "logsumexp": 1, "vector_norm": 2, "linalg_vector_norm": 2}


@handles(_REDUCTIONS)
def reduction(recorder: IdRecorder, call: TracedCall) -> None:
    """Reductions inside a channel pass the ids on; reductions over channels pin them."""
    x = call.inputs[0]
    dims = call.arg(_REDUCTION_DIM.get(call.name, 1), "dim")
    if dims is None or isinstance(dims, bool | Tensor) or (isinstance(dims, list | tuple) and not dims):
        dims = list(range(x.dim()))
    reduced = {d % x.dim() for d in ([dims] if isinstance(dims, int) else dims)} if x.dim() else set()
    results = []
    for layer in recorder.layers(x):
        mixed = reduced & set(varying(layer))
        if mixed and len(mixed) < len(varying(layer)):
            for dim in mixed:  # another dimension may still be the one that is cut
                recorder.stays(layer, dim, f"`{call.name}`")
            results.append(layer)
        elif mixed:
            # of weights only what keeps its scale over fewer of them: a norm would make those that are left larger
            taken = AVERAGES if recorder.is_weight(x) else STATISTICS
            if call.name in taken and len(mixed) == 1:
                recorder.debts.statistic(
                    layer, next(iter(mixed)), call.outputs, f"is reduced over channels by `{call.name}`"
                )
            else:
                _reduced(recorder, call, layer, weight=recorder.is_weight(x))
            results.append(constant(x.shape))
        else:
            results.append(layer)
    for output in call.outputs:
        keeps = output.dim() == x.dim()
        recorder.put(output, tuple(_reduce(layer, reduced, keeps=keeps) for layer in results))


def _reduced(recorder: IdRecorder, call: TracedCall, layer: Tensor, *, weight: bool) -> None:
    reason = f"is reduced over channels by `{call.name}`"
    # a number may decide something in Python; one that comes from a weight more likely scales it, by way of a float
    if all(output.numel() == 1 and not (weight and is_inexact(output)) for output in call.outputs):
        for output in call.outputs:
            recorder.debts.owe(output, layer, reason)
    else:
        recorder.book.pin(layer, reason, recorder.site())


def _reduce(layer: Tensor, dims: set[int], *, keeps: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        layer = layer.narrow(dim, 0, 1) if keeps else layer.select(dim, 0)
    return layer


_ALONG = """
softmax log_softmax softmin normalize cumsum cumprod sort topk argsort cummax cummin logcumsumexp gumbel_softmax
"""
_ALONG_DIM = {"topk": 2, "normalize": 2, "gumbel_softmax": 4}
_ALONG_DEFAULT = {"normalize": 1, "cumsum": None}


@handles(_ALONG)
def along_dimension(recorder: IdRecorder, call: TracedCall) -> None:
    """Functions that mix the elements of one dimension: channels there are pinned."""
    x = call.inputs[0]
    dim = call.arg(_ALONG_DIM.get(call.name, 1), "dim", _ALONG_DEFAULT.get(call.name, -1))
    dim = (dim if isinstance(dim, int) else -1) % max(x.dim(), 1)
    layers = recorder.layers(x)
    for layer in layers:
        if dim in varying(layer) and has_ids(layer):
            if len(varying(layer)) > 1:
                recorder.stays(layer, dim, f"`{call.name}`")
            elif call.name == "normalize" and not recorder.is_weight(x):
                recorder.debts.statistic(layer, dim, [], "")
            else:
                recorder.book.pin(layer, f"is mixed with other channels by `{call.name}`", recorder.site())
    for output in call.outputs:
        if output.shape == x.shape:
            recorder.put(output, layers)
        else:  # topk: fewer positions of a pinned dimension
            recorder.give_up([x], [output], f"goes through `{call.name}`")
