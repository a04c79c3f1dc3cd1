"""Settings as users give them: an instance of the right class, a mapping of its fields, or nothing."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from autoprune.errors import AutopruneError, InvalidArgumentError, did_you_mean, shown

SettingsT = TypeVar("SettingsT")


def settings_of(kind: type[SettingsT], given: object, owner: str) -> SettingsT:
    """Return ``given`` as an instance of ``kind``.

    Args:
        kind: the frozen dataclass that is wanted; every field has a default.
        given: an instance of it; one of a class that it extends, whose missing fields keep their defaults; a mapping of
            field names to values; or None for the defaults.
        owner: the taker of these settings, in words, for the message.

    Raises:
        InvalidArgumentError: it is of another class (one with fields that nobody here reads, too), names a field that
            there is not, or has a value that cannot be used.
    """
    if given is None:
        return kind()
    if isinstance(given, kind) and set(_names(type(given))) == set(_names(kind)):
        return given
    if isinstance(given, Mapping):
        return _made(kind, given, owner)
    if issubclass(kind, type(given)) and dataclasses.is_dataclass(given):
        return shared_settings(kind, given)
    came = f"the class {given.__name__} itself, not an instance" if isinstance(given, type) else _came(given)
    msg = f"expected the settings of {owner} as {_signature(kind)} or a mapping of these fields, got {came}"
    raise InvalidArgumentError(msg)


def shared_settings(kind: type[SettingsT], given: object) -> SettingsT:
    """Return ``kind`` with the fields that it has in common with the dataclass instance ``given``, else defaults."""
    return kind(**{name: getattr(given, name) for name in _names(kind) if hasattr(given, name)})


def as_integer(value: Any) -> int | None:
    """Return ``value`` as an integer where it is one, numpy's too; None for anything else, ``True`` included."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _made(kind: type[SettingsT], given: Mapping[Any, Any], owner: str) -> SettingsT:
    defaults = {
        item.name: item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        for item in dataclasses.fields(cast(Any, kind))
        if item.init
    }
    for name in given:
        if name not in defaults:
            hint = did_you_mean(str(name), defaults)
            msg = f"unknown setting {shown(name)} of {owner}{hint}; expected {_signature(kind)}"
            raise InvalidArgumentError(msg)
    try:
        return kind(**{name: _nested(defaults[name], value, owner) for name, value in given.items()})
    except AutopruneError:
        raise
    except (TypeError, ValueError) as error:  # a value of a type that the checks of the class cannot even compare
        msg = f"expected the settings of {owner} as {_signature(kind)}, got {shown(dict(given))}: {error}"
        raise InvalidArgumentError(msg) from error


def _nested(default: object, value: object, owner: str) -> object:
    """Return a mapping in the place of settings as such settings."""
    is_settings = dataclasses.is_dataclass(default) and not isinstance(default, type)
    return settings_of(type(default), value, owner) if is_settings and isinstance(value, Mapping) else value


def _names(kind: type[Any]) -> list[str]:
    return [item.name for item in dataclasses.fields(kind) if item.init]


def _signature(kind: type[Any]) -> str:
    return f"{kind.__name__}({', '.join(_names(kind))})"


def _came(given: object) -> str:
    return _signature(type(given)) if dataclasses.is_dataclass(given) else shown(given)
