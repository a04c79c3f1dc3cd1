"""Checks of settings, each said once: what a field may be, and the message when it is not.

Every function takes a dataclass and names of its fields. None passes where the field's type says so; what compares with
no number, such as NaN or a text, never does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container, Iterable
from typing import Any, cast

from autoprune.errors import InvalidArgumentError, shown, unknown_name


def positive(settings: object, *names: str, finite: bool = False) -> None:
    """Refuse what is not above 0.

    Args:
        settings: whose fields.
        names: names of the fields.
        finite: infinity is refused, too.
    """
    what = "positive and finite" if finite else "positive"
    _each(settings, names, what, lambda value: value > 0 and not (finite and math.isinf(value)))


def not_negative(settings: object, *names: str) -> None:
    """Refuse what is below 0 or infinite."""
    _each(settings, names, "finite and not negative", lambda value: 0 <= value < math.inf)


def at_least(settings: object, least: float, *names: str) -> None:
    """Refuse what is below ``least``."""
    _each(settings, names, f"at least {least}", lambda value: value >= least)


def share(settings: object, *names: str, but: Container[float] = (), of: str = "") -> None:
    """Refuse what is not in 0..1.

    Args:
        settings: whose fields.
        names: names of the fields.
        but: the ends, 0 or 1, that are refused, too.
        of: the whole that they are shares of, in words.
    """
    ends = [str(end) for end in (0, 1) if end in but]
    what = f"a share{f' of {of}' if of else ''} in 0..1" + (f", {' and '.join(ends)} excluded" if ends else "")
    _each(settings, names, what, lambda value: 0 <= value <= 1 and value not in but)


def one_of(settings: object, name: str, known: Iterable[str], kind: str = "") -> None:
    """Refuse a name that is not among ``known``, with a suggestion.

    Raises:
        UnknownNameError: it is not.
    """
    value, known = getattr(settings, name), tuple(known)
    if value not in known:
        raise unknown_name(kind or name, value, known)


def _each(settings: object, names: Iterable[str], what: str, is_right: Callable[[Any], bool]) -> None:
    types = {item.name: str(item.type) for item in dataclasses.fields(cast(Any, settings))}
    for name in names:
        value = getattr(settings, name)
        try:
            passes = "None" in types[name] if value is None else bool(is_right(value))
        except (TypeError, ValueError):
            passes = False
        if not passes:
            msg = f"expected {name} to be {what}, got {shown(value)}"
            raise InvalidArgumentError(msg)
