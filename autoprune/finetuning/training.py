"""Training points of a front to their final weights, with the dense model as their teacher; here, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from autoprune.core.budget import Spending
from autoprune.errors import warn
from autoprune.evaluate.distance import measure_with_distance
from autoprune.evaluate.measure import MeasureSettings, measure
from autoprune.evaluate.teacher import clearly_above, losses
from autoprune.surgery.copying import copy_model
from autoprune.train.checkpoint import Checkpoint
from autoprune.train.data import Data
from autoprune.train.devices import placed, reproducible, resolve_device
from autoprune.train.loop import Progress, fit
from autoprune.train.settings import FitSettings
from autoprune.train.tasks import Task

MARGIN = 0.5
"""Share of the student's loss that its teacher's may be above it."""


@dataclass(frozen=True, eq=False)
class PointTraining:
    """One point to train; nothing in it is changed, so that many processes may share it.

    Attributes:
        point: its id in the run.
        student: the pruned model.
        teacher: the dense model.
        data: training items, and those that score to measure on.
        task: loss and metrics.
        settings: one training each; the best result counts.
        measuring: settings that say how a trained model is run to be measured.
        metric: the metric that decides which result is best.
        maximize: whether more of it is better.
        seed: seed for batch order, augmentation and dropout.
        compares: whether the distance from the teacher is among the figures.
        outputs: dotted names of the outputs that count: that are compared, and that the teacher teaches.
    """

    point: int
    student: nn.Module
    teacher: nn.Module
    data: Data
    task: Task
    settings: tuple[FitSettings, ...]
    measuring: MeasureSettings
    metric: str
    maximize: bool
    seed: int
    compares: bool = False
    outputs: tuple[str, ...] = ()

    def checkpoint(self, folder: Path, variant: int) -> Checkpoint:
        """Return where the training with the settings of this number is saved, after every epoch."""
        steps_per_epoch = max(1, len(self.data.train) // self.settings[variant].batch_size)
        return Checkpoint(folder / f"{self.point}-{variant}.checkpoint", every=steps_per_epoch)

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Return a model's metrics on all search-validation items that score."""
        if self.compares:
            items = self.data.score
            return measure_with_distance(model, self.teacher, items, self.task, self.measuring, self.outputs)
        return measure(model, self.data.score, self.task, self.measuring)


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of a training.

    Attributes:
        point: its id in the run.
        variant: the number of its settings.
        state: the trained model's tensors by name.
        metrics: metrics on all search-validation items that score.
        spent: multiply-adds and seconds, of trainings with other settings, too.
        learning_rate: the largest of its training; None where an earlier version has not kept it.
    """

    point: int
    variant: int
    state: dict[str, Tensor]
    metrics: dict[str, float]
    spent: Spending
    learning_rate: float | None = None


def with_fit_teacher(job: PointTraining) -> PointTraining:
    """Return ``job``, without distillation and with a warning where its teacher does far worse than its student.

    Far: a loss on the search-validation items that is half as much again. Small differences are no reason, a teacher
    helps all the same.
    """
    if all(settings.distillation is None for settings in job.settings):
        return job
    device = resolve_device(job.measuring.device)
    items = job.data.validation.loader(job.measuring.batch_size, device=device)
    with (
        reproducible(job.measuring.threads),
        placed(job.teacher, device, training=False, channels_last=False),
        placed(job.student, device, training=False, channels_last=False),
    ):
        taught, learned = (losses(model, items, job.task) for model in (job.teacher, job.student))
    if not clearly_above(taught, learned, MARGIN):
        return job
    msg = (
        f"point {job.point} does far better on the search-validation items than the dense model, which cannot teach "
        "it: it is trained without distillation"
    )
    warn(msg, stacklevel=2)
    return replace(job, settings=tuple(replace(settings, distillation=None) for settings in job.settings))


def train_point(
    job: PointTraining,
    variant: int,
    checkpoint: Checkpoint,
    progress: Callable[[Progress, nn.Module], None] | None = None,
) -> Trained:
    """Train a point, or go on where a checkpoint ends; killed at any moment and started again, it ends the same.

    Args:
        job: the training to run.
        variant: number of the settings to train with.
        checkpoint: slot to save to and resume from.
        progress: called now and then, and right after a save, with how far the training is and the model.

    Raises:
        MetricError: the loss, or a figure, is not one finite number.
        StoreError: the checkpoint is of another training; with a damaged one a warning comes and training starts over.
    """
    model = copy_model(job.student)
    settings = job.settings[variant]
    result = fit(
        model,
        job.data,
        job.task,
        settings,
        teacher=None if settings.distillation is None else job.teacher,
        outputs=job.outputs,
        checkpoint=checkpoint,
        progress=None if progress is None else lambda where: progress(where, model),
        seed=job.seed,
    )
    return Trained(job.point, variant, model.state_dict(), job.measure(model), result.spent, result.learning_rate)


def best_of(job: PointTraining, results: Sequence[Trained]) -> Trained:
    """Return the best training of one point, charged for all of them; the first of equals."""
    sign = 1.0 if job.maximize else -1.0
    best = max(results, key=lambda result: sign * result.metrics[job.metric])
    spent = sum((result.spent for result in results), Spending())
    return replace(best, spent=spent)


def train_here(
    jobs: Sequence[PointTraining], folder: Path, progress: Callable[[int, Progress], None] | None = None
) -> Iterator[Trained]:
    """Yield every point as soon as it is trained.

    Args:
        jobs: the points.
        folder: folder of the checkpoints; a training that was killed goes on where its checkpoint ends.
        progress: called with the id of a point and how far its training is.
    """
    for job in jobs:

        def tell(where: Progress, _: nn.Module, point: int = job.point) -> None:
            if progress is not None:
                progress(point, where)

        checkpoints = [job.checkpoint(folder, variant) for variant in range(len(job.settings))]
        yield best_of(job, [train_point(job, i, checkpoint, tell) for i, checkpoint in enumerate(checkpoints)])
        for checkpoint in checkpoints:  # whoever asked has kept the result by now
            checkpoint.path.unlink(missing_ok=True)
