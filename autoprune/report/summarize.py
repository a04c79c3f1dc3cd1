"""From the records of a run to its `RunSummary`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from autoprune.core.budget import Spending
from autoprune.core.jobs import Evaluate, Outcome, Prepare, Status
from autoprune.core.space import SearchSpace
from autoprune.pareto.front import Front
from autoprune.pareto.hypervolume import hypervolume_curve
from autoprune.report.headline import headline, warnings
from autoprune.report.rebuild import rebuild_command, rebuild_python
from autoprune.report.summary import (
    Convergence,
    Failure,
    Incident,
    Latency,
    Point,
    Preparation,
    RunSummary,
    State,
    Timing,
)
from autoprune.store.meta import RunMeta


class Records(Protocol):
    """What a report reads of a run's folder.

    Two kinds of record are drawn. ``"metrics"``: ``{"point": id, "role": "test", "metrics": {name: value}}``, a
    measurement of an evaluated candidate on other images. ``"latency"``: ``{"setting": text, "rows": [{"point": id or
    None for the dense model, "median": ms, "low": ms, "high": ms, "speedup": [ratio, low, high] or None, "verdict":
    text}, ...]}``, models timed together; of several with the same setting the last counts.
    """

    def outcomes(self) -> Sequence[Outcome]:
        """All outcomes, by job id."""
        ...

    def records(self, kind: str) -> Sequence[Mapping[str, Any]]:
        """The data of the records of one kind, oldest first."""
        ...


def summarize(
    run: Records, meta: RunMeta, *, folder: str, state: State, incidents: Iterable[Incident] = ()
) -> RunSummary:
    """Compute everything that a report says.

    Args:
        run: what was recorded.
        meta: the run's description.
        folder: the run's folder, as the reader would type it.
        state: whether more is to come.
        incidents: forks and stops, by time.

    Raises:
        InvalidArgumentError: the records do not fit the description.
    """
    space = SearchSpace.from_json(meta.space)
    outcomes = run.outcomes()
    objectives = meta.parsed_objectives
    points = _points(run, meta, space, outcomes, folder)
    front = Front.of(outcomes, objectives, fidelity=meta.fidelity)
    summary = RunSummary(
        meta=meta,
        folder=folder,
        state=state,
        objectives=objectives,
        variables=tuple(variable.name for variable in space.variables),
        full_widths=tuple(variable.widths[-1] for variable in space.variables),
        front=tuple(points[outcome.job.id] for outcome in front.outcomes),
        evaluations=tuple(points.values()),
        failures=tuple(_failure(outcome) for outcome in outcomes if outcome.status is Status.FAILED),
        preparations=tuple(_preparations(outcomes)),
        incidents=tuple(incidents),
        convergence=_convergence(meta, outcomes),
        timings=(),
        spending=sum((outcome.spent for outcome in outcomes), Spending()),
        cached=sum(outcome.cached for outcome in outcomes),
    )
    axis = summary.cost_axis.name
    ordered = sorted(summary.front, key=lambda point: (summary.value(point, axis) or 0.0, point.id))
    summary = replace(summary, front=tuple(ordered), timings=_timings(run.records("latency"), ordered))
    return replace(summary, headline=headline(summary), warnings=warnings(summary))


def _points(
    run: Records, meta: RunMeta, space: SearchSpace, outcomes: Sequence[Outcome], folder: str
) -> dict[int, Point]:
    """The measured candidates by job id."""
    measured = [o for o in outcomes if isinstance(o.job, Evaluate) and o.status is Status.OK]
    jobs = [o.job for o in measured if isinstance(o.job, Evaluate)]
    genomes = np.array([job.candidate.genome for job in jobs], dtype=np.int64).reshape(len(jobs), space.n_variables)
    ratios = space.keep_ratios(genomes)
    metrics: dict[int, dict[str, dict[str, float]]] = {
        job.id: {meta.role_of(job.fidelity): dict(outcome.metrics)} for job, outcome in zip(jobs, measured, strict=True)
    }
    for record in run.records("metrics"):
        if record["point"] in metrics:
            metrics[record["point"]].setdefault(record["role"], {}).update(record["metrics"])
    return {
        job.id: Point(
            id=job.id,
            genome=job.candidate.genome,
            widths=tuple(v.widths[level] for v, level in zip(space.variables, job.candidate.genome, strict=True)),
            keep_ratios=tuple(ratios[i].tolist()),
            costs=dict(outcome.costs),
            metrics=metrics[job.id],
            fidelity=job.fidelity,
            cached=outcome.cached,
            command=rebuild_command(folder, job.id),
            python=rebuild_python(folder, job.id),
        )
        for i, (job, outcome) in enumerate(zip(jobs, measured, strict=True))
    }


def _failure(outcome: Outcome) -> Failure:
    what = outcome.job.recipe if isinstance(outcome.job, Prepare) else "candidate"
    return Failure(outcome.job.id, what, outcome.message)


def _preparations(outcomes: Iterable[Outcome]) -> Iterable[Preparation]:
    for outcome in outcomes:
        if isinstance(outcome.job, Prepare) and outcome.status is Status.OK:
            yield Preparation(outcome.job.id, outcome.job.recipe, outcome.job.settings, outcome.spent)


def _convergence(meta: RunMeta, outcomes: Sequence[Outcome]) -> Convergence:
    """The steps at which the hypervolume grew, and the end; failed jobs and preparation cost, too."""
    objectives = meta.parsed_objectives
    # Costs count in units of the dense model, so that hypervolumes of different models can be read alike.
    scale = np.array([float(meta.dense.costs.get(name) or 1) for name in objectives.names])
    macs = evaluations = 0
    spent: list[tuple[int, int]] = []
    values = []
    for outcome in outcomes:
        macs += outcome.spent.macs
        evaluations += outcome.spent.evaluations
        job = outcome.job
        if isinstance(job, Evaluate) and job.fidelity == meta.fidelity and outcome.status is Status.OK:
            spent.append((macs, evaluations))
            values.append(objectives.values(outcome.metrics, outcome.costs) / scale)
    reference = objectives.values(meta.reference, {}) / scale
    curve = hypervolume_curve(values, reference)
    shown = [i for i in range(len(curve)) if i in (0, len(curve) - 1) or curve[i] > curve[i - 1]]
    steps = [(*spent[i], float(curve[i])) for i in shown]
    if steps and (macs, evaluations) != spent[-1]:
        steps.append((macs, evaluations, steps[-1][2]))
    return Convergence(
        macs=tuple(step[0] for step in steps),
        evaluations=tuple(step[1] for step in steps),
        hypervolume=tuple(step[2] for step in steps),
        reference=dict(meta.reference),
    )


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
