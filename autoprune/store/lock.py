"""One driver a folder: a lock that dies with its process, on any file system SQLite works on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from autoprune.errors import StoreError


class FolderLock:
    """Held from construction to `release`, or until the process ends, however it ends.

    The lock is SQLite's own exclusive lock on an empty database, which the operating system drops with the process.

    Args:
        path: the lock file; it stays behind, empty.

    Raises:
        StoreError: the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=0.0)
        except (OSError, sqlite3.Error) as error:
            raise _not_writable(path, error) from error
        try:
            self._connection.execute("BEGIN EXCLUSIVE")
            self.is_held = True
        except sqlite3.Error as error:
            self._connection.close()
            if "locked" not in str(error):
                raise _not_writable(path, error) from error
            self.is_held = False

    def release(self) -> None:
        """Let others in."""
        self._connection.close()
        self.is_held = False


def is_locked(path: Path) -> bool:
    """Say whether some process holds the lock at ``path``, without touching it."""
    if not path.exists():
        return False
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=0.0)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchall()
    except sqlite3.Error as error:
        return "locked" in str(error)
    finally:
        connection.close()
    return False


def _not_writable(path: Path, error: Exception) -> StoreError:
    if "not a database" in str(error) or "malformed" in str(error):
        return StoreError(f"{path} is not the empty file that it should be ({error}); delete it while nobody searches")
    return StoreError(
        f"cannot write to the folder {path.parent}: {error}; make room if the disk is full, choose a folder that you "
        "may write to, or open the run for reading only"
    )
