"""The ledger of a run: jobs asked, attempts started, outcomes, and events in the order in which they happened.

The log of events is the history of the *search*: a job that is started again after the driver died has one ``started``
event but two attempts, so that a resumed run has the events of an undisturbed one.

A ledger with a damaged row is not written to any more. It can still be read without that row, and says so.
"""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from autoprune.core.jobs import Job, Outcome, job_from_json, job_to_json, outcome_from_json, outcome_to_json
from autoprune.errors import AutopruneWarning, StoreError
from autoprune.store.database import Database, FileKind, Row, Table

T = TypeVar("T")

META = Table("meta", (("name", "TEXT PRIMARY KEY"), ("value", "TEXT NOT NULL")), has_rowid=False)
DRIVERS = Table(
    "drivers",
    (
        ("id", "INTEGER PRIMARY KEY"),
        ("host", "TEXT NOT NULL"),
        ("pid", "INTEGER NOT NULL"),
        ("started", "REAL NOT NULL"),
        ("closed", "INTEGER NOT NULL DEFAULT 0"),
    ),
)
JOBS = Table("jobs", (("id", "INTEGER PRIMARY KEY"), ("job", "TEXT NOT NULL")))
ATTEMPTS = Table(
    "attempts",
    (("job", "INTEGER NOT NULL"), ("driver", "INTEGER NOT NULL"), ("started", "REAL NOT NULL")),
    added=(("mark", "TEXT NOT NULL DEFAULT ''"),),
)
OUTCOMES = Table("outcomes", (("id", "INTEGER PRIMARY KEY"), ("outcome", "TEXT NOT NULL")))
EVENTS = Table(
    "events",
    (
        ("seq", "INTEGER PRIMARY KEY"),
        ("kind", "TEXT NOT NULL"),
        ("jobs", "TEXT NOT NULL"),
        ("n", "INTEGER NOT NULL"),
        ("text", "TEXT NOT NULL"),
        ("elapsed", "REAL NOT NULL"),
    ),
)
RECORDS = Table("records", (("seq", "INTEGER PRIMARY KEY"), ("kind", "TEXT NOT NULL"), ("data", "TEXT NOT NULL")))

LEDGER = FileKind(
    name="run ledger",
    application_id=0x41507255,  # "APrU"
    tables=(META, DRIVERS, JOBS, ATTEMPTS, OUTCOMES, EVENTS, RECORDS),
)

MAX_NAMED = 10
"""Damaged rows that a message names."""


class EventKind(StrEnum):
    """Kinds of events."""

    ASKED = "asked"
    STARTED = "started"
    COMMITTED = "committed"
    TOLD = "told"
    FORK = "fork"
    WARNING = "warning"
    STOP = "stop"


@dataclass(frozen=True)
class Event:
    """One thing that happened. Events are equal when the same happened, whenever it did.

    Attributes:
        kind: kind of event.
        jobs: ids: the jobs that an ``ask`` returned (maybe none), or the one that started, was committed or told.
        n: ASKED: how many jobs were asked for.
        text: FORK and STOP: the reason; WARNING: what is wrong.
        elapsed: seconds of search when it happened.
    """

    kind: EventKind
    jobs: tuple[int, ...] = ()
    n: int = 0
    text: str = ""
    elapsed: float = field(default=0.0, compare=False)

    @property
    def is_decision(self) -> bool:
        """Whether the strategy took part: asks and tells come in the same order for any number of workers."""
        return self.kind in (EventKind.ASKED, EventKind.TOLD)


