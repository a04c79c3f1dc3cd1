"""Every figure of a run as plain data: computed once from the run's folder, then drawn by the other modules here.

Nothing here draws, and nothing that draws computes: every number of a report can be tested on `RunSummary`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

from autoprune.core.budget import Spending
from autoprune.core.groups import FloatArray
from autoprune.core.jobs import Outcome, Preparation
from autoprune.core.objectives import Objectives
from autoprune.pareto.convergence import Convergence
from autoprune.pareto.rank_correlation import kendall
from autoprune.report.layers import Layers
from autoprune.store.meta import Role, RunMeta
from autoprune.store.record import Point


class State(StrEnum):
    """Whether more is to come."""

    RUNNING = "running"
    STOPPED = "stopped"
    FINISHED = "finished"


class Measured(Protocol):
    """Anything with costs and metrics: a point, the dense model."""

    @property
    def costs(self) -> Mapping[str, int]:
        """Counted integers by cost name."""
        ...

    @property
    def metrics(self) -> Mapping[str, Mapping[str, float]]:
        """Measured figures by role and name."""
        ...


def value_of(measured: Measured, name: str, role: Role) -> float | None:
    """Return the cost or, on ``role``'s images, the metric called ``name``; None where it was not measured."""
    if name in measured.costs:
        return float(measured.costs[name])
    return measured.metrics.get(role, {}).get(name)


def kind_of(outcome: Outcome) -> str:
    """Return ``"candidate"``, or the recipe of a job that makes weights."""
    return outcome.job.recipe if isinstance(outcome, Preparation) else "candidate"


@dataclass(frozen=True)
class Incident:
    """A resume, a fork, a warning or a stop of the run.

    Attributes:
        kind: ``"resume"``, ``"fork"``, ``"warning"`` or ``"stop"``.
        when: a date, or a time of search, in words.
        text: the reason; may be empty.
    """

    kind: str
    when: str
    text: str


@dataclass(frozen=True)
class Latency:
    """Measured time of one forward pass of one model.

    Attributes:
        point: the point's id; None for the dense model.
        median: milliseconds.
        low: lower end of the interval of the median.
        high: upper end of it.
        speedup: dense time over this time, ``(ratio, low, high)``; None for the dense model.
        verdict: the verdict in words, such as ``"no significant speed-up"``; empty for the dense model.
    """

    point: int | None
    median: float
    low: float
    high: float
    speedup: tuple[float, float, float] | None
    verdict: str

    @property
    def is_faster(self) -> bool:
        """Whether the whole interval of the speed-up lies above 1."""
        return self.speedup is not None and self.speedup[1] > 1


@dataclass(frozen=True)
class Timing:
    """Models that were timed together, taking turns.

    Attributes:
        setting: backend, device, threads and batch in words.
        rows: the dense model first, then points in the order of the front.
        is_as_predicted: whether the run predicted latency under the same conditions and on the same machine.
    """

    setting: str
    rows: tuple[Latency, ...]
    is_as_predicted: bool = False


AFTER = (Role.VALIDATION, Role.TEST)
"""On which items trained points are measured."""


@dataclass(frozen=True)
class FineTuning:
    """Points that were trained with the same settings.

    Attributes:
        key: name of the settings and the seed.
        settings: settings of the training; those of the first point if each kept the ones that suit it best.
        points: the points as they were searched, by id.
        after: metrics of the trained models, by id and role.
    """

    key: str
    settings: Mapping[str, Any]
    points: tuple[Point, ...]
    after: Mapping[int, Mapping[str, Mapping[str, float]]]

    def correlation(self, metric: str, role: Role) -> float | None:
        """Return Kendall's rank correlation of a metric during the search with the one after training.

        None where fewer than three points have both, or all are equal.
        """
        both = [
            (point.searched[metric], self.after[point.id][role][metric])
            for point in self.points
            if metric in point.searched and metric in self.after[point.id].get(role, {})
        ]
        return kendall([before for before, _ in both], [after for _, after in both])


@dataclass(frozen=True)
class RunSummary:
    """Everything that a report says.

    Attributes:
        meta: description of the run, written when it started.
        folder: the run's folder, as the reader would type it.
        state: running, stopped or finished.
        objectives: the objectives, with their directions.
        variables: names of the width variables.
        full_widths: channels of the dense model, per width variable.
        front: non-dominated points at the run's fidelity, sorted by `Objectives.cost`, increasing.
        evaluations: all points, by id.
        failures: jobs that failed, by id.
        preparations: jobs that made weights, by id.
        incidents: resumes, then forks and stops.
        convergence: hypervolume over counted cost and over evaluations.
        timings: measured latency, one entry per setting; empty when not measured.
        layers: channels and costs of each layer, in the dense model and in every point of the front.
        finetunings: final trainings of points, oldest first.
        spending: all that was charged, with the seconds of search.
        cached: number of evaluations that came from the cache.
        substitutes: number of candidates that were drawn at random because the strategy's method chose nothing new.
        has_problem_file: whether the folder names its problem, so that a shell command can rebuild its points.
        notes: sentences about what the counted costs mean or leave out.
        warnings: sentences that the reader must not miss, the notes among them.
        headline: the run in one sentence.
    """

    meta: RunMeta
    folder: str
    state: State
    objectives: Objectives
    variables: tuple[str, ...]
    full_widths: tuple[int, ...]
    front: tuple[Point, ...]
    evaluations: tuple[Point, ...]
    failures: tuple[Outcome, ...]
    preparations: tuple[Preparation, ...]
    incidents: tuple[Incident, ...]
    convergence: Convergence
    timings: tuple[Timing, ...]
    layers: Layers
    finetunings: tuple[FineTuning, ...]
    spending: Spending
    cached: int
    substitutes: int = 0
    has_problem_file: bool = False
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    headline: str = ""

    @property
    def role(self) -> Role:
        """The role of the images that decided the front."""
        return self.meta.role_of(self.meta.fidelity)

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles measured on at least one point of the front, or on the dense model; the deciding one first."""
        measured: list[Measured] = [self.meta.dense, *self.front]
        seen = {Role(role) for item in measured for role in item.metrics}
        return (self.role, *(role for role in Role if role in seen and role is not self.role))

    @property
    def keep_ratios(self) -> FloatArray:
        """(v, p) fraction of the channels kept: per width variable in execution order, per point of the front."""
        values = np.array([point.keep_ratios for point in self.front], dtype=np.float64)
        return values.reshape(len(self.front), len(self.variables)).T

    def value(self, measured: Measured, name: str) -> float | None:
        """Return a cost, or a metric on the images that decided the front."""
        return value_of(measured, name, self.role)

    def command(self, point: int) -> str:
        """Return the shell command that writes the model of a point; "" where the run names no problem file."""
        return f"autoprune export {shlex.quote(self.folder)} --point {point}" if self.has_problem_file else ""

    def python(self, point: int) -> str:
        """Return the Python expression that builds the model of a point, given the ``problem`` that was searched."""
        return f"ap.open_run({self.folder!r}, problem).point({point}).build()"

    @property
    def on_front(self) -> frozenset[int]:
        """Ids of the front's points."""
        return frozenset(point.id for point in self.front)

    @property
    def comparable(self) -> tuple[Point, ...]:
        """The evaluations at the fidelity of the front: only they compare with it."""
        return tuple(point for point in self.evaluations if point.fidelity == self.meta.fidelity)
