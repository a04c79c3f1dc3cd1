"""Things by name: strategies, criteria, evaluators, recipes, regularizers, search spaces, data; public names of a page.

Nothing is imported before it is used.

Third parties add theirs through entry points: the group is the registry's, the entry's name is the name that users
write, its value an instance of the registry's info dataclass.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from autoprune.core.settings import settings_of
from autoprune.errors import InvalidArgumentError, MissingDependencyError, unknown_name


@dataclass(frozen=True)
class Info:
    """A registered part, described without importing it.

    Attributes:
        name: the name that users write.
        summary: one line.
        factory: ``"module:attribute"``.
        paper: the paper that describes the method; "" if it is common knowledge.
    """

    name: str
    summary: str
    factory: str
    paper: str = ""

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages that the factory imports and that may be missing."""
        return ()

    def load(self) -> Any:
        """Import what the factory names.

        Raises:
            MissingDependencyError: one of `packages` is not installed.
        """
        try:
            return imported(self.factory)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in self.packages:
                raise
            msg = f"{self.name!r} needs the package {package!r}: pip install {package}"
            raise MissingDependencyError(msg) from error

    def load_settings(self) -> type[Any]:
        """Import the frozen dataclass of its settings: what the factory names has it as ``Settings``."""
        found: type[Any] = self.load().Settings
        return found


def imported(path: str) -> Any:
    """Import what ``"module:attribute"`` names."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


InfoT = TypeVar("InfoT", bound=Info)


class Registry(Mapping[str, InfoT], Generic[InfoT]):
    """Infos by name: the built-in ones, in the order given, then those of entry points. Built-in names win.

    Args:
        kind: one word for what is registered, used in messages.
        group: the entry point group of third parties.
        info: the dataclass of an entry.
        built_in: the entries that ship with autoprune; looked at when the first name is.
    """

    def __init__(self, kind: str, group: str, info: type[InfoT], built_in: Iterable[InfoT]) -> None:
        self.kind = kind
        self.group = group
        self._info = info
        self._entries = built_in

    @cached_property
    def built_in(self) -> Mapping[str, InfoT]:
        """The entries that ship with autoprune."""
        return {entry.name: entry for entry in self._entries}

    def find(self, name: str) -> InfoT:
        """Return the entry called ``name``.

        Raises:
            UnknownNameError: there is none; the message names the nearest.
            InvalidArgumentError: an entry point of this name holds something else.
        """
        try:
            return self[name]
        except KeyError:
            raise unknown_name(self.kind, name, self) from None

    def settings(self, name: str, given: object = None) -> Any:
        """Return the settings of the entry called ``name``.

        Args:
            name: one of the names.
            given: an instance of the entry's settings, or of a class that they extend; a mapping of the fields; None
                for the defaults.

        Raises:
            UnknownNameError: there is no such entry.
            InvalidArgumentError: the settings are of another entry, or cannot be used.
        """
        return settings_of(self.find(name).load_settings(), given, f"the {self.kind} {name!r}")

    def __getitem__(self, name: str) -> InfoT:
        """Return the entry called ``name``; KeyError when there is none."""
        if name in self.built_in:
            return self.built_in[name]
        return self._loaded(self._plugins()[name])

    def __iter__(self) -> Iterator[str]:
        """Iterate over all names."""
        yield from self.built_in
        yield from (name for name in self._plugins() if name not in self.built_in)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(list(iter(self)))

    def _plugins(self) -> dict[str, importlib.metadata.EntryPoint]:
        return {entry.name: entry for entry in importlib.metadata.entry_points(group=self.group)}

    def _loaded(self, entry: importlib.metadata.EntryPoint) -> InfoT:
        found = entry.load()
        if not isinstance(found, self._info):
            wanted = self._info.__name__
            article = "an" if wanted[0] in "AEIO" else "a"
            msg = f"entry point {entry.name!r} of group {self.group!r} must be {article} {wanted}, got {found!r}"
            raise InvalidArgumentError(msg)
        return found


def lazy_names(
    package: str, where: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package that resolves its public names on first use.

    Args:
        package: the package's ``__name__``.
        where: the public names of every module; ``"name:attribute"`` where it is called something else there.
    """
    paths = {}
    for module, public in where.items():
        for name, _, attribute in (item.partition(":") for item in public):
            paths[name] = f"{module}:{attribute or name}"

    def get(name: str) -> Any:
        if name not in paths:
            msg = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(msg)
        value = imported(paths[name])
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted(sys.modules[package].__all__)

    return get, names
