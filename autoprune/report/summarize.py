"""From the records of a run to its `RunSummary`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from autoprune.core import jobs
from autoprune.core.jobs import Outcome, Prepare, Status, evaluations
from autoprune.core.space import SearchSpace
from autoprune.pareto.convergence import Convergence
from autoprune.pareto.front import Front
from autoprune.report import units
from autoprune.report.finetuned import RECORD, finetunings
from autoprune.report.headline import headline, warnings
from autoprune.report.rebuild import rebuild_command, rebuild_python
from autoprune.report.summary import (
    Failure,
    Incident,
    Latency,
    Point,
    Preparation,
    RunSummary,
    State,
    Timing,
)
from autoprune.store.events import Event, EventKind
from autoprune.store.meta import PROBLEM_FILE, SUBSTITUTES, RunMeta

INTERRUPTED = "interrupted"
"""The reason of a stop that the user asked for."""


class RecordedRun(Protocol):
    """What a report reads of a run; `RunStore` has it.

    Three kinds of record are drawn. ``"metrics"``: ``{"point": id, "role": "test", "metrics": {name: value}}``, a
    measurement of an evaluated candidate on other images. ``"latency"``: ``{"setting": text, "rows": [{"point": id or
    None for the dense model, "median": ms, "low": ms, "high": ms, "speedup": [ratio, low, high] or None, "verdict":
    text}, ...]}``, models timed together; of several with the same setting the last counts. ``"finetune"``:
    see `autoprune.report.finetuned.RECORD`.
    """

    folder: Path

    @property
    def meta(self) -> Mapping[str, Any]:
        """The run's description, `RunMeta.to_json`."""
        ...

    @property
    def is_driven(self) -> bool:
        """Whether a process works on the run."""
        ...

    def starts(self) -> Sequence[float]:
        """Unix times at which a process began to work on the run."""
        ...

    def outcomes(self) -> Sequence[Outcome]:
        """All outcomes, by job id."""
        ...

    def events(self) -> Sequence[Event]:
        """What happened, in order."""
        ...

    def records(self, kind: str) -> Sequence[Mapping[str, Any]]:
        """The data of the records of one kind, oldest first."""
        ...


def summarize(run: RecordedRun) -> RunSummary:
    """Compute everything that a report says; the run may be going on meanwhile.

    Raises:
        StoreError: the run's description is malformed.
        InvalidArgumentError: the records do not fit the description.
    """
    meta = RunMeta.from_json(run.meta)
    space = SearchSpace.from_json(meta.space)
    events, outcomes = run.events(), run.outcomes()
    points = _points(run, meta, space, outcomes)
    front = Front.of(outcomes, meta.parsed_objectives, fidelity=meta.fidelity)
    spending = sum((outcome.spent for outcome in outcomes), meta.prior)
    summary = RunSummary(
        meta=meta,
        folder=str(run.folder),
        state=_state(events, is_driven=run.is_driven),
        objectives=meta.parsed_objectives,
        variables=tuple(variable.name for variable in space.variables),
        full_widths=tuple(variable.widths[-1] for variable in space.variables),
        front=tuple(points[outcome.job.id] for outcome in front.outcomes),
        evaluations=tuple(points.values()),
        failures=tuple(_failure(outcome) for outcome in outcomes if outcome.status is Status.FAILED),
        preparations=tuple(_preparations(outcomes)),
        incidents=tuple(_incidents(run.starts(), events)),
        convergence=Convergence.of(
            outcomes, meta.parsed_objectives, meta.reference, fidelity=meta.fidelity, prior=meta.prior
        ),
        timings=(),
        finetunings=finetunings(
            run.records(RECORD),
            searched={i: point.metrics[meta.role_of(point.fidelity)] for i, point in points.items()},
            costs={i: point.costs for i, point in points.items()},
        ),
        spending=replace(spending, seconds=events[-1].elapsed if events else 0.0),
        cached=sum(outcome.cached for outcome in evaluations(outcomes)),
        substitutes=len({job for record in run.records(SUBSTITUTES) for job in record["jobs"]} & points.keys()),
    )
    axis = summary.cost_axis.name
    ordered = sorted(summary.front, key=lambda point: (summary.value(point, axis) or 0.0, point.id))
    summary = replace(summary, front=tuple(ordered), timings=_timings(run.records("latency"), ordered))
    return replace(summary, headline=headline(summary), warnings=(*space.structure.notes, *warnings(summary)))


