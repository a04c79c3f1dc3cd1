"""Counting the multiply-adds of single operators, and of everything that a forward pass runs.

Counted is whatever sums products: convolutions, matrix products, attention, recurrent layers, bilinear forms, distances
of all pairs. The counter looks at operators as dispatch sees them, so it does not matter through which function, module
or fused kernel they are called. What it knows to compute and cannot count, it names.

A multiply-add of complex numbers counts as `COMPLEX` = 3 real ones: so many real convolutions torch runs for a complex
one, (a + ib)(c + id) from ac, bd and (a + b)(c + d). Products of complex matrices are counted alike, so that a layer
costs the same as a convolution and as a linear layer; written out in real blocks, as runtimes without complex numbers
need it, both take 4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from torch import Tensor
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

UNCOUNTED = re.compile(
    r"fft|linalg_|matrix_exp|cholesky|_solve|ormqr|geqrf|sparse|_mm|conv|rnn|lstm|gru|attention|_tbc|linear"
)
"""Operators of torch with such names compute, and are named where `COUNTED` does not know them."""

COMPLEX = 3
"""Real multiply-adds that a complex one counts."""

FREE = frozenset({
    "aten::linalg_vector_norm", "aten::linalg_cross", "aten::_thnn_fused_lstm_cell", "aten::_thnn_fused_gru_cell",
    "aten::upsample_linear1d", "aten::upsample_bilinear2d", "aten::_upsample_bilinear2d_aa",
    "aten::upsample_trilinear3d", "torchvision::nms", "torchvision::roi_align", "torchvision::roi_pool",
    "torchvision::ps_roi_align", "torchvision::ps_roi_pool",
})  # fmt: skip
"""Operators that would be named otherwise, and have no product of two tensors to count."""


def _product(*operands: int) -> Callable[..., int]:
    """Count ``(..., m, k) @ (..., k, n)`` of the arguments at two positions; vectors may stand for matrices."""

    def count(args: Sequence[Any], result: Any) -> int:  # noqa: ARG001
        a, b = (args[i] for i in operands)
        return a.numel() * (b.shape[-1] if b.dim() > 1 else 1)

    return count


def _grouped(args: Sequence[Any], result: Any) -> int:  # noqa: ARG001
    """Count a product in groups: of matrices, of rows with a matrix each, or of blocks of columns and rows."""
    a, b = args[:2]
    return (a[0] if a.dim() > b.dim() else a).numel() * b.shape[-1]


def _convolution(args: Sequence[Any], result: Any) -> int:
    x, weight, transposed = args[0], args[1], bool(args[6]) if len(args) > 6 else False
    return (x if transposed else result).numel() * (weight.numel() // weight.shape[0])


def _attention(args: Sequence[Any], result: Any) -> int:  # noqa: ARG001
    query, key, value = args[:3]
    return query.numel() // query.shape[-1] * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _trilinear(args: Sequence[Any], result: Any) -> int:  # noqa: ARG001
    """Count the product of three tensors, each of which gets the dimensions it lacks as in `torch._trilinear`."""
    sizes = []
    for tensor, added in zip(args[:3], args[3:6], strict=True):
        for dim in added:
            tensor = tensor.unsqueeze(dim)
        sizes.append(tensor.shape)
    return math.prod(map(max, *sizes))


def _distances(args: Sequence[Any], result: Any) -> int:
    return result.numel() * args[0].shape[-1]


def _one_recurrent_layer(args: Sequence[Any], result: Any) -> int:  # noqa: ARG001
    steps = args[0].numel() // args[0].shape[-1]
    return steps * sum(weight.numel() for weight in args[1:3])


def _recurrent_layers(args: Sequence[Any], result: Any) -> int:  # noqa: ARG001
    steps = args[0].numel() // args[0].shape[-1]
    return steps * sum(weight.numel() for weight in args[1] if weight.dim() == 2)


def _deformed(args: Sequence[Any], result: Any) -> int:
    weight = args[1]
    return result.numel() * (weight.numel() // weight.shape[0])


COUNTED: Mapping[str, Callable[[Sequence[Any], Any], int]] = {
    **dict.fromkeys(("aten::mm", "aten::bmm", "aten::mv", "aten::dot", "aten::vdot", "aten::_int_mm"), _product(0, 1)),
    **dict.fromkeys(
        ("aten::addmm", "aten::baddbmm", "aten::addbmm", "aten::addmv", "aten::_addmm_activation"), _product(1, 2)
    ),
    "aten::_scaled_mm": _product(0, 1),
    "aten::_grouped_mm": _grouped,
    **dict.fromkeys(
        ("aten::convolution", "aten::_convolution", "aten::convolution_overrideable", "aten::cudnn_convolution"),
        _convolution,
    ),
    **dict.fromkeys(
        (
            "aten::_scaled_dot_product_flash_attention_for_cpu",
            "aten::_scaled_dot_product_flash_attention",
            "aten::_scaled_dot_product_efficient_attention",
            "aten::_scaled_dot_product_cudnn_attention",
            "aten::_scaled_dot_product_fused_attention_overrideable",
        ),
        _attention,
    ),
    "aten::_trilinear": _trilinear,
    "aten::_cdist_forward": _distances,
    "aten::_euclidean_dist": _distances,
    "aten::mkldnn_rnn_layer": _one_recurrent_layer,
    "aten::_cudnn_rnn": _recurrent_layers,
    "aten::miopen_rnn": _recurrent_layers,
    "torchvision::deform_conv2d": _deformed,
}
"""Multiply-adds by operator, from its arguments and its result."""


def per_product(result: Any) -> int:
    """Return the real multiply-adds that each one counts of an operator with this return value."""
    return COMPLEX if isinstance(result, Tensor) and result.is_complex() else 1


def multiply_adds(operator: str, args: Sequence[Any], result: Any) -> int | None:
    """Return the multiply-adds of one operator, None where it computes and it is not known how much.

    Args:
        operator: its name, such as ``"aten::mm"``.
        args: its positional arguments.
        result: the operator's return value.
    """
    count = COUNTED.get(operator)
    if count is not None:
        return count(args, result) * per_product(result)
    return 0 if _is_free(operator) else None


@cache
def _is_free(operator: str) -> bool:
    """Say whether an operator that is not counted is known to multiply nothing."""
    is_torch = operator.startswith(("aten::", "prim::", "prims::", "profiler::"))
    return operator in FREE or (is_torch and UNCOUNTED.search(operator) is None)


@cache
def _name(func: Any) -> str:
    """Return the name of an operator, without that of its overload."""
    return func.name().partition(".")[0] if isinstance(func, OpOverload) else str(func)


@cache
def _is_composed(func: Any) -> bool:
    """Say whether an operator is to be taken apart: it is made of others, and not counted by itself."""
    if not isinstance(func, OpOverload) or _name(func) in COUNTED or func.name().startswith("prim::"):
        return False
    return func.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)


class MacCounter(TorchDispatchMode):
    """Counts the multiply-adds of everything that runs under it.

    Attributes:
        macs: multiply-adds so far.
        left_out: names of operators that ran, compute, and are not counted.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do not load the compiler (ten seconds) to keep it away from a mode that never meets compiled code."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.left_out: dict[str, None] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operator and count it; in inference mode composed operators arrive whole and are taken apart."""
        name = _name(func)
        if _is_composed(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        found = multiply_adds(name, args, result)
        if found is None:
            self.left_out[name] = None
        else:
            self.macs += found
        return result