class Ledger:
    """Reads and writes ``run.sqlite``. Records wait until `commit`, which makes them durable all together.

    Args:
        path: an existing ledger.
        readonly: read only; the run may still be going.

    Raises:
        StoreError: the file cannot be used; the message says why and what to do. A damaged row is a reason not to
            write; whoever reads is warned and gets the others.
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self._database = Database(path, LEDGER, readonly=readonly)
        self._readonly = readonly
        self._driver: Row = ()
        self._last_event: int | None = None  # number of the latest event; None until one was written
        self._warned: set[str] = set()
        self._damaged: dict[str, list[Any]] = {}
        try:
            if not readonly and (damage := self.damage()):
                raise StoreError(_refusal(path, damage))
        except BaseException:
            self._database.close()
            raise

    @staticmethod
    def create(path: Path, meta: Mapping[str, Any]) -> None:
        """Write a new ledger that says ``meta`` about its run.

        Raises:
            StoreError: the folder cannot be written.
        """
        Database.create(path, LEDGER, [(META, (name, _text(value))) for name, value in meta.items()])

    def close(self) -> None:
        """Close the file; what was not committed is forgotten."""
        self._database.close()

    # --- reading ---

    def snapshot(self) -> AbstractContextManager[None]:
        """Have everything that the block reads be of one moment."""
        return self._database.snapshot()

    @property
    def meta(self) -> dict[str, Any]:
        """The run's description of itself, JSON types.

        Raises:
            StoreError: some of it is damaged.
        """
        found, damaged = self._read(META, lambda row: (str(row[0]), json.loads(row[1])))
        if damaged:
            raise StoreError(_refusal(self._database.path, [_named(META, damaged)], readable=False))
        return dict(found)

    def jobs(self) -> list[Job]:
        """Return every job asked, in id order."""
        return self._intact(JOBS, _job, "ORDER BY id")

    def outcomes(self, jobs: Sequence[Job] | None = None) -> list[Outcome]:
        """Return every outcome, in id order; that of a damaged job is left out with it.

        Args:
            jobs: result of `jobs`, if it is there already.
        """
        known = {job.id: job for job in (self.jobs() if jobs is None else jobs)}
        return self._intact(OUTCOMES, lambda row: _outcome(row, known), "ORDER BY id")

    def events(self) -> list[Event]:
        """Return everything that happened, in order."""
        return self._intact(EVENTS, _event, "ORDER BY seq")

    def starts(self) -> list[float]:
        """Return the Unix time at which each process began to drive the run, in order."""
        return self._intact(DRIVERS, lambda row: float(row[3]), "ORDER BY id")

    def records(self, kind: str) -> list[dict[str, Any]]:
        """Return what `add_record` kept under ``kind``, oldest first."""
        return [data for found, data in self.all_records() if found == kind]

    def all_records(self) -> list[tuple[str, dict[str, Any]]]:
        """Return everything that `add_record` kept, each with its kind, oldest first."""
        return self._intact(RECORDS, _record, "ORDER BY seq")

    def deaths(self, mark: Callable[[Job], str] = lambda _: "") -> dict[int, int]:
        """Return, per job without outcome, in how many of its latest attempts in a row the driver died; 0s left out.

        Args:
            mark: how far a job has got, as given to `started`; an attempt that got ahead is not counted.
        """
        done = set(self._intact(OUTCOMES, lambda row: int(row[0])))
        closed = dict(self._intact(DRIVERS, lambda row: (int(row[0]), bool(row[4]))))
        attempts: dict[int, list[tuple[int, str]]] = {}
        for job, driver, _, before in self._intact(ATTEMPTS, _same, "ORDER BY rowid"):
            if job not in done and driver != self._driver_id:
                attempts.setdefault(job, []).append((driver, before))
        deaths: dict[int, int] = {}
        for job in self.jobs():
            tried = attempts.get(job.id, [])
            marks = [*(before for _, before in tried[1:]), mark(job)] if tried else []
            for (driver, before), after in zip(tried, marks, strict=True):
                is_hopeful = closed.get(driver, False) or before != after
                deaths[job.id] = 0 if is_hopeful else deaths.get(job.id, 0) + 1
        return {job_id: count for job_id, count in deaths.items() if count}

    def damage(self, jobs: Sequence[Job] | None = None, events: Sequence[Event] | None = None) -> list[str]:
        """Say which rows are damaged or missing; empty where all is well. A table that was read is not read again.

        Args:
            jobs: result of `jobs`, if it is there already.
            events: result of `events`, if it is there already.
        """
        known = {job.id: job for job in (self._read(JOBS, _job)[0] if jobs is None else jobs)}
        readers: tuple[tuple[Table, Callable[[Row], Any]], ...] = (
            (META, lambda row: json.loads(row[1])),
            (DRIVERS, _same),
            (JOBS, _job),
            (ATTEMPTS, _same),
            (OUTCOMES, lambda row: _outcome(row, known)),
            (EVENTS, _event),
            (RECORDS, _record),
        )
        for table, parse in readers:
            if table.name not in self._damaged:
                self._read(table, parse)
        # Without its job no outcome can be read: that it is the job which is missing, is said.
        keys = {
            name: [k for k in damaged if name != OUTCOMES.name or k in known] for name, damaged in self._damaged.items()
        }
        found = [_named(table, keys[table.name]) for table, _ in readers if keys[table.name]]
        return found or self._missing(self.events() if events is None else events)

    # --- writing ---

    def update_meta(self, meta: Mapping[str, Any]) -> None:
        """Set these entries and leave the others; durable at once."""
        self._database.begin()
        rows = [(name, _text(value)) for name, value in meta.items()]
        self._database.insert(META, rows, otherwise="REPLACE")
        self._database.commit()

    def add_record(self, kind: str, data: Mapping[str, Any]) -> None:
        """Keep a measurement that is not an outcome (latency, test images), JSON types; durable at once."""
        self._database.insert(RECORDS, [(self._next(RECORDS), kind, _text(data))])

    def open_driver(self, unix: float) -> None:
        """Record that this process drives the run from now on."""
        self._driver = (self._next(DRIVERS), _plain(socket.gethostname()), os.getpid(), unix, 0)
        self._database.insert(DRIVERS, [self._driver])

    def close_driver(self) -> None:
        """Record that this process stops on purpose."""
        self._database.insert(DRIVERS, [(*self._driver[:-1], 1)], otherwise="REPLACE")

    def last_driver(self) -> str:
        """Return host and process id of the latest driver, in words; "" when there was none."""
        rows, _ = self._database.rows(DRIVERS, "ORDER BY id DESC LIMIT 1")
        return f"process {rows[0][2]} on {rows[0][1]}" if rows else ""

    def asked(self, n: int, jobs: Sequence[Job], *, elapsed: float) -> None:
        """Record that the strategy was asked for ``n`` jobs and what it returned; their ids are new."""
        self._database.add(JOBS, [(job.id, _text(job_to_json(job))) for job in jobs])
        self._record(Event(EventKind.ASKED, tuple(job.id for job in jobs), n, elapsed=elapsed))

    def started(self, job: Job, *, unix: float, elapsed: float, mark: str = "") -> None:
        """Record that an attempt to run ``job`` is about to start.

        Args:
            job: id of the job.
            unix: when, in seconds since 1970.
            elapsed: seconds of search.
            mark: how far earlier attempts have got; "" if nothing is kept of them.
        """
        is_first = not self._database.query("SELECT 1 FROM attempts WHERE job = ? LIMIT 1", (job.id,))
        self._database.add(ATTEMPTS, [(job.id, self._driver_id, unix, mark)])
        if is_first:
            self._record(Event(EventKind.STARTED, (job.id,), elapsed=elapsed))

    def committed(self, outcome: Outcome, *, elapsed: float) -> None:
        """Record what a job came to."""
        self._database.add(OUTCOMES, [(outcome.job.id, _text(outcome_to_json(outcome)))])
        self._record(Event(EventKind.COMMITTED, (outcome.job.id,), elapsed=elapsed))

    def told(self, job_id: int, *, elapsed: float) -> None:
        """Record that the strategy was told the outcome of a job."""
        self._record(Event(EventKind.TOLD, (job_id,), elapsed=elapsed))

    def warned(self, text: str, *, elapsed: float | None = None) -> None:
        """Record that something looks wrong, once however often it is said.

        Args:
            text: text of the warning.
            elapsed: seconds of search; None after it, at the time of the latest event.
        """
        known = "SELECT 1 FROM events WHERE kind = ? AND text = ? LIMIT 1"
        if not self._database.query(known, (EventKind.WARNING.value, _plain(text))):
            if elapsed is None:
                elapsed = self._database.query("SELECT ifnull(max(elapsed), 0.0) FROM events")[0][0]
            self._record(Event(EventKind.WARNING, text=text, elapsed=elapsed))

    def forked(self, reason: str, *, elapsed: float) -> None:
        """Record that the strategy was rebuilt from the outcomes; jobs without outcome are given up."""
        self._database.begin()
        self._database.execute("DELETE FROM attempts WHERE job NOT IN (SELECT id FROM outcomes)")
        self._database.execute("DELETE FROM jobs WHERE id NOT IN (SELECT id FROM outcomes)")
        self._record(Event(EventKind.FORK, text=reason, elapsed=elapsed))

    def stopped(self, reason: str, *, elapsed: float) -> None:
        """Record that the search ended, and why; stopping again where it had stopped is not recorded twice."""
        last = self._database.query(
            "SELECT kind, text FROM events WHERE kind != ? ORDER BY seq DESC LIMIT 1", (EventKind.WARNING.value,)
        )
        if last != [(EventKind.STOP.value, reason)]:
            self._record(Event(EventKind.STOP, text=reason, elapsed=elapsed))

    def commit(self) -> None:
        """Make everything recorded so far durable."""
        self._database.commit()

    def rollback(self) -> None:
        """Forget what was recorded since the last `commit`."""
        self._last_event = None
        self._database.rollback()

    @property
    def _driver_id(self) -> int:
        return int(self._driver[0]) if self._driver else 0

    def _next(self, table: Table) -> int:
        return int(self._database.query(f"SELECT ifnull(max({table.columns[0][0]}), 0) + 1 FROM {table.name}")[0][0])

    def _record(self, event: Event) -> None:
        jobs = ",".join(map(str, event.jobs))
        number = self._next(EVENTS) if self._last_event is None else self._last_event + 1
        row = (number, event.kind.value, f"[{jobs}]", event.n, _plain(event.text), event.elapsed)
        self._database.add(EVENTS, [row])
        self._last_event = number

    def _read(self, table: Table, parse: Callable[[Row], T], tail: str = "") -> tuple[list[T], list[Any]]:
        """Return what the intact rows of a table say, and the keys of the others."""
        rows, damaged = self._database.rows(table, tail)
        found = []
        for row in rows:
            try:
                found.append(parse(row))
            except (ValueError, TypeError, LookupError, RecursionError):  # of a file that has no checksums yet
                damaged.append(row[0])
        self._damaged[table.name] = damaged
        return found, damaged

    def _intact(self, table: Table, parse: Callable[[Row], T], tail: str = "") -> list[T]:
        found, damaged = self._read(table, parse, tail)
        if damaged and not self._readonly:
            raise StoreError(_refusal(self._database.path, [_named(table, damaged)]))
        if damaged and table.name not in self._warned:
            self._warned.add(table.name)
            msg = f"{self._database.path} is damaged: {_named(table, damaged)} left out; restore the file from a copy"
            warnings.warn(msg, AutopruneWarning, stacklevel=4)
        return found

    def _missing(self, events: Sequence[Event]) -> list[str]:
        """Say which jobs and outcomes the events speak of that are not there, or the other way round."""
        forks = [i for i, event in enumerate(events) if event.kind is EventKind.FORK]
        since = events[forks[-1] :] if forks else events
        asked = {job_id for event in since if event.kind is EventKind.ASKED for job_id in event.jobs}
        committed = {event.jobs[0] for event in events if event.kind is EventKind.COMMITTED}
        jobs, outcomes = (
            {int(row[0]) for row in self._database.query(f"SELECT id FROM {table.name}")} for table in (JOBS, OUTCOMES)
        )
        found = []
        if lost := sorted(committed ^ outcomes):
            found.append(f"{_some(lost, 'job')} without an outcome, or outcomes without a record of them")
        if lost := sorted(asked - jobs):
            found.append(f"{_some(lost, 'job')} missing")
        return found


def _job(row: Row) -> Job:
    return job_from_json(json.loads(row[1]))


def _outcome(row: Row, jobs: Mapping[int, Job]) -> Outcome:
    return outcome_from_json(json.loads(row[1]), jobs[row[0]])


def _event(row: Row) -> Event:
    _, kind, jobs, n, text, elapsed = row
    return Event(EventKind(kind), tuple(json.loads(jobs)), n, text, elapsed)


def _record(row: Row) -> tuple[str, dict[str, Any]]:
    return row[1], json.loads(row[2])


def _same(row: Row) -> Row:
    return row


def _named(table: Table, keys: Sequence[Any]) -> str:
    """Name damaged rows."""
    what = "description of the run: entry" if table is META else table.name.removesuffix("s")
    return _some(keys, what)


def _some(keys: Sequence[Any], what: str) -> str:
    shown = ", ".join(repr(key)[:40] for key in keys[:MAX_NAMED])
    more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
    return f"{what} {shown}{more}"


def _refusal(path: Path, damage: Sequence[str], *, readable: bool = True) -> str:
    what = "; ".join(damage)
    rest = (
        "what is intact can still be read, reported and exported (ap.open_run, `autoprune show`, `autoprune export`); "
        "to search on, "
        if readable
        else ""
    )
    return (
        f"cannot use {path}: it is damaged: {what} (the bytes are not those that were written); {rest}restore the file "
        "from a copy, or search into another folder: what the evaluation cache remembers is not measured again"
    )


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _text(value: Any) -> str:
    """Return JSON text that is equal for equal values."""
    return _plain(_ENCODER.encode(value))


def _plain(text: str) -> str:
    """Return text that can be written: halves of characters, as in the names of odd files, are escaped like in JSON."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
