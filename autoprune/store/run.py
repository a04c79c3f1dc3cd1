"""The folder of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from autoprune.core.clock import SystemClock
from autoprune.core.jobs import Job, Outcome
from autoprune.core.protocols import Clock
from autoprune.errors import StoreError
from autoprune.store.blobs import BlobStore
from autoprune.store.events import Event, EventKind
from autoprune.store.ledger import Ledger
from autoprune.store.lock import FolderLock, is_locked

_PROBLEM = "problem"
LOCK = "driver.lock"


class RunStore:
    """One folder per run: ``run.sqlite`` (the ledger), ``weights/`` (blobs), ``models/``.

    A store that is open for writing locks its folder: one driver a run. It is a context manager.

    Args:
        folder: made when it is not there; a run that is there already is opened again, to be resumed.
        problem: fingerprint of what is searched; a run of another one is refused.
        check: called with what a run that is there says about itself, instead of comparing fingerprints; raises
            StoreError where it must not be written to.
        meta: the run's description of itself, JSON types; written when the folder is made, ignored when it is resumed.
        clock: tells when the driver and its attempts started.

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
        path = self.folder / "run.sqlite"
        self._lock: FolderLock | None = FolderLock(self.folder / LOCK)
        try:
            if not self._lock.is_held:
                raise StoreError(_driven(self.folder, path))
            if not path.exists():
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
        self.weights = BlobStore(self.folder / "weights")

    @classmethod
    def open_readonly(cls, folder: str | Path) -> RunStore:
        """Open a run for reading; it may be going on meanwhile, and its folder need not be writable.

        Raises:
            StoreError: there is no run in the folder, or its files cannot be used.
        """
        store = cls.__new__(cls)
        store.folder = Path(folder)
        store._lock = None
        store.ledger = Ledger(store.folder / "run.sqlite", readonly=True)
        store.weights = BlobStore(store.folder / "weights")
        return store

    @property
    def models(self) -> Path:
        """The folder for saved models; made on first use by whoever writes to it."""
        return self.folder / "models"

    @property
    def meta(self) -> dict[str, Any]:
        """What the run says about itself, JSON types."""
        return self.ledger.meta

    def update_meta(self, meta: Mapping[str, Any]) -> None:
        """Set these entries of `meta` and leave the others."""
        self.ledger.update_meta(meta)

    def jobs(self) -> list[Job]:
        """Return every job asked, in id order."""
        return self.ledger.jobs()

    def outcomes(self) -> list[Outcome]:
        """Return every outcome, in id order."""
        return self.ledger.outcomes()

    def events(self) -> list[Event]:
        """Return everything that happened, in order."""
        return self.ledger.events()

    def starts(self) -> list[float]:
        """Return the Unix time at which each process began to drive the run, in order."""
        return self.ledger.starts()

    def records(self, kind: str) -> list[dict[str, Any]]:
        """Return what `add_record` kept under ``kind``, oldest first."""
        return self.ledger.records(kind)

    def add_record(self, kind: str, data: Mapping[str, Any]) -> None:
        """Keep a measurement that is not an outcome (latency, test images), JSON types; durable at once."""
        self.ledger.add_record(kind, data)

    def keep_warning(self, text: str) -> None:
        """Record that something looks wrong, once however often it is said; durable at once."""
        events = self.events()
        if not any(event.kind is EventKind.WARNING and event.text == text for event in events):
            self.ledger.warned(text, elapsed=max((event.elapsed for event in events), default=0.0))
            self.ledger.commit()

    @property
    def is_damaged(self) -> bool:
        """Whether rows of the ledger are damaged; such a run can be read, not written to."""
        return bool(self.ledger.damage())

    @property
    def is_driven(self) -> bool:
        """Whether a process, this one or another, has the run open for writing."""
        return is_locked(self.folder / LOCK)

    def close(self) -> None:
        """Close the folder and let other drivers in, whatever the disk says; closing twice is harmless."""
        if self._lock is None:
            self.ledger.close()
        elif self._lock.is_held:
            try:
                with suppress(StoreError):  # a full disk: nothing is lost but that this was on purpose
                    self.ledger.rollback()
                    self.ledger.close_driver()
            finally:
                try:
                    self.ledger.close()
                finally:
                    self._lock.release()

    def __enter__(self) -> RunStore:
        """Return the store."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()


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
        with suppress(StoreError):  # who it is, is a courtesy
            reader = Ledger(ledger, readonly=True)
            try:
                driver = reader.last_driver()
            finally:
                reader.close()
    return (
        f"the run in {folder} is being driven by {driver or 'another process'}; wait until that one ends, open the run "
        "for reading only, or choose another folder"
    )
