"""Element-wise functions: equal elements vanish together."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autoprune.trace._book import Attach
from autoprune.trace._ids import Layers, align, compact, constant, has_ids, varying
from autoprune.trace.handlers.reduction import reduction
from autoprune.trace.handlers.registry import TracedCall, handles

if TYPE_CHECKING:
    from autoprune.trace._recorder import IdRecorder

_UNARY = """
relu relu6 gelu silu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu selu celu mish softplus softsign
logsigmoid tanhshrink hardshrink softshrink threshold exp expm1 log log2 log10 log1p sqrt rsqrt abs neg reciprocal
square sin cos tan asin acos atan sinh cosh erf erfc floor ceil round trunc frac sign clamp clamp_min clamp_max clip
nan_to_num isnan isinf isfinite logical_not bitwise_not clone detach to float double half bfloat16 type type_as cpu
cuda contiguous dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout requires_grad
zeros_like ones_like empty_like full_like rand_like randn_like bernoulli zero fill normal uniform get:data conj
identity rrelu positive digamma lgamma bool int long deg2rad rad2deg resolve_conj resolve_neg
angle sgn conj_physical
"""

_BINARY = """
add sub rsub mul div divide multiply subtract true_divide floor_divide pow maximum minimum max min fmod remainder where
lerp addcmul addcdiv masked_fill eq ne lt le gt ge logical_and logical_or logical_xor bitwise_and bitwise_or atan2 copy
logaddexp hypot heaviside clamp float_power xlogy fmax fmin polar complex
"""


ELEMENTWISE = frozenset((_UNARY + _BINARY).split())
"""Plain names of functions that compute every element from the elements at its place."""


@handles(_UNARY)
def unary(recorder: IdRecorder, call: TracedCall) -> None:
    """Pass the ids of the first tensor on."""
    for output in call.outputs:
        recorder.put(output, recorder.layers(call.inputs[0]))


@handles(_BINARY)
def binary(recorder: IdRecorder, call: TracedCall) -> None:
    """Let equal elements of all operands vanish together, with broadcasting."""
    if call.name in ("max", "min") and len(call.inputs) == 1:  # the same names reduce when given one tensor
        reduction(recorder, call)
        return
    if call.name == "copy":
        target = call.outputs[0]
        layers = tuple(align(layer, target.shape) for layer in recorder.layers(call.inputs[1]))
        for before, after in itertools.product(recorder.layers(target), layers):
            recorder.adopt(before, after.expand(target.shape))
        recorder.put(target, layers)
        return
    combine(recorder, call.inputs, call.outputs[0], call.original)


@handles("_weight_norm")
def weight_norm(recorder: IdRecorder, call: TracedCall) -> None:
    """``g * v / |v|``: the norm is taken over all dimensions but one (-1: over all)."""
    v, g, dim = call.args[0], call.args[1], call.arg(2, "dim", 0)
    for layer in recorder.layers(v):
        if set(varying(layer)) - {dim}:
            recorder.book.pin(layer, f"is normalized over by `{call.name}`", recorder.site())
    combine(recorder, [v, g], call.outputs[0])


@handles("prelu")
def prelu(recorder: IdRecorder, call: TracedCall) -> None:
    """Slopes, one per channel or one for all."""
    x, slopes = call.inputs
    layers = recorder.layers(x)
    if slopes.numel() > 1:
        channel = min(1, x.dim() - 1)
        ids = recorder.book.slice_ids(recorder.single(x, channel), channel, recorder.site())
        recorder.book.unite(ids, recorder.channel_ids(slopes, 0), recorder.site())
    recorder.put(call.outputs[0], layers)


def combine(recorder: IdRecorder, operands: list[Tensor], output: Tensor, original: Tensor | None = None) -> None:
    """Set the ids of an element-wise result and tie the operands.

    Args:
        recorder: the recorder that holds the ids of all activations.
        operands: the tensors that are combined.
        output: the result, which is one of the operands for an in-place function.
        original: the values ``output`` had before, where it was a constant.
    """
    shape = output.shape
    # activations first: a tensor of the model has one layer per dimension and follows the activation
    followed = sorted((t for t in operands if recorder.follows([t])), key=recorder.is_weight)
    aligned = [(t, tuple(align(layer, shape) for layer in recorder.layers(t))) for t in followed]
    result: list[Tensor] = []
    for _, layers in aligned:
        for layer in layers:
            _join(recorder, result, layer, shape)
    for layer in tuple(result):
        blocked = [d for d in varying(layer) if _meets_fixed(aligned, d, len(shape))]
        reason = recorder.about("combined element by element with channels that must stay", operands)
        _keep(recorder, result, layer, blocked, reason)
    for tensor in operands:
        if not recorder.follows([tensor]):
            values = align(original if original is not None and tensor is output else tensor, shape)
            for layer in tuple(result):
                blocked = [d for d in varying(layer) if _differs(values, d)]
                reason = recorder.about("combined with a constant that differs from channel to channel", [tensor])
                _keep(recorder, result, layer, blocked, reason)
    recorder.put(output, tuple(result) if result else (constant(shape),))


def _join(recorder: IdRecorder, result: list[Tensor], layer: Tensor, shape: torch.Size) -> None:
    """Tie ``layer`` to a layer of the result that varies along the same dimensions, or add it."""
    dims = set(varying(layer))
    if not dims and not has_ids(layer):
        return
    for known in result:
        theirs = set(varying(known))
        if not dims & theirs:
            continue
        if len(dims) == 1 < len(theirs):  # a vector laid along one dimension of undecided ids
            (dim,) = dims
            recorder.book.attaches.append(Attach(known, dim, compact(layer).reshape(-1), recorder.site()))
        else:
            recorder.book.unite(known, layer, recorder.site())
        return
    if not dims and any(varying(known) for known in result):
        recorder.book.pin(layer, "is one channel combined with many", recorder.site())
        return
    result.append(layer.expand(shape))


def _meets_fixed(aligned: list[tuple[Tensor, Layers]], dim: int, n: int) -> bool:
    """Say whether some operand has as many elements along ``dim`` and all of them stay."""
    for tensor, layers in aligned:
        own = dim - (n - tensor.dim())
        if own >= 0 and tensor.shape[own] > 1 and not any(dim in varying(layer) for layer in layers):
            return True
    return False


def _differs(values: Tensor, dim: int) -> bool:
    return values.shape[dim] > 1 and not bool((values == values.narrow(dim, 0, 1)).all())


def _keep(recorder: IdRecorder, result: list[Tensor], layer: Tensor, dims: list[int], reason: str) -> None:
    """Let ``dims`` of a layer keep their size."""
    if not dims:
        return
    if len(varying(layer)) > len(dims):  # another dimension may still be the one that is cut
        for dim in dims:
            recorder.stays(layer, dim, reason)
    else:
        recorder.book.pin(layer, reason, recorder.site())
        result[:] = [known for known in result if known is not layer]
