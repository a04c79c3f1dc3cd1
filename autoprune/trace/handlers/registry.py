"""The registry of handlers: a dictionary from the plain names of torch functions to their handlers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from autoprune.trace._recorder import IdRecorder

Handler = Callable[["IdRecorder", "TracedCall"], None]
HANDLERS: dict[str, Handler] = {}


@dataclass(frozen=True, eq=False)
class TracedCall:
    """One call of a torch function, after it was executed.

    Attributes:
        name: the function's name without underscores of operators and in-place forms.
        function: the function that was called.
        args: positional arguments with ordinary integers.
        kwargs: keyword arguments with ordinary integers.
        traced_args: positional arguments as the code passed them.
        traced_kwargs: keyword arguments as the code passed them.
        result: the function's return value.
        original: the values of a constant that an in-place function wrote into, before it did.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    traced_args: tuple[Any, ...]
    traced_kwargs: dict[str, Any]
    result: Any
    original: Tensor | None = None

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def traced(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument as the code passed it, sizes with their expressions."""
        return self.traced_args[position] if len(self.args) > position else self.traced_kwargs.get(name, default)

    @cached_property
    def inputs(self) -> list[Tensor]:
        """Every tensor among the arguments, in order."""
        return [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    @cached_property
    def outputs(self) -> list[Tensor]:
        """Every tensor in the result, in order."""
        return [leaf for leaf in pytree.tree_leaves(self.result) if isinstance(leaf, Tensor)]


def handles(names: str | Iterable[str]) -> Callable[[Handler], Handler]:
    """Register a handler for torch functions, given as one string separated by blanks or as several names."""

    def register(handler: Handler) -> Handler:
        for name in names.split() if isinstance(names, str) else names:
            HANDLERS[name] = handler
        return handler

    return register


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
