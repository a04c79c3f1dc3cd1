"""`finetune`: chosen points of a run, trained to their final weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from autoprune import artifact
from autoprune.api.picking import Pickable
from autoprune.api.point import RunPoint
from autoprune.api.problem import FIDELITY
from autoprune.api.progress import check_progress, finetuning_progress
from autoprune.api.run import N_REPORTED, Run
from autoprune.api.stripping import stripper
from autoprune.core.interruption import signals_interrupt
from autoprune.core.objectives import Objective
from autoprune.core.settings import as_integer, identifying, settings_of
from autoprune.errors import ArtifactError, InvalidArgumentError, shown, unknown_name, warn, warnings_kept
from autoprune.evaluate.distance import DISTANCE
from autoprune.evaluate.reconstructed import Reconstructed
from autoprune.execute.settings import RaySettings, check_executor
from autoprune.finetuning._tune import LOGGERS, train_on_ray
from autoprune.finetuning.training import PointTraining, train_here, with_fit_teacher
from autoprune.pareto.front import Front, points_table
from autoprune.pareto.rank_correlation import kendall
from autoprune.report.tables import tuned_columns
from autoprune.store.meta import Role, RunMeta
from autoprune.store.record import FINETUNE
from autoprune.store.run import RunStore
from autoprune.train.distill import Distillation
from autoprune.train.door import check_learns
from autoprune.train.loop import Progress
from autoprune.train.settings import IMITATION, FitSettings
from autoprune.train.task_traits import check_loss, directions_of, distillation_identity, has_loss

if TYPE_CHECKING:
    import pandas as pd

WEIGHTS = ("own", "dense")
"""What a fine-tuning may start from."""

STRIPPED = "stripped and retrained"
"""Kind of the records of structures that were trained from the problem's own weights."""


@dataclass(frozen=True, eq=False)
class TunedPoint:
    """A point of a run with its final weights.

    Attributes:
        point: the point as it was searched.
        file: the trained model.
        metrics: metrics on all search-validation items.
        test_metrics: metrics on the test items; empty if there are none.
        macs: multiply-adds of its training.
    """

    point: RunPoint
    file: Path
    metrics: Mapping[str, float]
    test_metrics: Mapping[str, float]
    macs: int = 0

    @property
    def id(self) -> int:
        """Its job id in the run."""
        return self.point.id

    @property
    def costs(self) -> Mapping[str, int]:
        """Exact counted integers."""
        return self.point.costs

    def build(self) -> nn.Module:
        """Return the smaller model with its final weights."""
        return artifact.load(self.file, self.point.run._require_problem("build").model)

    def save(self, path: str | Path) -> None:
        """Write the smaller model to one file that `autoprune.load` reads.

        Raises:
            ArtifactError: the file cannot be written.
        """
        self.point.save(path, self.build())

    def __repr__(self) -> str:
        """Name the point and its figures."""
        figures = ", ".join(f"{name}={value:g}" for name, value in {**self.metrics, **self.costs}.items())
        return f"TunedPoint({self.id}: {figures})"


class TunedFront(Pickable[TunedPoint]):
    """The result of a fine-tuning: as many points as went in, cheapest first.

    Args:
        run: the run that the points come from.
        points: the points with their final weights.
    """

    def __init__(self, run: Run, points: Sequence[TunedPoint]) -> None:
        self.run = run
        self.points = tuple(sorted(points, key=lambda point: (point.costs["macs"], point.id)))

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.points)

    def __getitem__(self, index: int) -> TunedPoint:
        """Return a point by its place, cheapest first."""
        return self.points[index]

    def __iter__(self) -> Iterator[TunedPoint]:
        """Go through the points, cheapest first."""
        return iter(self.points)

    @property
    def _choice(self) -> tuple[RunMeta, Front[TunedPoint]]:
        meta, points = self.run.meta, {point.id: point for point in self.points}
        tuned = [replace(point.point.outcome, metrics=point.metrics) for point in self.points]
        front = Front.of(tuned, meta.parsed_objectives, fidelity=meta.fidelity)
        return meta, front.map(lambda outcome: points[outcome.job.id])

    def rank_correlation(self, metric: str = "accuracy") -> float | None:
        """Return Kendall's correlation of a metric before and after training: how far the search could be trusted.

        None for fewer than three points, or where all are equal.
        """
        before = [point.point.metrics[metric] for point in self.points]
        after = [point.metrics[metric] for point in self.points]
        return kendall(before, after)

    def table(self, *, wide: bool = False) -> pd.DataFrame:
        """Return a data frame, one row per point, cheapest first, with the columns of ``run.front.table()`` and these.

        The metrics after training: ``accuracy_tuned``, and ``accuracy_tuned_test`` on test items.

        Args:
            wide: whether to add all other metrics and costs, and the channels kept of every width variable.
        """
        rows = [
            point.point.row() | tuned_columns({Role.VALIDATION: point.metrics, Role.TEST: point.test_metrics})
            for point in self.points
        ]
        return points_table(rows, self.run.record.objectives, wide=wide)

    def _repr_html_(self) -> str:
        """Return the table, for a notebook."""
        return str(self.table().to_html(float_format="{:.4g}".format))

    def __repr__(self) -> str:
        """Name the run and the number of points."""
        return f"TunedFront({len(self)} points of {str(self.run.folder)!r})"


