"""Fine-tuning in this process: one point after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import nn

from autoprune.finetuning.training import PointTraining, Trained, best_of, train_point
from autoprune.train.loop import Progress


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
