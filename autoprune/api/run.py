"""The result of a search: a folder that is read, measured further and reported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from autoprune.api import showing
from autoprune.api.picking import Pickable
from autoprune.api.point import RunPoint
from autoprune.api.problem import Problem
from autoprune.api.progress import counted
from autoprune.api.recorded_problem import as_recorded, check_problem, check_readable, check_writable
from autoprune.api.timing import time_in_turns
from autoprune.core.budget import Spending
from autoprune.core.jobs import Evaluation, Outcome
from autoprune.core.settings import as_integer, checked_path
from autoprune.errors import InvalidArgumentError, MissingDependencyError, TraceError, shown, warn
from autoprune.evaluate.reconstructed import Reconstructed
from autoprune.evaluate.runner import Runner
from autoprune.latency.settings import check_runtime
from autoprune.orchestrator import Stop
from autoprune.pareto.front import Front
from autoprune.report.headline import highlight
from autoprune.report.summarize import summarize
from autoprune.report.write import ReportPaths, write_report
from autoprune.store.meta import Role, RunMeta
from autoprune.store.record import LATENCY, METRICS, RunRecord
from autoprune.store.run import RunStore

if TYPE_CHECKING:
    from autoprune.report.document import PlotlyFigure

N_REPORTED = 5
"""Points whose test metrics and latency a report measures unless told otherwise."""

WORTH = 0.25
"""Points are not looked at that keep less of what the dense model is above guessing (above the reference point)."""


@dataclass(frozen=True, eq=False, repr=False)
class RunFront(Front[RunPoint]):
    """The front of a run, which shows itself in notebooks.

    Attributes:
        run: the run.
    """

    run: Run = field(kw_only=True)

    def plot(self, x: str | None = None, y: str | None = None) -> PlotlyFigure:
        """Return a plotly figure of the front in the plane of two figures, see `Run.plot`."""
        return self.run.plot(x, y)

    def _repr_html_(self) -> str:
        """Return the points as a table, for a notebook."""
        return showing.front_card(summarize(self.run.record))


class Run(Pickable[RunPoint]):
    """A search on disk: finished, interrupted or still going.

    It shows what the folder held when it was opened, and what was measured with it since; `refresh` reads it again.

    Args:
        record: everything that the run's folder holds.
        problem: the problem that was searched; needed to build, save and measure points.
    """

    def __init__(self, record: RunRecord, problem: Problem | None = None) -> None:
        self.record = record
        self.problem = problem
        self.space = problem.space if problem is not None else record.space

    def refresh(self) -> None:
        """Read the folder again, for what a search that is still going on has added."""
        self.record = RunRecord.read(self.folder)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.record.folder

    @property
    def meta(self) -> RunMeta:
        """The run's description, written when it started."""
        return self.record.meta

    @property
    def stop(self) -> str:
        """Why the last session ended: finished, evaluations, macs, seconds, interrupted; "" while it is going."""
        return self.record.stop

    @property
    def interrupted(self) -> bool:
        """Whether the user interrupted it; the same call resumes."""
        return self.stop == Stop.INTERRUPTED

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """Every outcome, in id order, failures included."""
        return self.record.outcomes

    @property
    def n_evaluations(self) -> int:
        """Candidates measured, failures included."""
        return self.record.n_evaluations

    @property
    def spent(self) -> Spending:
        """Spending that the outcomes were charged, and spending before the search."""
        return self.record.spent

    @property
    def dense(self) -> dict[str, float]:
        """The dense model's figures by name: costs, and metrics on the search-validation items."""
        return self.meta.dense_figures

    @property
    def front(self) -> RunFront:
        """The non-dominated points, cheapest first: a sequence with a ``table``, a ``plot`` and a ``hypervolume``."""
        found = self.record.front.map(partial(RunPoint, self))
        return RunFront(found.objectives, found.points, found.values, found.box, run=self)

    def summary(self) -> str:
        """Return the run in a few lines: what it found, what it took, what to mind."""
        return "\n".join(showing.summary_lines(summarize(self.record)))

    def plot(self, x: str | None = None, y: str | None = None) -> PlotlyFigure:
        """Return a plotly figure of everything that was measured: the front, what it dominates, the dense model.

        Args:
            x: metric or cost of the horizontal axis, such as ``"latency"``; the first cost of the objectives by
                default.
            y: the same of the vertical axis; the first objective that is measured by default.

        Raises:
            UnknownNameError: the run has no such figure; the message names those it has.
        """
        return showing.front_plot(summarize(self.record), x, y)

    def point(self, id: int) -> RunPoint:
        """Return the evaluated candidate with this job id.

        Raises:
            InvalidArgumentError: there is none.
        """
        for outcome in self.outcomes:
            if outcome.job.id != id:
                continue
            if isinstance(outcome, Evaluation):
                return RunPoint(self, outcome)
            msg = f"job {id} prepared weights; it is no candidate"
            raise InvalidArgumentError(msg)
        msg = f"there is no job {id} in {self.folder}; it has {len(self.outcomes)}"
        raise InvalidArgumentError(msg)

    @property
    def _choice(self) -> tuple[RunMeta, Front[RunPoint]]:
        return self.meta, self.front

    def choose(self, n: int = N_REPORTED) -> list[RunPoint]:
        """Return up to ``n`` points of the front, spread evenly over cost."""
        return _spread(self.front, n)

    def _to_measure(self, n: int = N_REPORTED) -> list[RunPoint]:
        """Choose up to ``n`` points that keep a part of what the dense model is above guessing."""
        quality = self.record.objectives.quality
        if quality.is_cost or quality.name not in self.dense:
            return self.choose(n)
        guessing = self.meta.reference[quality.name]
        least = guessing + WORTH * (self.dense[quality.name] - guessing)
        sign = 1.0 if quality.maximize else -1.0
        useful = [point for point in self.front if sign * (point.metrics[quality.name] - least) >= 0]
        return _spread(useful, n) or self.choose(n)

    def test(self, points: Sequence[RunPoint] | None = None, *, polish: bool = False) -> dict[int, dict[str, float]]:
        """Measure points, and the dense model, on the test items; the figures go into the run and its reports.

        Args:
            points: points to measure; by default up to five of the front, spread over cost, that do clearly better
                than guessing.
            polish: measure ``point.build(polish=True)``; reports show these figures beside those of what was scored.

        Returns:
            Metrics by job id.

        Raises:
            InvalidArgumentError: the run was opened without its problem, the data has no test items, or the run's
                evaluator cannot polish.
        """
        problem = self._require_problem("measure")
        if polish:
            _ = self._polisher
        role = Role.POLISHED if polish else Role.TEST
        found: dict[int, dict[str, float]] = {}
        with self._writing() as store:
            records = store.ledger.records(METRICS)
            known = {record["point"]: record["metrics"] for record in records if record["role"] == role}
            recorded = RunMeta.from_json(store.ledger.meta).dense
            if "test" not in recorded.metrics:
                dense = {**recorded.metrics, "test": problem.dense_test_metrics}
                store.ledger.update_meta({"dense": {"costs": dict(recorded.costs), "metrics": dense}})
            for point in self._to_measure() if points is None else points:
                if point.id not in known:
                    known[point.id] = problem.test(point.build(polish=polish))
                    kept = {"point": point.id, "role": role.value, "metrics": known[point.id]}
                    store.ledger.add_record(METRICS, kept)
                found[point.id] = known[point.id]
        return found

    def measure_latency(
        self,
        points: Sequence[RunPoint] | None = None,
        *,
        batch_size: int | None = None,
        threads: int | None = None,
        runtime: str | None = None,
        rounds: int = 30,
    ) -> None:
        """Time the dense model and points in turns on this machine; the figures go into the run and its reports.

        Args:
            points: points to measure; by default up to five of the front, spread over cost, that do clearly better
                than guessing.
            batch_size: samples per forward pass; by default those that latency is predicted for, else one.
            threads: CPU threads, likewise.
            runtime: runtime of the models: ``"torch"``, ``"onnxruntime"`` or ``"compile"`` (`torch.compile`); by
                default what latency is predicted for, else torch.
            rounds: timed passes per model.

        Raises:
            InvalidArgumentError: the run was opened without its problem.
            UnknownNameError: there is no such runtime.
            MissingDependencyError: it is not installed.
            TraceError: it cannot run these models.
        """
        problem = self._require_problem("time")
        chosen = self._to_measure() if points is None else list(points)
        models: dict[str, nn.Module] = {"dense": problem.model}
        models.update({str(point.id): point.build() for point in chosen})
        timings, how = time_in_turns(
            problem, models, batch_size=batch_size, threads=threads, runtime=runtime, rounds=rounds, seed=problem.seed
        )
        rows = []
        for name in models:
            median = timings.median(name)
            row: dict[str, Any] = {
                "point": None if name == "dense" else int(name),
                "median": 1000 * median.value,
                "low": 1000 * median.low,
                "high": 1000 * median.high,
                "speedup": None,
                "verdict": "",
            }
            if name != "dense":
                speedup = timings.speedup("dense", name)
                row["speedup"] = [speedup.value, speedup.low, speedup.high]
                row["verdict"] = timings.verdict("dense", name)
            rows.append(row)
        threads = timings.threads
        where = how["conditions"].get("target", "")
        setting = f"batch {timings.batch_size}, {threads} thread{'s' if threads > 1 else ''}, {timings.device}"
        setting += f" of {where}" if where else ""
        setting += f", {how['ran_in']}" if "runtime" in how["conditions"] else ""
        with self._writing() as store:
            store.ledger.add_record(LATENCY, {"setting": setting, "rows": rows, **how})

    def _time_with_others(self, point: RunPoint) -> None:
        """Time a point that the last timing left out, together with those in it: one table has one machine and hour."""
        records = self.record.records(LATENCY)
        last = [row["point"] for row in records[-1]["rows"] if row["point"] is not None] if records else []
        if point.id not in last:
            self.measure_latency([*(self.point(id_) for id_ in last), point])

    def report(
        self,
        path: str | Path | None = None,
        *,
        points: int = N_REPORTED,
        measure: bool = True,
        polish: bool = False,
        runtimes: Sequence[str] = (),
        progress: bool = True,
    ) -> ReportPaths:
        """Write the report: one HTML file without network access, CSV and JSON beside it.

        Args:
            path: the HTML file; ``report.html`` in the run's folder by default.
            points: how many points of the front to measure on the test items and to time.
            measure: measure what is missing; needs the problem, and a folder that is not damaged.
            polish: also measure these points polished, see `RunPoint.build`.
            runtimes: further runtimes that they are timed in, see `measure_latency`; one that is not installed, or
                cannot run the models, is left out with a warning.
            progress: whether a bar is shown in terminals and notebooks.

        Raises:
            StoreError: the report cannot be written.
            InvalidArgumentError: ``polish``, and the run's evaluator cannot; or ``points`` is no number of them.
            UnknownNameError: there is no such runtime.
        """
        if (as_integer(points) or 0) < 1:
            msg = f"expected points to be an integer of at least 1, got {shown(points)}"
            raise InvalidArgumentError(msg)
        runtimes = [runtimes] if isinstance(runtimes, str) else list(runtimes)
        for runtime in runtimes:
            check_runtime(runtime, "cpu")
        if polish:
            _ = self._polisher
        self.refresh()
        if measure and self.problem is not None and len(self.front) and not self.record.damage:
            chosen = self._to_measure(points)
            told = highlight(summarize(self.record))  # the point that the report's first sentence is about
            if told is not None and told.id not in {point.id for point in chosen}:
                chosen.append(self.point(told.id))
            roles = [False, *[True] * polish] if self.problem.data.test is not None else []
            with counted("measuring", len(roles) * len(chosen) + 1 + len(runtimes), wanted=progress) as begin:
                for polished in roles:
                    for point in chosen:
                        begin(f"point {point.id} on test items{', polished' if polished else ''}")
                        self.test([point], polish=polished)
                begin(f"time of {len(chosen)} points")
                self.measure_latency(chosen)
                for runtime in runtimes:
                    begin(f"time in {runtime}")
                    try:
                        self.measure_latency(chosen, runtime=runtime)
                    except (TraceError, MissingDependencyError) as error:
                        warn(f"nothing is timed in {runtime}: {error}", stacklevel=2)
        return write_report(self.record, path)

    def to_optuna(self, path: str | Path) -> str:
        """Write the run as a study of Optuna into an SQLite file and return the study's name.

        ``optuna-dashboard sqlite:///FILE`` shows it: a trial per candidate, kept channels as its parameters.

        Raises:
            InvalidArgumentError: the file holds a study of that name already.
            StoreError: the file cannot be written.
        """
        from autoprune.report.optuna_study import write_study

        return write_study(self.record, path)

    @cached_property
    def _scored(self) -> Problem:
        """The problem as it was when candidates were scored: BatchNorm once was always recalibrated afresh."""
        return self._require_problem("build").with_batchnorm(self.meta.settings.get("batchnorm", "afresh"))

    @cached_property
    def _runner(self) -> Runner:
        """Rebuilds the run's candidates; what they inherit is read once."""
        return self._scored.runner(self.record.weights, fidelity=self.meta.fidelity)

    @property
    def _polisher(self) -> Reconstructed:
        """The evaluator that scored the run and polishes its points.

        Raises:
            InvalidArgumentError: the run was opened without its problem, or its evaluator does not reconstruct.
        """
        self._require_problem("polish")
        evaluator = self._scored.evaluator_of(self.meta.fidelity)
        if not isinstance(evaluator, Reconstructed):
            msg = f"polish needs candidates of the evaluator 'reconstructed', these are of {evaluator.name!r}"
            raise InvalidArgumentError(msg)
        return evaluator

    @contextmanager
    def _writing(self) -> Iterator[RunStore]:
        """Open the folder for writing, and read it again afterwards.

        Raises:
            StoreError: another process drives the run, or it is of another problem.
        """
        problem = self._require_problem("write to")
        opened = RunStore(self.folder, check=lambda meta: check_writable(self.folder, meta, problem))
        try:
            with opened as store:
                yield store
        finally:
            self.refresh()

    def _require_problem(self, what: str) -> Problem:
        """Return the problem.

        Raises:
            InvalidArgumentError: the run was opened without it; ``what`` says what cannot be done.
        """
        if self.problem is None:
            msg = f"to {what} points of {self.folder}, open the run with its problem: ap.open_run(folder, problem)"
            raise InvalidArgumentError(msg)
        return self.problem

    def _repr_html_(self) -> str:
        """Return the summary and the front, for a notebook."""
        return showing.run_card(summarize(self.record))

    def __repr__(self) -> str:
        """Name the folder and how far it is."""
        found = f"{self.n_evaluations} evaluations, {len(self.front)} points"
        return f"Run({str(self.folder)!r}: {self.meta.strategy}, {found})"


def _spread(points: Front[RunPoint] | list[RunPoint], n: int) -> list[RunPoint]:
    """Return up to ``n`` of ``points``, spread evenly over cost."""
    if len(points) <= n:
        return list(points)
    cost = np.array([point.costs["macs"] for point in points], dtype=np.float64)
    wanted = np.linspace(cost.min(), cost.max(), n)
    return [points[i] for i in sorted({int(np.abs(cost - wish).argmin()) for wish in wanted})]


def open_run(folder: str | Path, problem: Problem | None = None) -> Run:
    """Open a run's folder for reading; it may be going on meanwhile.

    Another machine, device or version of torch than searched it will do, to build, test, fine-tune and report.

    Args:
        folder: the run's folder: the ``store=`` that was given to `search`.
        problem: the problem that was searched; needed to build, save and measure points. Its model is run on a few
            items and must give the outputs that it gave during the search, up to rounding.

    Raises:
        StoreError: there is no usable run, or it is of another problem.
    """
    if problem is not None:
        check_problem(problem)
    record = RunRecord.read(checked_path(folder, "a run's folder"))
    _ = record.meta  # malformed ones are refused here
    if problem is not None:
        problem = as_recorded(problem, record.description)
        check_readable(record, problem)
    return Run(record, problem)
