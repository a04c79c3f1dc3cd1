"""Output of the commands: results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


def print_json(data: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write machine-readable output to stdout."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """Write a table to stdout; columns whose header starts with ``>`` are aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    _console().print(table)


def print_line(text: str = "") -> None:
    """Write one line of results, with rich's markup, to stdout."""
    _console().print(text, highlight=False, soft_wrap=True)


def log(text: str) -> None:
    """Write one line, with rich's markup, to stderr."""
    _console(stderr=True).print(text, highlight=False, soft_wrap=True)


def fail(message: str) -> None:
    """Write an error to stderr."""
    log(f"[bold red]error:[/bold red] {escape(message)}")


@contextmanager
def working(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Say on stderr what is being done, as long as it takes; nothing where stderr is no terminal, or on request."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    with _console(stderr=True).status(escape(what)):
        yield


def escape(value: object) -> str:
    """Return ``value`` as text that rich prints as it is: names of users may look like markup."""
    from rich.markup import escape as escape_markup

    return escape_markup(str(value))


def _console(*, stderr: bool = False) -> Any:
    from rich.console import Console

    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if is_terminal else 140)
