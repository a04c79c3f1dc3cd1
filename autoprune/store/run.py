"""The folder of one run, and the lock that lets one driver in: it dies with its process, on any file system."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from autoprune.core.clock import SystemClock
from autoprune.core.protocols import Clock
from autoprune.errors import AutopruneError, StoreError
from autoprune.store.blobs import BlobStore
from autoprune.store.ledger import Ledger

_PROBLEM = "problem"
LEDGER, WEIGHTS, LOCK = "run.sqlite", "weights", "driver.lock"
"""What is in the folder."""


class RunStore:
    """One folder per run: ``run.sqlite`` (the ledger), ``weights/`` (blobs), ``models/``.

    Open for writing, it locks its folder: one driver a run. It is a context manager. Whoever reads needs none, see
    `autoprune.store.record.RunRecord`.

    Args:
        folder: made when it is not there; a run that is there already is opened again, to be resumed.
        problem: fingerprint of what is searched; a run of another one is refused.
        check: called with what a run that is there says about itself, instead of comparing fingerprints; raises
            StoreError where it must not be written to.
        meta: the run's description of itself, JSON types; written when the folder is made, ignored when it is resumed.
        clock: clock that stamps the start of the driver and of its attempts.

    Attributes:
        folder: the folder.
        ledger: the ledger, for whoever drives the run.
        weights: blobs by content.

    Raises:
        StoreError: another process drives this run, the run is of another problem, or its files cannot be used.
    """

    folder: Path
    ledger: Ledger
    weights: BlobStore

    def __init__(
        self,
        folder: str | Path,
        *,
        problem: str = "",
        meta: Mapping[str, Any] | None = None,
        check: Callable[[Mapping[str, Any]], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.folder = Path(folder)
        path = self.folder / LEDGER
        self._lock = FolderLock(self.folder / LOCK)
        try:
            if not self._lock.is_held:
                raise StoreError(_driven(self.folder, path))
            self._is_new = not path.exists()
            if self._is_new:
                Ledger.create(path, {**(meta or {}), _PROBLEM: problem})
            self.ledger = Ledger(path)
            try:
                if check is not None:
                    check(self.ledger.meta)
                else:
                    _check_problem(self.folder, self.ledger.meta.get(_PROBLEM, ""), problem)
                self.ledger.open_driver((clock or SystemClock()).unix())
            except BaseException:
                self.ledger.close()
                raise
        except BaseException:  # whatever it was, this process may want to open the run again
            self._lock.release()
            raise
        self.weights = BlobStore(self.folder / WEIGHTS)

    @property
    def models(self) -> Path:
        """The folder for saved models; made on first use by whoever writes to it."""
        return self.folder / "models"

    def keep_warning(self, text: str) -> None:
        """Record that something looks wrong, once however often it is said; durable at once."""
        self.ledger.warned(text)
        self.ledger.commit()

    def close(self) -> None:
        """Close the folder and let other drivers in, whatever the disk says; closing twice is harmless."""
        self._close(forgets=False)

    def _close(self, *, forgets: bool) -> None:
        if self._lock.is_held:
            try:
                with suppress(StoreError):  # a full disk: nothing is lost but that this was on purpose
                    self.ledger.rollback()
                    self.ledger.close_driver()
            finally:
                try:
                    self.ledger.close()
                    if forgets:
                        for file in self.folder.glob(f"{LEDGER}*"):
                            file.unlink()
                        shutil.rmtree(self.folder / WEIGHTS, ignore_errors=True)
                finally:
                    self._lock.release()

    def __enter__(self) -> RunStore:
        """Return the store."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the store; of a run that was refused before its first job nothing stays, so that it can begin anew."""
        refused = self._is_new and isinstance(error, AutopruneError)
        self._close(forgets=refused and self._lock.is_held and not self.ledger.jobs())


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


def _check_problem(folder: Path, recorded: str, problem: str) -> None:
    if recorded != problem:
        msg = (
            f"the run in {folder} searches another problem (its fingerprint is {recorded[:12]!r}, expected "
            f"{problem[:12]!r}): the model, the space, the data or the objectives differ; choose another folder"
        )
        raise StoreError(msg)


def _driven(folder: Path, ledger: Path) -> str:
    driver = ""
    if ledger.exists():
        with suppress(StoreError), closing(Ledger(ledger, readonly=True)) as reader:  # who it is, is a courtesy
            driver = reader.last_driver()
    return (
        f"the run in {folder} is being driven by {driver or 'another process'}; wait until that one ends, open the run "
        "for reading only, or choose another folder"
    )


def _not_writable(path: Path, error: Exception) -> StoreError:
    if "not a database" in str(error) or "malformed" in str(error):
        return StoreError(f"{path} is not the empty file that it should be ({error}); delete it while nobody searches")
    return StoreError(
        f"cannot write to the folder {path.parent}: {error}; make room if the disk is full, choose a folder that you "
        "may write to, or open the run for reading only"
    )
