"""Things by name: strategies, criteria, evaluators, recipes, regularizers, search spaces, data.

Nothing is imported before it is used.

Third parties add theirs through entry points: the group is the registry's, the entry's name is the name that users
write, its value an instance of the registry's info dataclass.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

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
