"""Statistics over channels legitimately change when channels vanish; here they are replaced by what does not.

A cut model and a masked one can only be equal where they compute the same thing. Layer, group and rms norms become
their affine part; norms written by hand take their statistics over the channels that
a cut model has. A norm over the two samples of a batch, which at a single position is a step from -1 to 1 that turns
rounding into anything, becomes smooth. Dropout drops nothing, and casts to another precision cast nothing: what is
compared is compared in the model's own one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.core.groups import BoolArray, Structure
from autoprune.surgery.precision import is_inexact, precision
from autoprune.surgery.reading import reading_axes
from autoprune.trace._statistics import APPLIED, STATISTICS, StatisticCalls, watch_modules
from autoprune.trace.handlers import plain_name

_EPSILON = 1.0  # beside the variance of samples, which may be that of two equal ones: a norm amplifies no rounding


class NeutralStatistics(TorchFunctionMode):
    """Runs a model with statistics over channels replaced.

    Args:
        model: the model that will be run: its parameters' precision is what casts keep.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._weights: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._dtype = torch.get_default_dtype()
        for parameter in model.parameters():
            self._weights[parameter] = True
            if is_inexact(parameter):
                self._dtype = precision(parameter)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Execute ``func`` or what replaces it."""
        kwargs = kwargs or {}
        replacement = _REPLACED.get(func)
        if replacement is not None:
            return replacement(*args, **kwargs)
        if getattr(func, "__name__", "") in _CASTS and _to_a_float(args, kwargs):
            own = args[0]
            return own if own in self._weights else own.clone() if own.is_floating_point() else own.to(self._dtype)
        return func(*args, **kwargs)


class KeptStatistics(TorchFunctionMode):
    """Lets a dense model take its own statistics over the channels that are kept, as a cut model does.

    Args:
        structure: the traced structure of the model.
        kept: (n_genes,) boolean array.
    """

    def __init__(self, structure: Structure, kept: BoolArray) -> None:
        super().__init__()
        self._kept = {
            (s.module, s.place, s.call): (s.dim, torch.from_numpy(structure.kept_positions(s, kept)), len(s.genes))
            for s in structure.statistics
        }
        shapes = {info.name: info.shape for info in structure.tensors}
        self._unread = [
            (name, shapes[name], dim, torch.from_numpy(np.flatnonzero((genes >= 0) & ~kept[genes])))
            for name, dim, genes in reading_axes(structure)
        ]
        self._stack = [""]
        self._calls = StatisticCalls()

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Replace the statistics of ``model`` inside."""
        handles = watch_modules(model, self._stack)
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Execute ``func``, over the kept channels where it takes a statistic of them."""
        kwargs = kwargs or {}
        name, _ = plain_name(func)
        if name not in STATISTICS:
            return func(*self._reading(name, args), **kwargs)
        module, place, call = self._calls.name(self._stack[-1])
        dim, positions, size = self._kept.get((module, place, -1)) or self._kept.get((module, place, call)) or _ALL
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Tensor) or x.dim() <= dim or x.shape[dim] != size:
            return func(*args, **kwargs)
        own = x.index_select(dim, positions.to(x.device))
        result = func(own, *args[1:], **kwargs) if args else func(**{**kwargs, "input": own})
        return torch.zeros_like(x).index_copy(dim, positions.to(x.device), result) if name in APPLIED else result

    def _reading(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments of a layer that computes its weight, which reads nothing of what is removed.

        A parameter that is zero there may have become anything once it is standardized.
        """
        is_layer = name.startswith(("conv", "linear")) and len(args) > 1
        if not is_layer or not isinstance(args[1], Tensor) or isinstance(args[1], nn.Parameter):
            return args
        x, weight, *rest = args
        inside = f"{self._stack[-1]}." if self._stack[-1] else ""
        for source, shape, dim, removed in self._unread:
            if source.startswith(inside) and shape == weight.shape:
                weight = weight.index_fill(dim, removed.to(weight.device), 0.0)
        return (x, weight, *rest)


_ALL: tuple[int, Tensor, int] = (0, torch.zeros(0), -1)  # of no tensor


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x * weight if weight is not None else x
    return x + bias if bias is not None else x * 1


def _layer_norm(
    input: Tensor,
    normalized_shape: Any,  # noqa: ARG001
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 0.0,  # noqa: ARG001
    cudnn_enable: object = None,  # noqa: ARG001
) -> Tensor:
    return _affine(input, weight, bias)


def _rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:  # noqa: ARG001
    return _affine(input, weight, None)


def _group_norm(
    input: Tensor,
    num_groups: int,  # noqa: ARG001
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 0.0,  # noqa: ARG001
    cudnn_enabled: object = None,  # noqa: ARG001
) -> Tensor:
    shape = (-1, *(1,) * (input.dim() - 2))
    return _affine(
        input, None if weight is None else weight.reshape(shape), None if bias is None else bias.reshape(shape)
    )


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,  # noqa: FBT001, FBT002
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    eps = max(eps, _EPSILON) if training else eps
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,  # noqa: FBT001, FBT002
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    eps = max(eps, _EPSILON) if use_input_stats else eps
    return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    is_causal: bool = False,  # noqa: FBT001, FBT002
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: FBT001, FBT002
) -> Tensor:
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
    )


def _kept(input: Tensor, *_: object, **__: object) -> Tensor:
    return input * 1


_CASTS = {"to", "type_as", "half", "bfloat16", "float", "double"}


def _to_a_float(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Say whether a call takes a tensor to a floating precision and nowhere else (not to another device)."""
    own, *others = args
    if not isinstance(own, Tensor) or own.is_complex():
        return False
    for other in (*others, *kwargs.values()):
        match other:
            case torch.dtype():
                casts = other.is_floating_point
            case Tensor():
                casts = other.is_floating_point() and other.device == own.device
            case _:
                casts = isinstance(other, bool | torch.memory_format)
        if not casts:
            return False
    return True


_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)
_REPLACED: dict[Any, Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    F.scaled_dot_product_attention: _attention,
    **dict.fromkeys(_DROPOUTS, _kept),
}
