"""One SQLite file with our settings and our errors, every row of it signed.

SQLite notices a page that does not hang together, not a figure in which a bit has changed: so each row carries a
checksum over the name of its table and its values. What was written before there were any (schema version 1) is read
as it is, and signed by the first process that opens the file for writing. Schema version 3 has the tables of version 2;
outcomes no longer repeat their jobs in it (`autoprune.core.jobs.outcome_from_json` reads both).
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.errors import StoreError

Row = tuple[Any, ...]

SCHEMA_VERSION = 3

SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What the library raises; the second where a message of SQLite's names something damaged that is no text."""

SHARED_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
)
"""SQLite's write-ahead log needs memory that all users of a file share, which these do not give."""

MOUNTS = Path("/proc/self/mounts")

WAIT_SECONDS = 30.0
"""How long to wait for another process that is writing."""


CHECKSUM = ("checksum", "TEXT NOT NULL DEFAULT ''")
"""The last column of every table since schema version 2."""


@dataclass(frozen=True)
class Table:
    """A table of a file.

    Attributes:
        name: name of the table.
        columns: names and types of the columns; the first one is the key of a table without row numbers.
        added: those that schema version 1 did not have, with a default; behind the others.
        has_rowid: SQLite numbers its rows.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    added: tuple[tuple[str, str], ...] = ()
    has_rowid: bool = True

    @property
    def key(self) -> str:
        """The column that names a row."""
        return "rowid" if self.has_rowid else self.columns[0][0]

    def known(self, version: int) -> tuple[tuple[str, str], ...]:
        """Return the columns of a schema version, the checksum excepted."""
        return self.columns if version == 1 else (*self.columns, *self.added)

    def statement(self, version: int) -> str:
        """Return the SQL that makes the table of a schema version, as SQLite itself writes it down."""
        columns = self.known(version) if version == 1 else (*self.known(version), CHECKSUM)
        inner = ", ".join(f"{name} {type_}" for name, type_ in columns)
        return f"CREATE TABLE {self.name} ({inner}){'' if self.has_rowid else ' WITHOUT ROWID'}"

    def signed(self, row: Row) -> Row:
        """Return a row of all columns as SQLite keeps it, with its checksum."""
        types = (type_ for _, type_ in self.known(SCHEMA_VERSION))
        kept = tuple(
            float(value) if type_.startswith("REAL") and isinstance(value, int) else value
            for type_, value in zip(types, row, strict=True)
        )
        return (*kept, self._checksum(kept))

    def is_intact(self, row: Row) -> bool:
        """Say whether a row of all columns and a checksum is what was written."""
        return row[-1] == self._checksum(row[:-1])

    def _checksum(self, row: Row) -> str:
        return hashlib.blake2b(repr((self.name, *row)).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class FileKind:
    """A kind of database file, told apart by its application id.

    Attributes:
        name: name in words, for messages.
        application_id: four bytes in the file's header that mark this kind.
        tables: tables that the file holds.
    """

    name: str
    application_id: int
    tables: tuple[Table, ...]


class Database:
    """A connection whose every error is a `StoreError` with advice. Statements commit at once unless in a transaction.

    Writers use the write-ahead log, which survives ``kill -9`` at any moment and lets others read meanwhile; where
    the folder is not on a local file system, a rollback journal.

    Args:
        path: an existing file.
        kind: kind of file that the caller expects.
        readonly: read only; works while another process writes, and in folders that cannot be written.

    Attributes:
        path: the file.

    Raises:
        StoreError: the file is missing, damaged, foreign, of an unknown schema version, or not accessible.
    """

    def __init__(self, path: Path, kind: FileKind, *, readonly: bool = False) -> None:
        self.path = path
        self._kind = kind
        if not path.is_file():
            msg = f"expected a {kind.name} at {path}, found none"
            raise StoreError(msg)
        try:
            self._connection = _connect(path, readonly=readonly)
        except SQLITE_ERRORS as error:
            raise _translated(error, path) from error
        try:
            # A damaged text need not even be one: it is read all the same, and its row is not intact.
            self._connection.text_factory = lambda data: data.decode("utf-8", "replace")
            self._version = self._check()
            if not readonly:
                self._prepare_for_writing()
        except BaseException:
            self._connection.close()
            raise

    @staticmethod
    def create(path: Path, kind: FileKind, rows: Iterable[tuple[Table, Row]] = ()) -> None:
        """Write a new file with the tables of ``kind``; it appears complete or not at all.

        Args:
            path: file to create; one that is there already (another process was faster) is left alone.
            kind: kind of file to create.
            rows: the first rows, each with its table.

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
                for table in kind.tables:
                    connection.execute(table.statement(SCHEMA_VERSION))
                for table, row in rows:
                    connection.execute(_insertion(table), table.signed(row))
                connection.execute(f"PRAGMA application_id = {kind.application_id}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                connection.execute("COMMIT")
            finally:
                connection.close()
            _publish(partial, path)
        except BaseException as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            if not isinstance(error, OSError | sqlite3.Error):
                raise
            raise _translated(error, path) from error

    @property
    def in_transaction(self) -> bool:
        """Whether statements wait for `commit`."""
        return self._connection.in_transaction

    def query(self, statement: str, parameters: Row = ()) -> list[Row]:
        """Return all rows of a SELECT."""
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except SQLITE_ERRORS as error:
            raise _translated(error, self.path) from error

    def rows(self, table: Table, tail: str = "", parameters: Row = ()) -> tuple[list[Row], list[Any]]:
        """Return the rows of a table, and the keys of those that are damaged and left out.

        Args:
            table: the table to read.
            tail: SQL that follows the name of the table.
            parameters: parameters of ``tail``.
        """
        is_signed = self._version > 1
        names = [name for name, _ in table.known(self._version)] + ([CHECKSUM[0]] if is_signed else [])
        found = self.query(f"SELECT {table.key}, {', '.join(names)} FROM {table.name} {tail}", parameters)
        if not is_signed:
            filled = tuple("" for _ in table.added)
            return [(*row[1:], *filled) for row in found], []
        intact = [table.is_intact(row[1:]) for row in found]
        kept = [row[1:-1] for row, is_good in zip(found, intact, strict=True) if is_good]
        return kept, [row[0] for row, is_good in zip(found, intact, strict=True) if not is_good]

    def insert(self, table: Table, rows: Iterable[Row], *, otherwise: str = "ABORT") -> None:
        """Add signed rows.

        Args:
            table: the table to insert into.
            rows: values of all columns.
            otherwise: action for a row whose key is there already: ABORT, IGNORE or REPLACE.
        """
        try:
            self._connection.executemany(_insertion(table, otherwise), [table.signed(row) for row in rows])
        except SQLITE_ERRORS as error:
            raise _translated(error, self.path) from error

    def add(self, table: Table, rows: Iterable[Row], *, otherwise: str = "ABORT") -> None:
        """Add signed rows as `insert` does, in a transaction that waits for `commit`."""
        self.begin()
        self.insert(table, rows, otherwise=otherwise)

    def execute(self, statement: str, parameters: Row = ()) -> None:
        """Run a statement that changes something."""
        try:
            self._connection.execute(statement, parameters)
        except SQLITE_ERRORS as error:
            raise _translated(error, self.path) from error

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Have all statements of the block see the file as it is at the first one, whoever writes meanwhile."""
        self.execute("BEGIN")
        try:
            yield
        finally:
            self.rollback()

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
        """Close the file; what was not committed is forgotten. A full disk does not keep it open."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def _check(self) -> int:
        """Refuse what is not a whole file of this kind; returns the version of its schema."""
        kind = self._kind
        application_id = self.query("PRAGMA application_id")[0][0]
        if application_id != kind.application_id:
            msg = f"expected a {kind.name}, but {self.path} is a database of something else; choose another path"
            raise StoreError(msg)
        version: int = self.query("PRAGMA user_version")[0][0]
        if not 1 <= version <= SCHEMA_VERSION:
            msg = (
                f"expected a {kind.name} of schema version {SCHEMA_VERSION}, got version {version} in "
                f"{self.path}; it was written by another version of autoprune: use that one, or another path"
            )
            raise StoreError(msg)
        verdict = self.query("PRAGMA quick_check(1)")[0][0]
        tables: dict[str, str] = dict(self.query("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
        if verdict == "ok" and tables != {table.name: table.statement(version) for table in kind.tables}:
            verdict = "its tables are not those that autoprune makes"
        if verdict != "ok":
            raise _translated(sqlite3.DatabaseError(verdict), self.path)
        return version

    def _prepare_for_writing(self) -> None:
        journal = "WAL" if is_local(self.path.parent) else "DELETE"
        self.query(f"PRAGMA journal_mode = {journal}")
        self.execute("PRAGMA synchronous = NORMAL")
        self.begin()  # fails here, not after the first evaluation, where the file cannot be written
        self._version = self.query("PRAGMA user_version")[0][0]  # another process may have been faster
        if self._version == 1:
            self._sign()
        if self._version < SCHEMA_VERSION:
            self.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self._version = SCHEMA_VERSION
            self.commit()
        self.rollback()

    def _sign(self) -> None:
        """Give the rows of a file of schema version 1 their checksums."""
        for table in self._kind.tables:
            for name, type_ in (*table.added, CHECKSUM):
                self.execute(f"ALTER TABLE {table.name} ADD COLUMN {name} {type_}")
            names = ", ".join(name for name, _ in table.known(SCHEMA_VERSION))
            for key, *row in self.query(f"SELECT {table.key}, {names} FROM {table.name}"):
                checksum = table.signed(tuple(row))[-1]
                self.execute(f"UPDATE {table.name} SET checksum = ? WHERE {table.key} = ?", (checksum, key))


def _insertion(table: Table, otherwise: str = "ABORT") -> str:
    columns = (*table.known(SCHEMA_VERSION), CHECKSUM)
    names = ", ".join(name for name, _ in columns)
    return f"INSERT OR {otherwise} INTO {table.name} ({names}) VALUES ({', '.join('?' for _ in columns)})"


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
    except SQLITE_ERRORS:
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


def is_local(path: Path) -> bool:
    """Say whether ``path`` is on a file system of this machine; where no one can tell, assume that it is."""
    if not MOUNTS.exists():
        return True
    return is_local_type(mounted_type(path.resolve(), MOUNTS.read_text(encoding="utf-8")))


def is_local_type(kind: str) -> bool:
    """Say whether a file system of this kind (third column of the mount table) is local.

    File systems in user space (sshfs, object stores) rarely share memory between their users; ``fuseblk`` is a disk.
    """
    return kind not in SHARED_FILE_SYSTEMS and not kind.startswith("fuse.")


def mounted_type(path: Path, mounts: str) -> str:
    """Return the kind of file system that holds ``path``, given the text of a mount table; "" when none does.

    Args:
        path: absolute path.
        mounts: lines of ``device mount-point kind options ...``; later lines cover earlier ones.
    """
    found, depth = "", -1
    for line in mounts.splitlines():
        columns = line.split()
        if len(columns) < 3:
            continue
        point = Path(columns[1].replace("\\040", " "))  # the table writes blanks in octal
        if path.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = columns[2], len(point.parts)
    return found
