"""What came out of a search: the front, and points that become models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from autoprune import artifact
from autoprune.api.problem import Problem
from autoprune.core.budget import Spending
from autoprune.core.groups import BoolArray
from autoprune.core.jobs import Evaluate, Outcome
from autoprune.core.limits import parse_limit
from autoprune.core.orders import decode_orders
from autoprune.core.space import SearchSpace
from autoprune.cost.latency import measure_latency
from autoprune.errors import InvalidArgumentError, StoreError
from autoprune.evaluate.reconstructed import Reconstructed
from autoprune.evaluate.runner import Runner
from autoprune.evaluate.weights import WeightReader
from autoprune.orchestrator import Stop
from autoprune.pareto.front import Front
from autoprune.pareto.reference import ReferenceBox
from autoprune.report.headline import highlight
from autoprune.report.summarize import summarize
from autoprune.report.write import ReportPaths, write_report
from autoprune.store.events import EventKind
from autoprune.store.meta import RunMeta
from autoprune.store.run import RunStore

if TYPE_CHECKING:
    import pandas as pd

N_REPORTED = 5
"""Points whose test metrics and latency a report measures unless told otherwise."""


@dataclass(frozen=True, eq=False)
class RunPoint:
    """One evaluated candidate of a run.

    Attributes:
        run: where it comes from.
        outcome: what was measured.
    """

    run: Run
    outcome: Outcome

    @property
    def id(self) -> int:
        """Its job id in the run."""
        return self.outcome.job.id

    @property
    def genome(self) -> tuple[int, ...]:
        """One level index per width variable."""
        return self._job.candidate.genome

    @property
    def widths(self) -> dict[str, int]:
        """Kept channels by group name."""
        space = self.run.space
        kept = space.widths(np.array([self.genome], dtype=np.int64))[0]
        return {group.name: int(width) for group, width in zip(space.structure.groups, kept, strict=True)}

    @property
    def metrics(self) -> Mapping[str, float]:
        """What was measured on the search-validation items."""
        return self.outcome.metrics

    @property
    def costs(self) -> Mapping[str, int]:
        """Exact counted integers."""
        return self.outcome.costs

    def build(self, *, polish: bool = False) -> nn.Module:
        """Return the smaller model, with the weights and BatchNorm statistics that were scored.

        Args:
            polish: re-solve its layers once more, in execution order, on what really arrives at each: better accuracy
                before any training, for two calibration passes per layer. The scores of the run are of the model
                without it. Needs the evaluator ``reconstructed``.

        Raises:
            InvalidArgumentError: the run was opened without its problem, or its evaluator does not reconstruct.
        """
        model = self.run.runner.build(self._job)
        if polish:
            evaluator = self.run.needs_problem("polish").evaluator
            if not isinstance(evaluator, Reconstructed):
                msg = f"polish needs a problem with evaluator='reconstructed', this one has {evaluator.name!r}"
                raise InvalidArgumentError(msg)
            reader = WeightReader(self.run.store.weights, self.run.space.structure, evaluator.device)
            evaluator.polish(model, self.genome, reader(self._job.candidate.weight_set))
        return model

    def save(self, path: str | Path, model: nn.Module | None = None) -> None:
        """Write the smaller model to one file that `autoprune.load` reads.

        Args:
            path: where to write.
            model: what `build` returned, trained since; by default the model that was scored, with its metrics.

        Raises:
            InvalidArgumentError: the run was opened without its problem.
            SurgeryError: ``model`` is not of this point's widths.
            ArtifactError: the file cannot be written.
        """
        artifact.save(
            path,
            self.build() if model is None else model,
            self.run.space.structure,
            kept=self.kept,
            space=self.run.space,
            genome=self.genome,
            costs=self.costs,
            metrics=self.metrics if model is None else None,
            note=f"point {self.id} of {self.run.folder}{'' if model is None else ', trained since'}",
        )

    def test(self) -> dict[str, float]:
        """Measure the point on the test items and record it in the run."""
        return self.run.test([self])[self.id]

    @property
    def kept(self) -> BoolArray:
        """(n_genes,) the channels that stay."""
        space = self.run.space
        orders = decode_orders(space.structure, self.run.store.weights.get(self._job.candidate.weight_set.order))
        return space.structure.kept_genes(orders, space.widths(np.array([self.genome], dtype=np.int64))[0])

    @property
    def _job(self) -> Evaluate:
        if not isinstance(self.outcome.job, Evaluate):
            msg = f"job {self.id} prepared weights; it is no candidate"
            raise InvalidArgumentError(msg)
        return self.outcome.job

    def __repr__(self) -> str:
        """Name the point and its figures."""
        figures = ", ".join(f"{name}={value:g}" for name, value in {**self.metrics, **self.costs}.items())
        return f"RunPoint({self.id}: {figures})"


class RunFront:
    """The non-dominated points of a run.

    Args:
        run: the run.
        front: its non-dominated evaluations.
    """

    def __init__(self, run: Run, front: Front) -> None:
        self._run = run
        self.data = front

    @property
    def points(self) -> tuple[RunPoint, ...]:
        """The points, by the first objective that is a cost, cheapest first."""
        objectives = self.data.objectives
        costs = [i for i, item in enumerate(objectives.items) if item.is_cost] or [0]
        turns = np.argsort(self.data.values[:, costs[0]], kind="stable") if len(self.data) else ()
        return tuple(RunPoint(self._run, self.data.outcomes[i]) for i in turns)

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.data)

    def __iter__(self) -> Iterator[RunPoint]:
        """Go through the points, cheapest first."""
        return iter(self.points)

    @property
    def hypervolume(self) -> float:
        """The exact hypervolume with the run's reference point, as a share of the box that it spans with the ideal."""
        return self._run.hypervolume_of(self.data)

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat record per point: id, figures, genome."""
        return self.data.rows()

    def table(self) -> pd.DataFrame:
        """Return a data frame: one row per point, cheapest first; figures, shares of the dense costs, widths."""
        import pandas as pd

        rows = []
        for point in self.points:
            shares = {f"{name}_share": value / self._run.dense[name] for name, value in point.costs.items()}
            rows.append({"id": point.id, **point.metrics, **point.costs, **shares, "widths": point.widths})
        return pd.DataFrame(rows).set_index("id") if rows else pd.DataFrame()

    def to_csv(self, path: str | Path) -> None:
        """Write `table` as CSV."""
        self.table().to_csv(path)

    def to_json(self, path: str | Path) -> None:
        """Write the points as JSON."""
        Path(path).write_text(json.dumps(self.rows(), indent=1), encoding="utf-8")


class Run:
    """A search on disk: finished, interrupted or still going.

    Args:
        store: the run's folder, open for reading.
        problem: what was searched; needed to build, save and measure points.
    """

    def __init__(self, store: RunStore, problem: Problem | None = None) -> None:
        self.store = store
        self.problem = problem
        self.meta = RunMeta.from_json(store.meta)
        self.space = problem.space if problem is not None else SearchSpace.from_json(self.meta.space)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.store.folder

    @property
    def stop(self) -> str:
        """Why the last session ended: finished, evaluations, macs, seconds, interrupted; "" while it is going."""
        events = self.store.events()
        return events[-1].text if events and events[-1].kind is EventKind.STOP else ""

    @property
    def interrupted(self) -> bool:
        """Whether the user interrupted it; the same call resumes."""
        return self.stop == Stop.INTERRUPTED

    @property
    def outcomes(self) -> list[Outcome]:
        """Every outcome, in id order, failures included."""
        return self.store.outcomes()

    @property
    def evaluations(self) -> int:
        """Candidates measured, failures included."""
        return sum(isinstance(outcome.job, Evaluate) for outcome in self.outcomes)

    @property
    def spent(self) -> Spending:
        """What the outcomes were charged, and what was spent before the search."""
        total = self.meta.prior
        for outcome in self.outcomes:
            total = total + outcome.spent
        return total

    @property
    def dense(self) -> dict[str, float]:
        """The dense model's figures by name: costs, and metrics on the search-validation items."""
        return {**self.meta.dense.metrics.get(self.meta.fidelity, {}), **self.meta.dense.costs}

    @property
    def front(self) -> RunFront:
        """The non-dominated points."""
        return RunFront(self, Front.of(self.outcomes, self.meta.parsed_objectives, fidelity=self.meta.fidelity))

    def hypervolume_of(self, front: Front) -> float:
        """Return the hypervolume of a front of this problem as a share of the reference box, 0..1."""
        return ReferenceBox.of(self.meta.parsed_objectives, self.meta.reference).share(front.values)

    def point(self, id: int) -> RunPoint:
        """Return the evaluated candidate with this job id.

        Raises:
            InvalidArgumentError: there is none.
        """
        for outcome in self.outcomes:
            if outcome.job.id == id:
                return RunPoint(self, outcome)
        msg = f"there is no job {id} in {self.folder}; it has {len(self.outcomes)}"
        raise InvalidArgumentError(msg)

    def pick(
        self,
        *,
        max_macs: str | float | None = None,
        max_params: str | float | None = None,
        min_accuracy: float | None = None,
    ) -> RunPoint:
        """Return the best point of the front within limits; without any, the knee.

        Args:
            max_macs: most multiply-adds, a share (``"50%"``) or absolute.
            max_params: most parameters, likewise.
            min_accuracy: least accuracy, in 0..1.

        Raises:
            InfeasibleError: no point is within the limits; the message says how near the front comes.
        """
        dense = self.meta.dense.costs
        outcome = self.front.data.pick(
            max_macs=None if max_macs is None else parse_limit("macs", max_macs, dense["macs"]),
            max_params=None if max_params is None else parse_limit("params", max_params, dense["params"]),
            min_accuracy=min_accuracy,
        )
        return RunPoint(self, outcome)

    def choose(self, n: int = N_REPORTED) -> list[RunPoint]:
        """Return up to ``n`` points of the front, spread evenly over cost."""
        points = self.front.points
        if len(points) <= n:
            return list(points)
        cost = np.array([point.costs["macs"] for point in points], dtype=np.float64)
        wanted = np.linspace(cost.min(), cost.max(), n)
        return [points[i] for i in sorted({int(np.abs(cost - wish).argmin()) for wish in wanted})]

    def test(self, points: Sequence[RunPoint] | None = None) -> dict[int, dict[str, float]]:
        """Measure points, and the dense model, on the test items; the figures go into the run and its reports.

        Args:
            points: which; by default up to five of the front, spread over cost.

        Returns:
            Metrics by job id.

        Raises:
            InvalidArgumentError: the run was opened without its problem, or the data has no test items.
        """
        problem = self.needs_problem("measure")
        known = {record["point"]: record["metrics"] for record in self.store.records("metrics")}
        found: dict[int, dict[str, float]] = {}
        with self.writable() as store:
            if "test" not in self.meta.dense.metrics:
                dense = {**self.meta.dense.metrics, "test": problem.test(problem.model)}
                store.update_meta({"dense": {"costs": dict(self.meta.dense.costs), "metrics": dense}})
            for point in self.choose() if points is None else points:
                if point.id not in known:
                    known[point.id] = problem.test(point.build())
                    store.add_record("metrics", {"point": point.id, "role": "test", "metrics": known[point.id]})
                found[point.id] = known[point.id]
        self.meta = RunMeta.from_json(self.store.meta)
        return found

    def measure_latency(
        self, points: Sequence[RunPoint] | None = None, *, batch_size: int = 1, threads: int = 1, rounds: int = 30
    ) -> None:
        """Time the dense model and points in turns on this machine; the figures go into the run and its reports.

        Args:
            points: which; by default up to five of the front, spread over cost.
            batch_size: samples per forward pass.
            threads: CPU threads.
            rounds: timed passes per model.

        Raises:
            InvalidArgumentError: the run was opened without its problem.
        """
        problem = self.needs_problem("time")
        chosen = self.choose() if points is None else list(points)
        models: dict[str, nn.Module] = {"dense": problem.model}
        models.update({str(point.id): point.build() for point in chosen})
        timings = measure_latency(
            models, problem.example_input, batch_size=batch_size, threads=threads, rounds=rounds, seed=problem.seed
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
        setting = f"batch {batch_size}, {threads} thread{'s' if threads > 1 else ''}, {timings.device}"
        with self.writable() as store:
            store.add_record("latency", {"setting": setting, "rows": rows})

    def report(self, path: str | Path | None = None, *, points: int = N_REPORTED, measure: bool = True) -> ReportPaths:
        """Write the report: one HTML file without network access, CSV and JSON beside it.

        Args:
            path: the HTML file; ``report.html`` in the run's folder by default.
            points: how many points of the front to measure on the test items and to time.
            measure: measure what is missing; needs the problem.

        Raises:
            StoreError: the report cannot be written.
        """
        if measure and self.problem is not None and len(self.front):
            chosen = self.choose(points)
            told = highlight(summarize(self.store))  # the point that the report's first sentence is about
            if told is not None and told.id not in {point.id for point in chosen}:
                chosen.append(self.point(told.id))
            if self.problem.data.test is not None:
                self.test(chosen)
            self.measure_latency(chosen)
        return write_report(self.folder, path)

    @property
    def runner(self) -> Runner:
        """Runs and rebuilds the run's jobs."""
        problem = self.needs_problem("build")
        return Runner({self.meta.fidelity: problem.evaluator}, self.store.weights, problem.costs)

    def writable(self) -> RunStore:
        """Open the folder for writing, as a context manager.

        Raises:
            StoreError: another process drives the run.
        """
        problem = self.needs_problem("write to")
        return RunStore(self.folder, problem=problem.fingerprint)

    def needs_problem(self, what: str) -> Problem:
        """Return the problem.

        Raises:
            InvalidArgumentError: the run was opened without it; ``what`` says what cannot be done.
        """
        if self.problem is None:
            msg = f"to {what} points of {self.folder}, open the run with its problem: ap.open_run(folder, problem)"
            raise InvalidArgumentError(msg)
        return self.problem

    def __repr__(self) -> str:
        """Name the folder and how far it is."""
        return (
            f"Run({str(self.folder)!r}: {self.meta.strategy}, {self.evaluations} evaluations, {len(self.front)} points)"
        )


def open_run(folder: str | Path, problem: Problem | None = None) -> Run:
    """Open a run's folder for reading; it may be going on meanwhile.

    Args:
        folder: what ``store=`` of `search` was.
        problem: what was searched; needed to build, save and measure points.

    Raises:
        StoreError: there is no usable run, or it is of another problem.
    """
    store = RunStore.open_readonly(folder)
    if problem is not None and store.meta.get("problem") != problem.fingerprint:
        store.close()
        msg = (
            f"the run in {folder} searched another problem: model, weights, data, space, objectives or settings differ"
        )
        raise StoreError(msg)
    return Run(store, problem)