@signals_interrupt()
def finetune(
    run: Run,
    points: int | Sequence[RunPoint] = N_REPORTED,
    epochs: float = 40,
    *,
    settings: FitSettings | Sequence[FitSettings] | None = None,
    weights: str = "own",
    executor: str | RaySettings | None = None,
    seed: int = 0,
    test: bool = True,
    progress: Callable[[int, Progress], None] | bool | None = None,
    loggers: Sequence[Any] = (),
) -> TunedFront:
    """Train points of a run to their final weights; run the same call again to go on with one that was killed.

    Points are trained independently: as many come out as go in. Where the evaluator reconstructs, training
    starts from polished points (see `RunPoint.build`). Figures go into the run as they come; test
    items are looked at once, when all points are trained.

    Args:
        run: a run that was opened with its problem.
        points: number of points of the front, spread over cost, or a list of points.
        epochs: passes over the training items.
        settings: everything else about the training, ``epochs`` excepted; by default AdamW at a learning rate that the
            point stands (see `FitSettings`), and half of the loss is distillation from the dense model, without labels
            all of it, as in `recover`; on the evaluator's device. A dense model that does clearly worse than a point
            on training items does not teach it, with a warning. Of several settings each point keeps what suits it
            best, judged on search-validation items.
        weights: ``"own"``, training starts from the weights that a point was scored with; ``"dense"``, from the
            problem's own, cut to the point's widths and channels by the problem's evaluator: what a structure is worth,
            whatever a search has trained.
        executor: None or ``"in-process"`` trains one point after the other here; ``"ray"``, or ``ap.RaySettings(...)``,
            side by side on Ray Tune.
        seed: seed for batch order, augmentation and dropout.
        test: whether test items are looked at, where there are some.
        progress: function that is called with a point's id and how far its training is; by default a bar in terminals
            and notebooks; False for none. Not on Ray.
        loggers: loggers of every training on Ray: ``"tensorboard"``, ``"mlflow"``, or any callback of Ray Tune. The
            named ones write into the run's folder ``finetune/``; MLflow writes elsewhere if ``MLFLOW_TRACKING_URI`` is
            set.

    Raises:
        InvalidArgumentError: the run was opened without its problem, or has no such points; loggers without Ray.
        UnknownNameError: there is no such executor, logger or choice of weights.
        StoreError: another process drives the run.
    """
    if weights not in WEIGHTS:
        raise unknown_name("choice of weights", weights, WEIGHTS)
    is_stripped = weights == "dense"
    check_executor(executor, custom=False)
    _check_call(run, epochs)
    check_progress(progress)
    _check_loggers(loggers, on_ray=executor not in (None, "in-process"))
    problem = run._require_problem("train")
    check_learns(problem.model, "finetune")
    chosen = _chosen(run, points)
    if not chosen:
        msg = f"expected points to train, got none: {run!r}"
        raise InvalidArgumentError(msg)
    if settings is None:
        usual = FitSettings(distillation=Distillation()) if has_loss(problem.task, problem.data) else IMITATION
        settings = replace(usual, device=str(problem.evaluator.device), threads=problem.evaluation.threads)
    given: Sequence[Any] = settings if isinstance(settings, tuple | list) else [settings]
    variants = tuple(replace(settings_of(FitSettings, item, "a fine-tuning"), epochs=epochs) for item in given)
    if any(item.distillation is None or item.distillation.weight < 1 for item in variants):
        check_loss(problem.task, problem.data, "fine-tuning on labels")
    polish = isinstance(problem.evaluator_of(FIDELITY if is_stripped else run.meta.fidelity), Reconstructed)
    outputs = problem.structure.outputs
    how = distillation_identity(problem.task, outputs) if any(item.distillation for item in variants) else []
    key = _key(variants, seed, polish=polish, how=[*how, *(["dense"] if is_stripped else [])])
    metric = problem.objectives.quality
    if metric.is_cost:  # nothing among them is measured: the task's first metric decides which training was best
        metric = Objective.parse(next(iter(problem.task.metrics), DISTANCE), directions_of(problem.task))
    with (
        run._writing() as store,
        warnings_kept(store.keep_warning),
        finetuning_progress(progress, len(chosen)) as tell,
    ):
        kept = _Kept(store, key, STRIPPED if is_stripped else FINETUNE)
        untrained = [point for point in chosen if not kept.has(point.id, "val")]
        strip = stripper(run, untrained, store) if is_stripped and untrained else None
        jobs = [
            with_fit_teacher(
                PointTraining(
                    point=point.id,
                    student=point.build(polish=polish) if strip is None else strip(point),
                    teacher=problem.model,
                    data=problem.data.without_test(),
                    task=problem.task,
                    settings=variants,
                    measuring=problem.evaluation,
                    metric=metric.name,
                    maximize=metric.maximize,
                    seed=seed,
                    compares=DISTANCE in problem.objectives.names,
                    outputs=outputs,
                )
            )
            for point in untrained
        ]
        folder = store.folder / "finetune" / key
        if executor in (None, "in-process"):
            results = train_here(jobs, folder, tell)
        else:
            cluster = executor if isinstance(executor, RaySettings) else RaySettings()
            results = train_on_ray(jobs, folder, cluster, loggers)
        by_id = {point.id: point for point in chosen}
        settings_by_point = {job.point: job.settings for job in jobs}
        for trained in results:
            point = by_id[trained.point]
            model = point.build()
            model.load_state_dict(trained.state)
            kept.file(point.id).parent.mkdir(exist_ok=True)
            point.save(kept.file(point.id), model.eval())
            spent = {"macs": trained.spent.macs, "seconds": trained.spent.seconds}
            used = settings_by_point[trained.point][trained.variant]
            used = replace(used, learning_rate=trained.learning_rate or used.learning_rate)
            kept.add(point.id, "val", trained.metrics, {"spent": spent, "settings": asdict(used), "seed": seed})
        if test and problem.data.test is not None:
            for point in chosen:
                if not kept.has(point.id, "test"):
                    kept.add(point.id, "test", problem.test(artifact.load(kept.file(point.id), problem.model)))
        return TunedFront(
            run,
            [
                TunedPoint(
                    point,
                    kept.file(point.id),
                    kept.metrics(point.id, "val"),
                    kept.metrics(point.id, "test"),
                    kept.macs(point.id),
                )
                for point in chosen
            ],
        )


