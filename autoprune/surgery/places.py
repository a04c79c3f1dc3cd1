"""Where a module keeps an integer: on itself, or in settings that it holds, such as the config of a transformer.

A place is a dotted name: ``num_heads``, ``config.hidden_sizes``, ``config.text_config.width``, ``args.dim`` of a dict.
Settings are plain objects and dicts with nothing but plain values in them. Modules share them, and one number may stand
for a width that was cut in one module and for one that was not in the next: what a cut changes is a copy that belongs
to the module which reads it.
"""

from __future__ import annotations

import copy
import enum
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.groups import Attribute
from autoprune.errors import SurgeryError

_ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, enum.Enum, Path, type, FunctionType, BuiltinFunctionType),
    *(torch.dtype, torch.device, torch.Size),
)
_TORCHS_OWN = frozenset(vars(nn.Module()))


@dataclass(frozen=True)
class Settings:
    """Settings that belong to one module.

    Attributes:
        module: dotted name of the module.
        place: dotted name within it.
        values: the dictionary of their values.
        shared: whether other modules held the same ones, of which each has a copy now.
    """

    module: str
    place: str
    values: dict[str, Any]
    shared: bool


def own_settings(model: nn.Module) -> list[Settings]:
    """Replace all settings that the modules of ``model`` hold by copies, and return these."""
    known: dict[int, bool] = {}
    held = [
        (path, module, name, value)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if name not in _TORCHS_OWN and _is_settings(value, known)
    ]
    holders = Counter(id(value) for *_, value in held)
    found: list[Settings] = []
    for path, module, name, value in held:
        for place, values in _owned(vars(module), name, name, known):
            found.append(Settings(path, place, values, shared=holders[id(value)] > 1))
    return found


def _owned(
    holder: dict[str, Any], key: str, place: str, known: dict[int, bool]
) -> Iterator[tuple[str, dict[str, Any]]]:
    holder[key] = _copied(holder[key])
    values = contents(holder[key])
    yield place, values
    for inner, value in list(values.items()):
        if isinstance(inner, str) and "." not in inner and _is_settings(value, known):
            yield from _owned(values, inner, f"{place}.{inner}", known)


def contents(settings: Any) -> dict[str, Any]:
    """Return the dictionary that holds the values of settings."""
    return settings if type(settings) is dict else vars(settings)


def read(module: nn.Module, place: str) -> Any:
    """Return what is at a place of a module, None where there is no such place."""
    *path, name = place.split(".")
    if not path:
        return getattr(module, name, None)
    values = _inside(module, path)
    return None if values is None else values.get(name)


def setters(model: nn.Module, attributes: Iterable[Attribute]) -> list[Callable[[Any], None]]:
    """Return a function for every attribute that sets its value; settings are copied for their module, once.

    Args:
        model: the model that is to be changed.
        attributes: the attributes that are to be set.

    Raises:
        SurgeryError: the model has no such module or place.
    """
    own: dict[tuple[str, ...], dict[str, Any]] = {}
    found: list[Callable[[Any], None]] = []
    for attribute in attributes:
        try:
            module = model.get_submodule(attribute.module)
        except AttributeError as error:
            msg = f"expected the model to have the module {attribute.module!r} it was traced with"
            raise SurgeryError(msg) from error
        *path, name = attribute.name.split(".")
        if not path:
            found.append(partial(object.__setattr__, module, name))
            continue
        if read(module, attribute.name) is None:
            msg = f"expected {attribute.module or 'the model'!r} to have {attribute.name}, as it was traced"
            raise SurgeryError(msg)
        values = vars(module)
        for i, part in enumerate(path):
            key = (attribute.module, *path[: i + 1])
            if key not in own:
                values[part] = _copied(values[part])
                own[key] = contents(values[part])
            values = own[key]
        found.append(partial(values.__setitem__, name))
    return found


def _inside(module: nn.Module, path: list[str]) -> dict[str, Any] | None:
    """Return the values of the settings at a path; None where no settings are there."""
    values = vars(module)
    for i, part in enumerate(path):
        if part not in values or (i == 0 and part in _TORCHS_OWN) or not _is_settings(values[part], {}):
            return None
        values = contents(values[part])
    return values


def _is_settings(value: Any, known: dict[int, bool]) -> bool:
    """Say whether a value is a plain object or dict, with plain values, that can be copied."""
    is_candidate = type(value) is dict or (hasattr(value, "__dict__") and not isinstance(value, _ATOMS))
    return is_candidate and _is_plain(value, known) and _copied(value) is not None


def _is_plain(value: Any, known: dict[int, bool]) -> bool:
    if isinstance(value, _ATOMS):
        return True
    if id(value) in known:
        return known[id(value)]
    known[id(value)] = False  # what holds itself is not plain
    if isinstance(value, nn.Module | Tensor) or callable(value):
        return False
    parts: list[Any] = list(vars(value).values()) if hasattr(value, "__dict__") else []
    if isinstance(value, Mapping):
        parts += [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts += value
    elif not hasattr(value, "__dict__"):
        return False
    known[id(value)] = all(_is_plain(part, known) for part in parts)
    return known[id(value)]


def _copied(settings: Any) -> Any:
    """Return a copy of settings with values of its own, which are the same; None where they refuse."""
    try:
        copied = copy.copy(settings)
    except Exception:  # noqa: BLE001  (users' classes may raise anything while they are copied)
        return None
    is_one = type(copied) is type(settings) and contents(copied) is not contents(settings)
    return copied if is_one and contents(copied).keys() == contents(settings).keys() else None
