"""What a task says of itself: whether there is a loss, which way its metrics go, how its outputs are distilled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from autoprune.errors import DataError, InvalidArgumentError
from autoprune.train.brought_tasks import TorchMetrics
from autoprune.train.detection import Detection
from autoprune.train.distill import Distillation, Recorder
from autoprune.train.segmentation import Segmentation
from autoprune.train.source import Batch
from autoprune.train.tasks import TEACHER_ALONE, Classification, Task, Unlabelled, without_loss

if TYPE_CHECKING:
    from autoprune.train.data import Data


OURS = (Classification, Detection, Segmentation, TorchMetrics, Unlabelled)
"""Tasks whose metrics run no code of a user on the model, and that compare with targets, if with anything."""


def is_ours(task: Task) -> bool:
    """Say whether measuring by a task runs no code of a user on the model."""
    return type(task) in OURS


def default_task(data: Data) -> Task:
    """Return the task of data that comes without one: classification where the items have targets."""
    return Classification() if data.labelled else Unlabelled()


def check_task(task: Task, data: Data) -> None:
    """Refuse a task that measures by targets where the data has none, or wrong ones.

    What a user wrote may do without targets, as an autoencoder's loss does; ours do not.

    Raises:
        DataError: items that are measured on have no targets, or of another kind than the task's.
    """
    for split in (data.train, data.validation, data.test):
        if split is None:
            continue
        if _needs_targets(task) and not split.labelled and split is not data.train:
            name = type(task).__name__
            msg = (
                f"{name} measures by targets, and the {split.role} data has none; give (inputs, targets), leave out "
                "task= to judge by the distance from the dense model's outputs, or give ap.FunctionTask with your own "
                "metrics; where targets are there and were not found, see unpack= of ap.Data"
            )
            raise DataError(msg)
        if isinstance(task, Classification | Detection | Segmentation):
            task.check(split)


def has_loss(task: Task, data: Data) -> bool:
    """Say whether there is a loss to learn by: the task has one, and the training items what it is computed of."""
    return bool(getattr(task, "has_loss", True)) and (data.train.labelled or not _needs_targets(task))


def _needs_targets(task: Task) -> bool:
    """Say whether a task is one of ours that compare with targets; what a user wrote may do without."""
    return is_ours(task) and type(task) is not Unlabelled


def check_loss(task: Task, data: Data, what: str, instead: str = TEACHER_ALONE) -> None:
    """Refuse what learns from labels where there are none, before any work.

    Args:
        task: task of the problem.
        data: data of the problem.
        what: name of what was asked for, for the message.
        instead: the way that does without labels, likewise.

    Raises:
        InvalidArgumentError: the task has no loss, or the training items have no targets to compute it by.
    """
    if has_loss(task, data):
        return
    why = "the task has no loss"
    if not data.train.labelled:
        why = "the training data has no targets" if data.labelled else "the data has no targets"
    raise InvalidArgumentError(without_loss(what, why, instead))


def directions_of(task: Task) -> dict[str, str]:
    """Return ``"max"`` or ``"min"`` by the name of each metric whose direction the task says.

    Raises:
        InvalidArgumentError: what it says is neither.
    """
    said = dict(getattr(task, "directions", None) or {})
    for name, direction in said.items():
        if name not in task.metrics or direction not in ("max", "min"):
            msg = (
                "expected the task's directions to be 'max' or 'min' by the name of a metric "
                f"({', '.join(task.metrics)}), got {direction!r} for {name!r}"
            )
            raise InvalidArgumentError(msg)
    return said


def class_axis_of(task: Task) -> int | None:
    """Return the axis of the model's logits that belongs to the classes; None where the task knows of none.

    Raises:
        InvalidArgumentError: it is no integer.
    """
    axis = getattr(task, "class_axis", None)
    if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int)):
        msg = f"expected the task's class_axis to be an integer or None, got {axis!r}"
        raise InvalidArgumentError(msg)
    return axis


def distilled_loss(
    task: Task,
    student: Recorder,
    batch: Batch,
    teacher: Callable[[], Any],
    distillation: Distillation,
    counted: Sequence[str] = (),
) -> Tensor:
    """Return the task's loss of one batch, mixed with how far the student's answers are from its teacher's.

    Args:
        task: the task, which says what the outputs are.
        student: the student, which is called once.
        batch: a batch; its targets are not looked at if only the teacher counts.
        teacher: returns the teacher's answers; called after the student.
        distillation: settings that say how much they count.
        counted: dotted names of the outputs that are learned; all without names.
    """
    own = None
    if distillation.weight < 1:
        own = task.loss(student, batch)
    else:
        student.answer(batch[0])
    learned = distillation.loss(student.output, teacher(), class_axis_of(task), counted)
    return learned if own is None else (1 - distillation.weight) * own + distillation.weight * learned


def distillation_identity(task: Task, counted: Sequence[str] = ()) -> list[Any]:
    """Return JSON that names how the outputs of ``task`` are distilled; nothing for classification with all of them."""
    axis = [] if type(task) is Classification else ["class axis", class_axis_of(task)]
    return [*axis, *(["outputs", *counted] if counted else [])]
