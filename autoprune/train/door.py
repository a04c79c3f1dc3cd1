"""What a training refuses at the door, before any work: one sentence for each argument that is something else."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from autoprune.core.settings import as_integer
from autoprune.errors import InvalidArgumentError, shown
from autoprune.train.data import Data
from autoprune.train.tasks import Task


def checked_task(task: Any) -> Task:
    """Return a task that the user brought; refuse what is none."""
    lacking = [verb for verb in ("loss", "metric", "metrics", "fingerprint") if not hasattr(task, verb)]
    if lacking or isinstance(task, type):
        msg = (
            "expected task=ap.Classification(), ap.TorchMetrics(...), ap.FunctionTask(...) or an object like these, "
            f"got {shown(task)}{'' if isinstance(task, type) else f', which has no {lacking[0]}'}"
        )
        raise InvalidArgumentError(msg)
    checked: Task = task
    return checked


def checked_data(data: Any) -> Data:
    """Return data as the user gave it; refuse what is none."""
    if not isinstance(data, Data):
        msg = f"expected data=ap.Data(train, ...), ap.Data(inputs) or ap.load_data(name), got {type(data).__name__}"
        raise InvalidArgumentError(msg)
    return data


def checked_seed(seed: Any) -> int:
    """Return a seed as an integer; refuse another."""
    whole = as_integer(seed)
    if whole is None or not 0 <= whole < 2**63:
        msg = f"expected seed to be an integer of 0 or more, less than 2**63, got {shown(seed)}"
        raise InvalidArgumentError(msg)
    return whole


def check_model(model: Any, name: str = "model") -> None:
    """Refuse what is no module."""
    if not isinstance(model, nn.Module):
        of_class = f"the class {model.__name__}: call it" if isinstance(model, type) else type(model).__name__
        msg = f"expected {name} to be a torch.nn.Module, got {of_class}"
        raise InvalidArgumentError(msg)


def check_learns(model: nn.Module, what: str) -> None:
    """Refuse to train a model of which nothing may change, before any work.

    Args:
        model: the model, or the dense one that it is cut from.
        what: name of what trains it, for the message.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        msg = (
            f"{what} trains the model, and none of its parameters requires gradients; call "
            "model.requires_grad_(True), or leave those frozen that are to stay as they are"
        )
        raise InvalidArgumentError(msg)


def check_minutes(minutes: Any) -> None:
    """Refuse what is no time to train in."""
    is_number = isinstance(minutes, int | float) and not isinstance(minutes, bool)
    if not (is_number and minutes > 0 and math.isfinite(minutes)):
        msg = f"expected minutes of recovery above 0, got {shown(minutes)}"
        raise InvalidArgumentError(msg)


def check_told(progress: Any) -> None:
    """Refuse what cannot be told how far a training is."""
    if progress is not None and progress is not False and not callable(progress):
        msg = f"expected progress to be a function that is told how far it is, or False for none, got {shown(progress)}"
        raise InvalidArgumentError(msg)
