"""Settings as users give them: an instance of the right class, a mapping of its fields, or nothing."""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from autoprune.errors import AutopruneError, InvalidArgumentError, did_you_mean, shown

SettingsT = TypeVar("SettingsT")


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """Settings of something that has none."""


def as_json(settings: Any) -> dict[str, Any]:
    """Return settings as JSON types, as a file brings them back; arrays and numbers of numpy are written, too.

    Raises:
        TypeError: a value has no such form.
    """
    written: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings), default=_plain))
    return written


def changed(settings: Any) -> dict[str, Any]:
    """Return the settings that differ from the defaults of their class, JSON types."""
    usual = as_json(type(settings)())
    return {name: value for name, value in as_json(settings).items() if value != usual[name]}


def identifying(settings: Any) -> dict[str, Any]:
    """Return settings as a mapping that names what they decide, nested ones too.

    ``cpu_bfloat16`` is younger than runs that others have; off, it is left out, and they keep their names.
    """

    def named(values: Mapping[str, Any]) -> dict[str, Any]:
        known = {key: value for key, value in values.items() if key != "cpu_bfloat16" or value}
        return {key: named(value) if isinstance(value, dict) else value for key, value in known.items()}

    return named(dataclasses.asdict(settings))


def in_words(name: str, settings: Mapping[str, Any]) -> str:
    """Return a name with settings of JSON types behind it: ``taylor (squared=true)``."""
    shown_ones = ", ".join(f"{key}={json.dumps(value, sort_keys=True)}" for key, value in sorted(settings.items()))
    return f"{name} ({shown_ones})" if shown_ones else name


def name_and_settings(given: Any, argument: str, example: str) -> tuple[Any, Any]:
    """Return what a user named, and the settings that came with it: ``"l1"``, ``("l1", {"readers": False})``.

    Args:
        given: a pair of a name and settings, or the name alone.
        argument: name of the argument, for the message.
        example: a pair, for the message.

    Raises:
        InvalidArgumentError: it is a sequence of something else.
    """
    if not isinstance(given, tuple | list):
        return given, None
    if len(given) == 2 and isinstance(given[0], str):
        return given[0], given[1]
    msg = f"expected {argument}= as a name, or as a name and settings such as {example}, got {shown(given)}"
    raise InvalidArgumentError(msg)


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


def checked_path(path: Any, what: str) -> Path:
    """Return a path as the user gave it; refuse what is none.

    Args:
        path: the path.
        what: thing that it is of, with its article, for the message.
    """
    if not isinstance(path, str | Path):
        msg = f"expected the path of {what}, got {shown(path)}"
        raise InvalidArgumentError(msg)
    return Path(path)


def _plain(value: Any) -> Any:
    """Return an array or a number of numpy as Python's."""
    if not hasattr(value, "tolist"):
        msg = f"expected a setting of JSON types, got {shown(value)}"
        raise TypeError(msg)
    return value.tolist()


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
