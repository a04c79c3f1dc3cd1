"""The ledger of a run: jobs asked, attempts started, outcomes, and events in the order in which they happened.

The log of events is the history of the *search*: a job that is started again after the driver died has one ``started``
event but two attempts, so that a resumed run has the events of an undisturbed one.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from autoprune.core.jobs import Job, Outcome, job_from_json, job_to_json, outcome_from_json, outcome_to_json
from autoprune.errors import InvalidArgumentError, StoreError
from autoprune.store.database import Database, FileKind
from autoprune.store.events import Event, EventKind

T = TypeVar("T")

LEDGER = FileKind(
    name="run ledger",
    application_id=0x41507255,  # "APrU"
    schema_version=1,
    tables=(
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE drivers (id INTEGER PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL,"
        " started REAL NOT NULL, closed INTEGER NOT NULL DEFAULT 0)",
        "CREATE TABLE jobs (id INTEGER PRIMARY KEY, job TEXT NOT NULL)",
        "CREATE TABLE attempts (job INTEGER NOT NULL, driver INTEGER NOT NULL, started REAL NOT NULL)",
        "CREATE INDEX attempts_by_job ON attempts (job)",
        "CREATE TABLE outcomes (id INTEGER PRIMARY KEY, outcome TEXT NOT NULL)",
        "CREATE TABLE events (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, jobs TEXT NOT NULL, n INTEGER NOT NULL,"
        " text TEXT NOT NULL, elapsed REAL NOT NULL)",
        "CREATE TABLE records (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, data TEXT NOT NULL)",
    ),
)


class Ledger:
    """Reads and writes ``run.sqlite``. Records wait until `commit`, which makes them durable all together.

    Args:
        path: an existing ledger.
        readonly: read only; the run may still be going.

    Raises:
        StoreError: the file cannot be used; the message says why and what to do.
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self._database = Database(path, LEDGER, readonly=readonly)
        self._driver = 0

    @staticmethod
    def create(path: Path, meta: Mapping[str, Any]) -> None:
        """Write a new ledger that says ``meta`` about its run.

        Raises:
            StoreError: the folder cannot be written.
        """
        insert = "INSERT INTO meta VALUES (?, ?)"
        Database.create(path, LEDGER, [(insert, (name, _text(value))) for name, value in meta.items()])

    def close(self) -> None:
        """Close the file; what was not committed is forgotten."""
        self._database.close()

    # --- reading ---

    @property
    def meta(self) -> dict[str, Any]:
        """What the run says about itself, JSON types."""
        return {name: json.loads(value) for name, value in self._database.query("SELECT name, value FROM meta")}

    def jobs(self) -> list[Job]:
        """Return every job asked, in id order."""
        return [
            self._parsed(job_from_json, text) for (text,) in self._database.query("SELECT job FROM jobs ORDER BY id")
        ]

    def outcomes(self) -> list[Outcome]:
        """Return every outcome, in id order."""
        rows = self._database.query("SELECT outcome FROM outcomes ORDER BY id")
        return [self._parsed(outcome_from_json, text) for (text,) in rows]

    def events(self) -> list[Event]:
        """Return everything that happened, in order."""
        rows = self._database.query("SELECT kind, jobs, n, text, elapsed FROM events ORDER BY seq")
        return [
            Event(EventKind(kind), tuple(json.loads(jobs)), n, text, elapsed) for kind, jobs, n, text, elapsed in rows
        ]

    def starts(self) -> list[float]:
        """Return the Unix time at which each process began to drive the run, in order."""
        return [started for (started,) in self._database.query("SELECT started FROM drivers ORDER BY id")]

    def records(self, kind: str) -> list[dict[str, Any]]:
        """Return what `add_record` kept under ``kind``, oldest first."""
        rows = self._database.query("SELECT data FROM records WHERE kind = ? ORDER BY seq", (kind,))
        return [json.loads(data) for (data,) in rows]

    def deaths(self) -> dict[int, int]:
        """Return, per job without outcome, in how many of its latest attempts in a row the driver died; 0s left out."""
        rows = self._database.query(
            "SELECT attempts.job, drivers.closed FROM attempts JOIN drivers ON drivers.id = attempts.driver"
            " WHERE attempts.job NOT IN (SELECT id FROM outcomes) AND attempts.driver <> ? ORDER BY attempts.rowid",
            (self._driver,),
        )
        deaths: dict[int, int] = {}
        for job, closed in rows:
            deaths[job] = 0 if closed else deaths.get(job, 0) + 1
        return {job: count for job, count in deaths.items() if count}

    # --- writing ---

    def update_meta(self, meta: Mapping[str, Any]) -> None:
        """Set these entries and leave the others; durable at once."""
        self._database.begin()
        self._database.execute_many(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", [(name, _text(value)) for name, value in meta.items()]
        )
        self._database.commit()

    def add_record(self, kind: str, data: Mapping[str, Any]) -> None:
        """Keep a measurement that is not an outcome (latency, test images), JSON types; durable at once."""
        self._database.execute("INSERT INTO records (kind, data) VALUES (?, ?)", (kind, _text(data)))

    def open_driver(self, unix: float) -> None:
        """Record that this process drives the run from now on."""
        self._database.execute(
            "INSERT INTO drivers (host, pid, started) VALUES (?, ?, ?)", (socket.gethostname(), os.getpid(), unix)
        )
        self._driver = self._database.query("SELECT max(id) FROM drivers")[0][0]

    def close_driver(self) -> None:
        """Record that this process stops on purpose."""
        self._database.execute("UPDATE drivers SET closed = 1 WHERE id = ?", (self._driver,))

    def last_driver(self) -> str:
        """Return host and process id of the latest driver, in words; "" when there was none."""
        rows = self._database.query("SELECT host, pid FROM drivers ORDER BY id DESC LIMIT 1")
        return f"process {rows[0][1]} on {rows[0][0]}" if rows else ""

    def asked(self, n: int, jobs: Sequence[Job], *, elapsed: float) -> None:
        """Record that the strategy was asked for ``n`` jobs and what it returned; their ids are new."""
        self._database.begin()
        self._database.execute_many(
            "INSERT INTO jobs VALUES (?, ?)", [(job.id, _text(job_to_json(job))) for job in jobs]
        )
        self._record(Event(EventKind.ASKED, tuple(job.id for job in jobs), n, elapsed=elapsed))

    def started(self, job: Job, *, unix: float, elapsed: float) -> None:
        """Record that an attempt to run ``job`` is about to start."""
        self._database.begin()
        is_first = not self._database.query("SELECT 1 FROM attempts WHERE job = ? LIMIT 1", (job.id,))
        self._database.execute("INSERT INTO attempts VALUES (?, ?, ?)", (job.id, self._driver, unix))
        if is_first:
            self._record(Event(EventKind.STARTED, (job.id,), elapsed=elapsed))

    def committed(self, outcome: Outcome, *, elapsed: float) -> None:
        """Record what a job came to."""
        self._database.begin()
        text = _text(outcome_to_json(outcome))
        self._database.execute("INSERT INTO outcomes VALUES (?, ?)", (outcome.job.id, text))
        self._record(Event(EventKind.COMMITTED, (outcome.job.id,), elapsed=elapsed))

    def told(self, job_id: int, *, elapsed: float) -> None:
        """Record that the strategy was told the outcome of a job."""
        self._database.begin()
        self._record(Event(EventKind.TOLD, (job_id,), elapsed=elapsed))

    def warned(self, text: str, *, elapsed: float) -> None:
        """Record that something in the search looks wrong."""
        self._database.begin()
        self._record(Event(EventKind.WARNING, text=text, elapsed=elapsed))

    def forked(self, reason: str, *, elapsed: float) -> None:
        """Record that the strategy was rebuilt from the outcomes; jobs without outcome are given up."""
        self._database.begin()
        self._database.execute("DELETE FROM attempts WHERE job NOT IN (SELECT id FROM outcomes)")
        self._database.execute("DELETE FROM jobs WHERE id NOT IN (SELECT id FROM outcomes)")
        self._record(Event(EventKind.FORK, text=reason, elapsed=elapsed))

    def stopped(self, reason: str, *, elapsed: float) -> None:
        """Record that the search ended, and why; stopping again where it had stopped is not recorded twice."""
        last = self._database.query("SELECT kind, text FROM events ORDER BY seq DESC LIMIT 1")
        if last != [(EventKind.STOP.value, reason)]:
            self._database.begin()
            self._record(Event(EventKind.STOP, text=reason, elapsed=elapsed))

    def commit(self) -> None:
        """Make everything recorded so far durable."""
        self._database.commit()

    def rollback(self) -> None:
        """Forget what was recorded since the last `commit`."""
        self._database.rollback()

    def _record(self, event: Event) -> None:
        jobs = ",".join(map(str, event.jobs))
        self._database.execute(
            "INSERT INTO events (kind, jobs, n, text, elapsed) VALUES (?, ?, ?, ?, ?)",
            (event.kind.value, f"[{jobs}]", event.n, event.text, event.elapsed),
        )

    def _parsed(self, parse: Callable[[dict[str, Any]], T], text: str) -> T:
        try:
            return parse(json.loads(text))
        except (InvalidArgumentError, json.JSONDecodeError) as error:
            msg = f"cannot use {self._database.path}: a record is damaged ({error}); restore the file from a copy"
            raise StoreError(msg) from error


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _text(value: Any) -> str:
    """Return JSON text that is equal for equal values."""
    return _ENCODER.encode(value)
