"""Whether a teacher is fit to teach: one that does clearly worse than its student would only take away."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from autoprune.core.groups import FloatArray
from autoprune.evaluate.measure import Batches
from autoprune.train.tasks import Task

Losses = FloatArray | None
"""(n,) loss of every batch; None where the task has none in evaluation mode."""

MARGIN = 0.1
"""Share of a loss that another one may be above it: less than that is no reason for alarm."""


@torch.no_grad()
def losses(model: nn.Module, batches: Batches, task: Task) -> Losses:
    """Return the loss of every batch.

    Args:
        model: the model, in evaluation mode, on the device of the batches.
        batches: the items to teach on.
        task: the task whose loss counts; the result is None if it cannot be computed in evaluation mode, as with
            detectors.
    """
    try:
        return np.array([float(task.loss(model, batch)) for batch in batches])
    except Exception:  # noqa: BLE001  user code may raise anything where it was not meant to run
        return None


def clearly_above(these: Losses, those: Losses, margin: float = MARGIN) -> bool:
    """Say whether (n,) losses are clearly above others of the same batches, or no numbers where those are.

    Clearly: by more than ``margin`` of them, and more than two standard errors of the mean difference. Where there are
    no losses nothing is said.
    """
    if these is None or those is None or not np.isfinite(those).all():
        return False
    if not np.isfinite(these).all():
        return True
    differences = these - those
    error = differences.std(ddof=1) / np.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return bool(differences.mean() > max(2 * error, margin * abs(those.mean())))
