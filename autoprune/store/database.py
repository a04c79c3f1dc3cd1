"""One SQLite file with our settings and our errors."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.errors import StoreError
from autoprune.store.filesystem import is_local

Row = tuple[Any, ...]

WAIT_SECONDS = 30.0
"""How long to wait for another process that is writing."""


@dataclass(frozen=True)
class FileKind:
    """What a file of ours is.

    Attributes:
        name: in words, for messages.
        application_id: four bytes in the file's header that mark this kind.
        schema_version: version of the tables.
        tables: the statements that create them.
    """

    name: str
    application_id: int
    schema_version: int
    tables: tuple[str, ...]


class Database:
    """A connection whose every error is a `StoreError` with advice. Statements commit at once unless in a transaction.

    Writers use the write-ahead log, which survives ``kill -9`` at any moment and lets others read meanwhile; where
    the folder is not on a local file system, a rollback journal.

    Args:
        path: an existing file.
        kind: what the caller expects it to be.
        readonly: read only; works while another process writes, and in folders that cannot be written.

    Raises:
        StoreError: the file is missing, corrupted, foreign, of another schema version, or not accessible.
    """

    def __init__(self, path: Path, kind: FileKind, *, readonly: bool = False) -> None:
        self.path = path
        if not path.is_file():
            msg = f"expected a {kind.name} at {path}, found none"
            raise StoreError(msg)
        try:
            self._connection = _connect(path, readonly=readonly)
        except sqlite3.Error as error:
            raise _translated(error, path) from error
        try:
            self._check(kind)
            if not readonly:
                self._prepare_for_writing()
        except StoreError:
            self._connection.close()
            raise

    @staticmethod
    def create(path: Path, kind: FileKind, rows: Iterable[tuple[str, Row]] = ()) -> None:
        """Write a new file with the tables of ``kind``; it appears complete or not at all.

        Args:
            path: where; a file that is there already (another process was faster) is left alone.
            kind: what.
            rows: statements with their parameters that fill the first rows.

        Raises:
            StoreError: the folder cannot be written.
        """
        partial = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.unlink(missing_ok=True)
            connection = sqlite3.connect(partial, isolation_level=None)
            try:
                connection.execute("BEGIN")
                for statement in kind.tables:
                    connection.execute(statement)
                for statement, parameters in rows:
                    connection.execute(statement, parameters)
                connection.execute(f"PRAGMA application_id = {kind.application_id}")
                connection.execute(f"PRAGMA user_version = {kind.schema_version}")
                connection.execute("COMMIT")
            finally:
                connection.close()
            _publish(partial, path)
        except (OSError, sqlite3.Error) as error:
            raise _translated(error, path) from error

    @property
    def in_transaction(self) -> bool:
        """Whether statements wait for `commit`."""
        return self._connection.in_transaction

    def query(self, statement: str, parameters: Row = ()) -> list[Row]:
        """Return all rows of a SELECT."""
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error

    def execute(self, statement: str, parameters: Row = ()) -> None:
        """Run a statement that changes something."""
        try:
            self._connection.execute(statement, parameters)
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error

    def execute_many(self, statement: str, parameters: Sequence[Row]) -> None:
        """Run a statement once for each of ``parameters``."""
        try:
            self._connection.executemany(statement, parameters)
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error

    def begin(self) -> None:
        """Begin a transaction; when one is open already, go on with it."""
        if not self._connection.in_transaction:
            self.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make everything since `begin` durable, all or nothing."""
        if self._connection.in_transaction:
            self.execute("COMMIT")

    def rollback(self) -> None:
        """Forget everything since `begin`."""
        if self._connection.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file; what was not committed is forgotten."""
        self._connection.close()

    def _check(self, kind: FileKind) -> None:
        application_id = self.query("PRAGMA application_id")[0][0]
        if application_id != kind.application_id:
            msg = f"expected a {kind.name}, but {self.path} is a database of something else; choose another path"
            raise StoreError(msg)
        version = self.query("PRAGMA user_version")[0][0]
        if version != kind.schema_version:
            msg = (
                f"expected a {kind.name} of schema version {kind.schema_version}, got version {version} in "
                f"{self.path}; it was written by another version of autoprune: use that one, or another path"
            )
            raise StoreError(msg)
        verdict = self.query("PRAGMA quick_check(1)")[0][0]
        if verdict != "ok":
            raise _translated(sqlite3.DatabaseError(verdict), self.path)

    def _prepare_for_writing(self) -> None:
        journal = "WAL" if is_local(self.path.parent) else "DELETE"
        self.query(f"PRAGMA journal_mode = {journal}")
        self.execute("PRAGMA synchronous = NORMAL")
        self.begin()  # fails here, not after the first evaluation, where the file cannot be written
        self.rollback()


def _connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    if not readonly:
        return sqlite3.connect(path, isolation_level=None, timeout=WAIT_SECONDS)
    address = path.resolve().as_uri()
    connection = sqlite3.connect(f"{address}?mode=ro", uri=True, isolation_level=None, timeout=WAIT_SECONDS)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:
        # Reading beside a writer needs an index of the write-ahead log, and this folder does not let us make one. But
        # without a log there is no writer: the file stands still and can be read as it is.
        connection.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise
        connection = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True, isolation_level=None)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _publish(partial: Path, path: Path) -> None:
    """Give ``partial`` its final name unless someone else was faster."""
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        partial.replace(path)
        return
    partial.unlink()


def _translated(error: Exception, path: Path) -> StoreError:
    """Return the error to raise for ``error``: what went wrong with which file, and what to do."""
    text = str(error)
    if isinstance(error, sqlite3.OperationalError) and "locked" in text:
        advice = f"another process has been writing for {WAIT_SECONDS:g} s; wait for it, or choose another path"
    elif isinstance(error, OSError) or any(word in text for word in ("readonly", "read-only", "unable to open")):
        advice = "check that the folder exists and that you may write to it, or choose another one"
    elif "full" in text or "disk I/O" in text:
        advice = "make room on the disk, then resume: everything committed so far is safe"
    else:
        advice = (
            "the file seems damaged; `sqlite3 FILE .recover` may save what is left of it; restore it from a copy, or "
            "start in another folder"
        )
    return StoreError(f"cannot use {path}: {text}; {advice}")
