"""From the records of a run to its `RunSummary`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from autoprune.core.jobs import Status, evaluations, preparations
from autoprune.report import units
from autoprune.report.headline import headline, warnings
from autoprune.report.layers import layers_of
from autoprune.report.summary import (
    FineTuning,
    Incident,
    Latency,
    RunSummary,
    State,
    Timing,
)
from autoprune.store.ledger import Event, EventKind
from autoprune.store.meta import PROBLEM_FILE, SUBSTITUTES
from autoprune.store.record import FINETUNE, LATENCY, Point, RunRecord

INTERRUPTED = "interrupted"
"""The reason of a stop that the user asked for."""


def summarize(record: RunRecord) -> RunSummary:
    """Compute everything that a report says; the run may be going on meanwhile.

    Raises:
        StoreError: the run's description is malformed.
        InvalidArgumentError: the records do not fit the description.
    """
    meta, events, points = record.meta, record.events, record.points
    front = tuple(points[outcome.job.id] for outcome in record.front)
    summary = RunSummary(
        meta=meta,
        folder=str(record.folder),
        state=_state(record),
        objectives=record.objectives,
        variables=tuple(variable.name for variable in record.space.variables),
        full_widths=tuple(variable.widths[-1] for variable in record.space.variables),
        front=front,
        evaluations=tuple(points.values()),
        failures=tuple(outcome for outcome in record.outcomes if outcome.status is Status.FAILED),
        preparations=tuple(made for made in preparations(record.outcomes) if made.status is Status.OK),
        incidents=tuple(_incidents(record.starts, events)),
        convergence=record.convergence,
        timings=_timings(record, front),
        layers=layers_of(record, front),
        finetunings=_finetunings(record.records(FINETUNE), points),
        spending=replace(record.spent, seconds=events[-1].elapsed if events else 0.0),
        cached=sum(outcome.cached for outcome in evaluations(record.outcomes)),
        substitutes=len({job for found in record.records(SUBSTITUTES) for job in found["jobs"]} & points.keys()),
        has_problem_file=(record.folder / PROBLEM_FILE).exists(),
        notes=record.space.structure.notes,
    )
    return replace(summary, headline=headline(summary), warnings=(*summary.notes, *warnings(summary)))


def _state(record: RunRecord) -> State:
    """Finished by its budget or its strategy, still going, or stopped before that (by the user, or it died)."""
    if record.stop:
        return State.STOPPED if record.stop == INTERRUPTED else State.FINISHED
    return State.RUNNING if record.is_driven else State.STOPPED


def _incidents(starts: Sequence[float], events: Iterable[Event]) -> Iterable[Incident]:
    for start in starts[1:]:
        yield Incident("resume", datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"), "")
    for event in events:
        if event.kind in (EventKind.FORK, EventKind.STOP, EventKind.WARNING):
            yield Incident(event.kind.value, f"after {units.duration(event.elapsed)}", event.text)


def _timings(record: RunRecord, front: Sequence[Point]) -> tuple[Timing, ...]:
    rank = {point.id: i for i, point in enumerate(front)}
    latest = {timed["setting"]: timed for timed in record.records(LATENCY)}
    timings = []
    for setting, timed in latest.items():
        found = [
            Latency(
                point=row["point"],
                median=row["median"],
                low=row["low"],
                high=row["high"],
                speedup=None if row["speedup"] is None else tuple(row["speedup"]),
                verdict=row["verdict"],
            )
            for row in timed["rows"]
        ]
        found.sort(key=lambda row: -1 if row.point is None else rank.get(row.point, len(rank)))
        timings.append(Timing(setting, tuple(found), record.is_as_predicted(timed)))
    return tuple(sorted(timings, key=lambda timing: not timing.is_as_predicted))


def _finetunings(records: Sequence[Mapping[str, Any]], points: Mapping[int, Point]) -> tuple[FineTuning, ...]:
    """Return the fine-tunings of a run, oldest first; of several records of one point and role the last counts."""
    after: dict[str, dict[int, dict[str, Mapping[str, float]]]] = {}
    settings: dict[str, Mapping[str, Any]] = {}
    for record in records:
        if record["point"] in points:
            after.setdefault(record["key"], {}).setdefault(record["point"], {})[record["role"]] = record["metrics"]
            settings.setdefault(record["key"], record.get("settings", {}))
    return tuple(
        FineTuning(key, settings[key], tuple(points[i] for i in sorted(found)), found) for key, found in after.items()
    )
