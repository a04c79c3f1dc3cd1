"""Public names that are imported on first use, so that listing what there is imports nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from autoprune.core.registry import imported


def lazy_names(package: str, where: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package that resolves its public names on first use.

    Args:
        package: the package's ``__name__``.
        where: the module of every public name; ``"module:attribute"`` where it is called something else there.
    """

    def get(name: str) -> Any:
        if name not in where:
            msg = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(msg)
        path = where[name]
        value = imported(path if ":" in path else f"{path}:{name}")
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted(sys.modules[package].__all__)

    return get, names