def _state(events: Sequence[Event], *, is_driven: bool) -> State:
    """Finished by its budget or its strategy, still going, or stopped before that (by the user, or it died)."""
    last = next((event for event in reversed(events) if event.kind is not EventKind.WARNING), None)
    if last is not None and last.kind is EventKind.STOP:
        return State.STOPPED if last.text == INTERRUPTED else State.FINISHED
    return State.RUNNING if is_driven else State.STOPPED


def _incidents(starts: Sequence[float], events: Iterable[Event]) -> Iterable[Incident]:
    for start in starts[1:]:
        yield Incident("resume", datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"), "")
    for event in events:
        if event.kind in (EventKind.FORK, EventKind.STOP, EventKind.WARNING):
            yield Incident(event.kind.value, f"after {units.duration(event.elapsed)}", event.text)


def _points(run: RecordedRun, meta: RunMeta, space: SearchSpace, outcomes: Sequence[Outcome]) -> dict[int, Point]:
    """The measured candidates by job id."""
    measured = {o.job.id: o for o in evaluations(outcomes) if o.status is Status.OK}
    genomes = np.array([o.genome for o in measured.values()], dtype=np.int64).reshape(len(measured), space.n_variables)
    ratios = space.keep_ratios(genomes)
    folder = str(run.folder)
    named = (run.folder / PROBLEM_FILE).exists()  # else no command could build a point
    metrics: dict[int, dict[str, dict[str, float]]] = {
        i: {meta.role_of(outcome.job.fidelity): dict(outcome.metrics)} for i, outcome in measured.items()
    }
    for record in run.records("metrics"):
        if record["point"] in metrics:
            metrics[record["point"]].setdefault(record["role"], {}).update(record["metrics"])
    return {
        i: Point(
            id=i,
            genome=outcome.genome,
            widths=tuple(v.widths[level] for v, level in zip(space.variables, outcome.genome, strict=True)),
            keep_ratios=tuple(kept.tolist()),
            costs=dict(outcome.costs),
            metrics=metrics[i],
            fidelity=outcome.job.fidelity,
            cached=outcome.cached,
            command=rebuild_command(folder, i) if named else "",
            python=rebuild_python(folder, i),
        )
        for (i, outcome), kept in zip(measured.items(), ratios, strict=True)
    }


def _failure(outcome: Outcome) -> Failure:
    what = outcome.job.recipe if isinstance(outcome.job, Prepare) else "candidate"
    return Failure(outcome.job.id, what, outcome.message)


def _preparations(outcomes: Iterable[Outcome]) -> Iterable[Preparation]:
    for outcome in jobs.preparations(outcomes):
        if outcome.status is Status.OK:
            yield Preparation(outcome.job.id, outcome.job.recipe, outcome.job.settings, outcome.spent)


def _timings(records: Sequence[Mapping[str, Any]], front: Sequence[Point]) -> tuple[Timing, ...]:
    rank = {point.id: i for i, point in enumerate(front)}
    latest = {record["setting"]: record["rows"] for record in records}
    timings = []
    for setting, rows in latest.items():
        found = [
            Latency(
                point=row["point"],
                median=row["median"],
                low=row["low"],
                high=row["high"],
                speedup=None if row["speedup"] is None else tuple(row["speedup"]),
                verdict=row["verdict"],
            )
            for row in rows
        ]
        found.sort(key=lambda row: -1 if row.point is None else rank.get(row.point, len(rank)))
        timings.append(Timing(setting, tuple(found)))
    return tuple(timings)
