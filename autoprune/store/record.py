"""A run as it was at one moment: everything that its folder holds, read once, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.core.budget import Spending
from autoprune.core.jobs import Evaluation, Job, Outcome, Status, evaluations
from autoprune.core.objectives import Objectives
from autoprune.core.space import SearchSpace
from autoprune.pareto.convergence import Convergence
from autoprune.pareto.front import Front
from autoprune.pareto.hypervolume import ReferenceBox
from autoprune.store.blobs import BlobStore
from autoprune.store.ledger import Event, EventKind, Ledger
from autoprune.store.meta import Role, RunMeta
from autoprune.store.run import LEDGER, LOCK, WEIGHTS, is_locked

LATENCY = "latency"
"""Kind of the records of models that were timed together: ``{"setting": text, "rows": [{"point": id or None for the
dense model, "median": ms, "low": ms, "high": ms, "speedup": [ratio, low, high] or None, "verdict": text}, ...]}``, and
``"conditions"`` and ``"machine"`` as a latency table has them."""

COMPLETED = "completed weights"
"""Kind of the records ``{"weights", "completed"}``: blobs of weights without and with what evaluations need of them."""

METRICS = "metrics"
"""Kind of the records ``{"point": id, "role": "test", "metrics": {name: value}}``: a point measured on other items."""


FINETUNE = "finetune"
"""Kind of the records ``{"key", "point", "role", "metrics", ...}``, one per point and role of one fine-tuning."""


@dataclass(frozen=True)
class Point:
    """One measured candidate.

    Attributes:
        id: the id of the job that measured it.
        genome: one level index per width variable.
        widths: channels kept, per width variable.
        keep_ratios: fraction of the channels kept, per width variable.
        costs: counted integers by cost name.
        metrics: measured figures by name, for each role.
        fidelity: fidelity of its evaluation.
        role: role of the items that it was measured on.
        cached: whether the figures came from the evaluation cache.
        measured_ms: measured milliseconds, see `RunRecord.timed`; None where it was not timed.
    """

    id: int
    genome: tuple[int, ...]
    widths: tuple[int, ...]
    keep_ratios: tuple[float, ...]
    costs: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, float]]
    fidelity: str
    role: Role
    cached: bool
    measured_ms: float | None = None

    @property
    def searched(self) -> Mapping[str, float]:
        """The metrics that the search went by."""
        return self.metrics[self.role]


@dataclass(frozen=True, eq=False)
class RunRecord:
    """Everything that a run has recorded, as it was when it was read; the run may be going on meanwhile.

    Attributes:
        folder: the run's folder, as it was given.
        description: the run's description of itself, JSON types: `RunMeta.to_json`, and the fingerprint of its problem.
        jobs: every job asked, in id order.
        outcomes: every outcome, in id order, failures included.
        events: everything that happened, in order.
        starts: Unix times at which a process began to drive the run, in order.
        kept: measurements that are no outcomes, by kind, oldest first.
        damage: the rows of the ledger that are damaged and left out, in words; empty if all is well.
        is_driven: whether a process, this one or another, had the run open for writing.
    """

    folder: Path
    description: Mapping[str, Any]
    jobs: Sequence[Job] = ()
    outcomes: Sequence[Outcome] = ()
    events: Sequence[Event] = ()
    starts: Sequence[float] = ()
    kept: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    damage: Sequence[str] = ()
    is_driven: bool = False

    @classmethod
    def read(cls, folder: str | Path) -> RunRecord:
        """Read a run's folder, which need not be writable.

        Warns of damaged rows, which are left out.

        Raises:
            StoreError: there is no run in the folder, or its files cannot be used.
        """
        folder = Path(folder)
        is_driven = is_locked(folder / LOCK)  # asked first: a driver that ends meanwhile has recorded why
        with closing(Ledger(folder / LEDGER, readonly=True)) as ledger, ledger.snapshot():
            kept: dict[str, list[Mapping[str, Any]]] = {}
            for kind, data in ledger.all_records():
                kept.setdefault(kind, []).append(data)
            jobs, events = ledger.jobs(), ledger.events()
            return cls(
                folder=folder,
                description=ledger.meta,
                jobs=jobs,
                outcomes=ledger.outcomes(jobs),
                events=events,
                starts=ledger.starts(),
                kept=kept,
                damage=ledger.damage(jobs, events),
                is_driven=is_driven,
            )

    def records(self, kind: str) -> Sequence[Mapping[str, Any]]:
        """Return the measurements of a kind, oldest first."""
        return self.kept.get(kind, ())

    def is_as_predicted(self, timed: Mapping[str, Any]) -> bool:
        """Say whether times were measured under the conditions and on the machine that latency is predicted for."""
        table = self.meta.latency
        return bool(table) and (timed.get("conditions"), timed.get("machine")) == (
            table["conditions"],
            table["made_on"]["machine"],
        )

    @cached_property
    def timed(self) -> Mapping[int | None, float]:
        """Measured milliseconds by point, None for the dense model, the newest of each.

        Where latency is predicted, of records that compare with that; else of the setting that was timed first.
        """
        records = self.records(LATENCY)
        if self.meta.latency:
            chosen = [record for record in records if self.is_as_predicted(record)]
        else:
            chosen = [record for record in records if record["setting"] == records[0]["setting"]]
        return {row["point"]: row["median"] for record in chosen for row in record["rows"]}

    @cached_property
    def weights(self) -> BlobStore:
        """Weights and orders by content."""
        return BlobStore(self.folder / WEIGHTS)

    @cached_property
    def meta(self) -> RunMeta:
        """The run's description, written when it started.

        Raises:
            StoreError: it is malformed.
        """
        return RunMeta.from_json(self.description)

    @cached_property
    def space(self) -> SearchSpace:
        """The search space."""
        return SearchSpace.from_json(self.meta.space)

    @cached_property
    def objectives(self) -> Objectives:
        """The objectives, with their directions."""
        return self.meta.parsed_objectives

    @cached_property
    def box(self) -> ReferenceBox:
        """The reference point of its hypervolumes, and the ideal."""
        return ReferenceBox.of(self.objectives, self.meta.reference)

    @cached_property
    def front(self) -> Front[Evaluation]:
        """The non-dominated evaluations at the run's fidelity, cheapest first."""
        return Front.of(self.outcomes, self.objectives, fidelity=self.meta.fidelity, box=self.box)

    @cached_property
    def convergence(self) -> Convergence:
        """How the front grew while the search spent."""
        return Convergence.of(
            self.outcomes, self.objectives, self.meta.reference, fidelity=self.meta.fidelity, prior=self.meta.prior
        )

    def with_reference(self, reference: Mapping[str, float]) -> RunRecord:
        """Return the record with hypervolumes from another reference point, by objective name in natural units."""
        return replace(self, description={**self.description, "reference": dict(reference)})

    @cached_property
    def points(self) -> Mapping[int, Point]:
        """The measured candidates of every fidelity by job id, with all metrics that were measured since."""
        space, meta = self.space, self.meta
        measured = {o.job.id: o for o in evaluations(self.outcomes) if o.status is Status.OK}
        genomes = np.array([outcome.genome for outcome in measured.values()], dtype=np.int64)
        ratios = space.keep_ratios(genomes.reshape(len(measured), space.n_variables)).tolist()
        metrics = {i: {str(meta.role_of(o.job.fidelity)): dict(o.metrics)} for i, o in measured.items()}
        for record in self.records(METRICS):
            if record["point"] in metrics:
                metrics[record["point"]].setdefault(record["role"], {}).update(record["metrics"])
        return {
            i: Point(
                id=i,
                genome=outcome.genome,
                widths=tuple(v.widths[level] for v, level in zip(space.variables, outcome.genome, strict=True)),
                keep_ratios=tuple(kept),
                costs=dict(outcome.costs),
                metrics=metrics[i],
                fidelity=outcome.job.fidelity,
                role=meta.role_of(outcome.job.fidelity),
                cached=outcome.cached,
                measured_ms=self.timed.get(i),
            )
            for (i, outcome), kept in zip(measured.items(), ratios, strict=True)
        }

    @cached_property
    def spent(self) -> Spending:
        """Spending that the outcomes were charged, and spending before the search."""
        return sum((outcome.spent for outcome in self.outcomes), self.meta.prior)

    @cached_property
    def n_evaluations(self) -> int:
        """Candidates measured, failures included."""
        return len(evaluations(self.outcomes))

    @cached_property
    def stop(self) -> str:
        """Why the last session ended: finished, evaluations, macs, seconds, interrupted; "" where it has not ended."""
        last = next((event for event in reversed(self.events) if event.kind is not EventKind.WARNING), None)
        return last.text if last is not None and last.kind is EventKind.STOP else ""
