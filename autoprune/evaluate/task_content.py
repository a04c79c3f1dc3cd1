"""Contents of a task beside its code: settings of metrics, closures, globals, bound arguments, state.

Metrics are coarse: two that differ may say the same of every model that is looked at. So numbers and texts that a task
can reach are part of what is known about it. What changes while models are measured is its memory, and left out.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import inspect
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor, nn

MAX_DEPTH, MAX_LEAVES, MAX_BYTES = 8, 20_000, 64 * 2**20
"""What lies deeper, comes later or is larger is not looked at: it is data rather than a setting."""

_MEMORY: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""By task, the ways to what was seen to change."""

_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


def content_of(task: Any) -> dict[str, str]:
    """Return every number, text and array that a task can reach, in short, by the way to it."""
    found: dict[str, str] = {}
    for path, leaf in _leaves(task, "task", 0, set()):
        found[path] = leaf
        if len(found) >= MAX_LEAVES:
            break
    return found


def hash_settings(task: Any, *looks: Mapping[str, str]) -> str:
    """Return the SHA-256 of what is the same in every look at a task.

    What has ever changed is memory from then on: a task that was used once is known again when it is used again.
    """
    changed = {path for look in looks for path, leaf in look.items() if any(o.get(path) != leaf for o in looks)}
    try:
        changed |= _MEMORY.get(task, set())
        _MEMORY[task] = changed
    except TypeError:  # an object without weak references or without a hash
        pass
    kept = sorted(item for item in looks[0].items() if item[0] not in changed)
    return hashlib.sha256(repr(kept).encode()).hexdigest()


def _leaves(value: Any, path: str, depth: int, above: Set[int]) -> Iterator[tuple[str, str]]:
    """Yield the leaves below ``value``; ``above`` are the identities of what leads to it."""
    if value is None or isinstance(value, ModuleType | type) or depth > MAX_DEPTH or id(value) in above:
        return  # None is often what is filled in later
    if isinstance(value, enum.Enum):
        yield path, str(value)
    elif isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        yield path, repr(value)
    elif isinstance(value, np.ndarray | Tensor):
        array = value.detach().cpu().float().numpy() if isinstance(value, Tensor) else value
        if array.nbytes <= MAX_BYTES and array.dtype.kind in "biufU":
            yield path, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    else:
        for name, part in _parts(value):
            yield from _leaves(part, f"{path}.{name}", depth + 1, above | {id(value)})


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    """Return what a value consists of, by name."""
    if isinstance(value, Mapping):
        return [(repr(key), item) for key, item in value.items() if isinstance(key, str | int)]
    if isinstance(value, tuple | list):
        return [(str(i), item) for i, item in enumerate(value)]
    if isinstance(value, Set):
        return [(repr(item), True) for item in value if isinstance(item, str | int | float)]
    if isinstance(value, functools.partial):
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    if inspect.ismethod(value):
        return [("self", value.__self__), ("func", value.__func__)]
    if inspect.isfunction(value):
        return [] if _is_of_library(value) else _parts_of_function(value)
    attributes = getattr(value, "__dict__", {})
    slots = [item.name for item in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    attributes = {**attributes, **{name: getattr(value, name, None) for name in slots}}
    if isinstance(value, nn.Module):  # of metrics and losses these are settings; the others count and accumulate
        attributes = {name: item for name, item in attributes.items() if not name.startswith("_")}
    return [("type", type(value).__qualname__), *attributes.items()]


def _parts_of_function(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    try:
        seen = inspect.getclosurevars(function)
        code = inspect.getsource(function)
    except (TypeError, OSError, ValueError):  # typed at a prompt; or a variable of a closure is not there yet
        return [("code", function.__qualname__), ("defaults", function.__defaults__)]
    named = {**seen.globals, **seen.nonlocals}
    return [
        ("code", code),
        ("defaults", [getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None)]),
        *sorted(named.items()),
    ]


def _is_of_library(function: Callable[..., Any]) -> bool:
    try:
        file = str(Path(inspect.getfile(function)).resolve())
    except (TypeError, OSError):
        return True
    return file.startswith(_LIBRARIES)
