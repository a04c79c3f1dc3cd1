"""On which line of a TOML file each key stands.

`tomllib` keeps no positions, and tomlkit, which keeps the white space, keeps no line numbers either. No second grammar
is needed to find them: a statement of TOML is complete as soon as `tomllib` accepts it on its own, so the file is fed
to the parser line by line and the parser itself says where every statement starts and which keys it sets.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

KeyPath = tuple[str | int, ...]

_LONGEST_STATEMENT = 200
"""Lines of a statement whose end is still looked for; what follows a longer one stands on no known line."""


def key_lines(text: str) -> dict[KeyPath, int]:
    r"""Return the line (from 1) where each key path of a TOML text is first set, tables included.

    A value that spans several lines counts as the line where its statement starts.

    Args:
        text: a TOML document that `tomllib` accepts.

    >>> key_lines('[model]\nkwargs = { width = 16 }')
    {('model',): 1, ('model', 'kwargs'): 2, ('model', 'kwargs', 'width'): 2}
    """
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for start, statement, content in _statements(text):
        if statement.lstrip().startswith("["):
            table = _header(content)
            paths = [table]
        else:
            paths = [(*table, *path) for path in _paths(content)]
        for path in paths:
            for depth in range(1, len(path) + 1):
                lines.setdefault(path[:depth], start)
    return lines


def line_of(path: KeyPath, lines: Mapping[KeyPath, int]) -> int:
    """Return the line of ``path``, or of the nearest table or key that contains it; 1 if there is none."""
    for depth in range(len(path), 0, -1):
        if path[:depth] in lines:
            return lines[path[:depth]]
    return 1


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield ``(first line, text, parsed content)`` of every statement."""
    start, pending = 1, ""
    for number, line in enumerate(text.split("\n"), start=1):
        if not pending:
            start = number
        pending += line + "\n"
        if number - start > _LONGEST_STATEMENT:
            return  # every further line would be parsed with all before it
        try:
            content = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue  # a value that goes on in the next line
        if content:
            yield start, pending, content
        pending = ""


def _header(content: Mapping[str, Any]) -> KeyPath:
    """Return the path of a table header that was parsed alone: ``[a.b]`` gives ``{"a": {"b": {}}}``."""
    path: list[str | int] = []
    while isinstance(content, dict) and content:
        ((name, content),) = content.items()
        path.append(name)
    return tuple(path)


def _paths(content: Mapping[str, Any]) -> Iterator[KeyPath]:
    for name, value in content.items():
        yield (name,)
        if isinstance(value, dict):
            yield from ((name, *path) for path in _paths(value))
