"""Measured cells of a table, one JSON line each: an interrupted benchmark goes on where it ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Cells:
    """What has been measured so far.

    Args:
        path: the file; made when it is missing. A line that was cut short by a kill is measured again.
        settings: what every cell depends on; a file of other settings is refused.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        self._found: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            self._found[record["cell"]] = record["row"]
        given = json.loads(json.dumps(settings))
        if self("settings", lambda: given) != given:
            raise SystemExit(f"{path} was measured with {self._found['settings']}, not with {given}; choose another")

    def __call__(self, cell: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the row of ``cell``, measured now if it never was."""
        if cell not in self._found:
            row = measure()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"\n{json.dumps({'cell': cell, 'row': row})}\n")
            self._found[cell] = row
        return self._found[cell]

    def get(self, cell: str) -> dict[str, Any] | None:
        """Return the row of ``cell``, None if it was never measured."""
        return self._found.get(cell)

    def items(self) -> list[tuple[str, dict[str, Any]]]:
        """Return all cells with their rows, in the order of their measurement."""
        return list(self._found.items())
