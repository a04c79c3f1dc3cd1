"""Names of torch functions, without the ornaments of operators and in-place forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ARITHMETIC = {"add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"}

_OPERATOR_NAMES = {
    "truediv": "div", "matmul": "matmul", "rmatmul": "matmul", "and": "bitwise_and", "or": "bitwise_or",
    "xor": "bitwise_xor", "invert": "bitwise_not", "mod": "remainder", "floordiv": "floor_divide",
}  # fmt: skip


def plain_name(function: Callable[..., Any]) -> tuple[str, bool]:
    """Return a torch function's name without operator underscores, and whether it is an in-place form."""
    name = getattr(function, "__name__", str(function))
    if name == "__get__":
        return "get:" + getattr(getattr(function, "__self__", None), "__name__", ""), False
    if name.startswith("__") and name.endswith("__"):
        bare = name[2:-2]
        if bare in ("getitem", "setitem", "len", "array"):
            return name, bare == "setitem"
        in_place = bare.startswith("i") and bare[1:] in _ARITHMETIC
        reflected = bare.startswith("r") and bare[1:] in _ARITHMETIC
        bare = bare[1:] if in_place or reflected else bare
        return _OPERATOR_NAMES.get(bare, bare), in_place
    if name.endswith("_") and not name.endswith("__"):
        return name[:-1], True
    return name.removeprefix("_") if name.startswith("_adaptive") else name, False
