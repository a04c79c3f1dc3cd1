"""What a problem refuses at the door, and what it warns of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from autoprune.core.objectives import COSTS, Objectives
from autoprune.criteria.registry import CRITERIA
from autoprune.errors import InvalidArgumentError, did_you_mean, unknown_name, warn
from autoprune.evaluate.distance import DISTANCE
from autoprune.train.data import Data
from autoprune.train.task_traits import check_loss
from autoprune.train.tasks import Task

if TYPE_CHECKING:
    from autoprune.api.problem import Problem

FAR = 0.25
"""Distance of the dense model with fresh BatchNorm statistics above which these are called far from its own.

ResNet-20 and ResNet-56 on CIFAR-10: 0.003 on items as in their training, 0.05 to 0.11 without its augmentation, with
other means, or on 100 items, 0.23 to 0.37 with every mean and deviation at 0.5, 1.3 to 3.1 without normalisation.
EfficientNet-Lite0, trained on ImageNet, on upsampled CIFAR-10: 1.06.
"""


def check_criterion(name: str, task: Task, data: Data) -> None:
    """Refuse a criterion that takes gradients of a loss, or looks at targets, where there is none."""
    needs = CRITERIA.find(name).needs
    if "targets" in needs and not data.train.labelled:
        msg = (
            f"the criterion {name!r} needs class labels, and the data has no targets; give targets "
            "(ap.Data((inputs, targets))), or a criterion that takes none ('obs', 'ccm', 'l2', 'batchnorm', 'fpgm')"
        )
        raise InvalidArgumentError(msg)
    if "loss" in needs:
        check_loss(
            task, data, f"the criterion {name!r}", "a criterion that takes none ('obs', 'l2', 'batchnorm', 'fpgm')"
        )


def check_objectives(names: Sequence[str], task: Task) -> None:
    """Refuse an objective that nothing measures."""
    for name in names:
        known = (*task.metrics, DISTANCE, *COSTS)
        if name not in known and not task.metrics:
            msg = (
                f"objective {name!r} needs a task that measures it, and without targets there is none"
                f"{did_you_mean(name, known)}: give ap.Data((inputs, targets)) or task=, or one of {', '.join(known)}"
            )
            raise InvalidArgumentError(msg)
        if name not in known:
            msg = (
                f"objective {name!r} is neither a metric of the task nor a cost"
                f"{did_you_mean(name, known)}; known: {', '.join(known)}"
            )
            raise InvalidArgumentError(msg)


def checked_reference(given: Mapping[str, float], objectives: Objectives) -> dict[str, float]:
    """Refuse a reference for what is no objective, or that is no number."""
    for name, figure in given.items():
        if name not in objectives.names:
            raise unknown_name("objective in reference=", name, objectives.names)
        if isinstance(figure, bool) or not isinstance(figure, int | float) or not math.isfinite(figure):
            msg = f"expected a finite number as the reference for {name!r}, got {figure!r}"
            raise InvalidArgumentError(msg)
    return {name: float(figure) for name, figure in given.items()}


def warn_of_calibration(problem: Problem) -> None:
    """Do what `Problem.warn_of_calibration` says."""
    found = problem.evaluator.proxy.distance_of_fresh_norms
    if found is None or found < FAR:
        return
    what = (
        "They are moved by the difference that a cut makes, so that the dense model stays what it is"
        if problem.evaluation.batchnorm != "afresh"
        else "They are replaced (batchnorm='afresh'), which changes every candidate so much; 'auto' would not"
    )
    warn(
        "the BatchNorm statistics of the calibration items are far from those that the model came with: with them "
        f"the dense model is at a distance of {found:.2f} from itself (0 is the same, 1 is an answer that no longer"
        f" depends on the item). {what}. Check that the items are normalised and sized as in the model's training",
        stacklevel=4,
    )
