"""The folder of a cluster of this machine alone: its logs and sockets, gone with its driver or swept up after it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import IO

PREFIX, LOCK = "autoprune-", "driver.lock"

MAX_BASE = 23
"""Sockets live in the folder, and their paths, of which Ray adds 64 characters, may not be longer than 107."""


class SessionFolder:
    """A new temporary folder, held by this process until it is closed; whose holders died without that are removed."""

    def __init__(self) -> None:
        base = Path(tempfile.gettempdir())
        base = base if len(str(base)) <= MAX_BASE else Path("/tmp")
        sweep(base)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        new = self.path / f"{LOCK}.new"
        self._lock = new.open("w")
        _take(self._lock)
        new.rename(self.path / LOCK)  # never there without being held

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def sweep(base: Path) -> None:
    """Remove the folders whose holders are dead."""
    for path in base.glob(f"{PREFIX}*/{LOCK}"):
        try:
            file = path.open("r+")
        except OSError:  # another user's, or gone by now
            continue
        with file:
            if _take(file):
                shutil.rmtree(path.parent, ignore_errors=True)


def _take(file: IO[str]) -> bool:
    """Lock a file for as long as it is open; False where another process has."""
    import fcntl  # not on Windows, where autoprune can be imported all the same

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
