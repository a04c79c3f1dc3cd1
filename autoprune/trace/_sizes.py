"""Integers that remember where they came from: a traced size, a module's attribute, or arithmetic on those.

During a trace ``x.shape`` and the integers kept on modules are `TracedInt`. When one of them arrives as a size
argument (``view``, ``split``, a slice bound), its expression tells whether the size follows the widths by itself, can
be made to follow by rewriting an attribute, or is hard-coded.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}


@dataclass(frozen=True)
class AxisSize:
    """The size of an axis seen during the trace; ``token`` indexes the recorder's list of sighted axes."""

    token: int


@dataclass(frozen=True)
class ModuleInt:
    """An integer on a module: ``index`` is the place within a tuple or list, -1 for a plain integer."""

    module: str
    name: str
    index: int = -1


@dataclass(frozen=True)
class Arithmetic:
    """Two expressions joined by an operator."""

    sign: str
    left: Expression
    right: Expression


Expression = int | AxisSize | ModuleInt | Arithmetic


class TracedInt(int):
    """An ordinary integer to the code that uses it, with the expression it was computed by."""

    expression: Expression
    compared: ClassVar[list[tuple[Expression, Expression]] | None] = None  # pairs found equal, while one is kept

    def __new__(cls, value: int, expression: Expression) -> TracedInt:
        """Make an integer equal to ``value``."""
        traced = super().__new__(cls, value)
        traced.expression = expression
        return traced

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        is_equal = int.__eq__(self, other)
        if is_equal is True and TracedInt.compared is not None and isinstance(other, TracedInt):
            TracedInt.compared.append((self.expression, other.expression))
        return is_equal

    def __ne__(self, other: object) -> bool:
        is_equal = self == other
        return is_equal if is_equal is NotImplemented else not is_equal

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return (int, (int(self),))

    def __copy__(self) -> TracedInt:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedInt:
        return self


def expression_of(value: int) -> Expression:
    """Return the expression of a traced integer, the value itself for an ordinary one."""
    return value.expression if isinstance(value, TracedInt) else int(value)


def _install(method: str, sign: str, *, reflected: bool) -> None:
    compute = _OPERATORS[sign]

    def apply(self: TracedInt, other: object) -> Any:
        if not isinstance(other, int) or isinstance(other, bool):
            return NotImplemented
        left, right = (other, self) if reflected else (self, other)
        value = compute(int(left), int(right))
        return TracedInt(value, Arithmetic(sign, expression_of(left), expression_of(right)))

    setattr(TracedInt, method, apply)


for _sign, _name in (("+", "add"), ("-", "sub"), ("*", "mul"), ("//", "floordiv"), ("%", "mod")):
    _install(f"__{_name}__", _sign, reflected=False)
    _install(f"__r{_name}__", _sign, reflected=True)


def evaluate(expression: Expression, leaf: Callable[[AxisSize | ModuleInt], int]) -> int:
    """Compute an expression with the given values of its leaves.

    Raises:
        ZeroDivisionError: a division by a leaf that is zero.
    """
    match expression:
        case Arithmetic(sign, left, right):
            return _OPERATORS[sign](evaluate(left, leaf), evaluate(right, leaf))
        case AxisSize() | ModuleInt():
            return leaf(expression)
        case _:
            return expression


def leaves(expression: Expression) -> Iterator[AxisSize | ModuleInt]:
    """Yield the leaves of an expression, left to right."""
    match expression:
        case Arithmetic(_, left, right):
            yield from leaves(left)
            yield from leaves(right)
        case AxisSize() | ModuleInt():
            yield expression
        case _:
            return


def untraced(value: Any) -> Any:
    """Return a copy of nested tuples, lists, dicts and slices with ordinary integers."""
    if isinstance(value, TracedInt):
        return int(value)
    if isinstance(value, slice):
        return slice(untraced(value.start), untraced(value.stop), untraced(value.step))
    if type(value) in (tuple, list):
        return type(value)(untraced(v) for v in value)
    if type(value) is dict:
        return {k: untraced(v) for k, v in value.items()}
    if isinstance(value, tuple) and any(isinstance(v, TracedInt) for v in value):  # torch.Size
        return tuple(untraced(v) for v in value)
    return value