def _check_call(run: object, epochs: object) -> None:
    if not isinstance(run, Run):
        msg = f"expected a run, such as ap.open_run(folder, problem), got {shown(run)}"
        raise InvalidArgumentError(msg)
    if isinstance(epochs, bool) or not isinstance(epochs, int | float):
        msg = f"expected epochs as a number, got {shown(epochs)}"
        raise InvalidArgumentError(msg)


def _chosen(run: Run, points: Any) -> list[RunPoint]:
    """Return the points that a user means: how many of the front, or which ones."""
    n = as_integer(points)
    if n is not None and n > 0:
        return run.choose(n)
    if isinstance(points, Iterable) and not isinstance(points, str):
        chosen = list(points)
        if all(isinstance(point, RunPoint) for point in chosen):
            return chosen
    msg = f"expected how many points to train (1 or more), or a list of points of the run, got {shown(points)}"
    raise InvalidArgumentError(msg)


def _check_loggers(loggers: Sequence[Any], *, on_ray: bool) -> None:
    if loggers and not on_ray:
        msg = "loggers are Ray Tune's: expected executor='ray' or RaySettings with them"
        raise InvalidArgumentError(msg)
    for name in loggers:
        if isinstance(name, str) and name not in LOGGERS:
            raise unknown_name("logger", name, LOGGERS)


def _key(variants: Sequence[FitSettings], seed: int, *, polish: bool, how: Sequence[Any]) -> str:
    """Name a fine-tuning by all that decides its weights but the points'."""
    text = json.dumps(
        [[identifying(item) for item in variants], seed, *(["polish"] if polish else []), *how], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class _Kept:
    """The records of one fine-tuning in the store.

    Args:
        store: the run's.
        key: name of the settings and the seed.
        kind: kind of the records.
    """

    def __init__(self, store: RunStore, key: str, kind: str = FINETUNE) -> None:
        self._store = store
        self._key = key
        self._kind = kind
        records = [record for record in store.ledger.records(kind) if record["key"] == key]
        self._macs = {record["point"]: int(record["spent"]["macs"]) for record in records if "spent" in record}
        self._metrics: dict[tuple[int, str], dict[str, float]] = {
            (record["point"], record["role"]): record["metrics"] for record in records
        }

    def has(self, point: int, role: str) -> bool:
        """Say whether a point's figures, and its file, are there; a damaged file is said, and made again."""
        if (point, role) not in self._metrics or not self.file(point).exists():
            return False
        try:
            artifact.describe(self.file(point))
        except ArtifactError as error:
            warn(f"point {point} is trained again: {error}", stacklevel=3)
            return False
        return True

    def metrics(self, point: int, role: str) -> dict[str, float]:
        """Return a point's figures; none where they were not measured."""
        return self._metrics.get((point, role), {})

    def macs(self, point: int) -> int:
        """Return the multiply-adds of a point's training; 0 where an earlier version has not kept them."""
        return self._macs.get(point, 0)

    def file(self, point: int) -> Path:
        """Return where a point's trained model is."""
        return self._store.models / f"tuned-{self._key}-{point}.autoprune"

    def add(self, point: int, role: str, metrics: dict[str, float], more: Mapping[str, Any] | None = None) -> None:
        """Keep a point's figures."""
        self._metrics[point, role] = metrics
        if more is not None and "spent" in more:
            self._macs[point] = int(more["spent"]["macs"])
        self._store.ledger.add_record(
            self._kind, {"key": self._key, "point": point, "role": role, "metrics": metrics, **(more or {})}
        )
