"""Learning from the dense model's answers: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.core import check
from autoprune.errors import InvalidArgumentError
from autoprune.surgery.forward import is_named, named_outputs
from autoprune.surgery.listening import answers, listening
from autoprune.surgery.precision import is_inexact


@dataclass(frozen=True)
class Distillation:
    """Settings of distillation: how much the teacher's outputs count.

    Attributes:
        weight: share of the distillation term in the loss; the task's own loss has the rest. At 1 no label is looked
            at.
        temperature: softens the probabilities of classes; the term is scaled by its square (section 2 of the paper), so
            that the gradients keep their size. Answers that are no classes know no temperature.
    """

    weight: float = 0.5
    temperature: float = 4.0

    def __post_init__(self) -> None:
        """Check the settings."""
        check.share(self, "weight")
        check.positive(self, "temperature")

    def loss(self, student: Any, teacher: Any, class_axis: int | None = 1, counted: Sequence[str] = ()) -> Tensor:
        """Return how far the student's answers are from the teacher's; 0 for equal ones, whatever their number.

        Args:
            student: outputs of the student: any nesting of tensors.
            teacher: outputs of the teacher for the same inputs.
            class_axis: the axis of logits that belongs to the classes: the divergence of the softened probabilities,
                averaged over items and positions. None for any other outputs: their `output_error`.
            counted: dotted names of the outputs that count, see `answers_of`.

        Raises:
            InvalidArgumentError: the two cannot be compared; the message names the way out.
        """
        found, wanted = answers_of(student, counted), answers_of(teacher, counted)
        if class_axis is None:
            return output_error(found, wanted)
        if len(found) != 1 or len(wanted) != 1:
            msg = (
                "expected logits, one tensor or under the name 'logits', to distil along a class axis, got the outputs "
                f"{_shown(found)} and {_shown(wanted)}; give the task class_axis=None to learn from all outputs by "
                f"their squared error, or {_WITHOUT}"
            )
            raise InvalidArgumentError(msg)
        (logits,), (answers,) = found.values(), wanted.values()
        if logits.shape != answers.shape or not -logits.dim() <= class_axis < logits.dim():
            msg = (
                f"expected logits of one shape with an axis {class_axis} of classes from student and teacher, got "
                f"{tuple(logits.shape)} and {tuple(answers.shape)}; give the task another class_axis, or {_WITHOUT}"
            )
            raise InvalidArgumentError(msg)
        return divergence(logits, answers, class_axis, self.temperature)


_WITHOUT = "train without a teacher (settings without a distillation)"


def divergence(student: Tensor, teacher: Tensor, class_axis: int, temperature: float) -> Tensor:
    """Return the squared temperature times the mean Kullback-Leibler divergence of two softened answers.

    Args:
        student: logits of any shape.
        teacher: logits of the same shape.
        class_axis: the axis over which probabilities sum to one; the mean is over everything else.
        temperature: softens both.
    """
    summed = F.kl_div(
        F.log_softmax(student.float() / temperature, dim=class_axis),
        F.log_softmax(teacher.float() / temperature, dim=class_axis),
        reduction="sum",
        log_target=True,
    )
    return summed * (temperature * temperature / (student.numel() // student.shape[class_axis]))


def output_error(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """Return the mean squared error of each of the teacher's answers, averaged over them; no label or class enters.

    An answer with a variance above 1 is divided by it, so that no unit is so large that a step of the size that suits
    standardised outputs goes too far; a smaller one keeps its unit, as it does in a regression's own loss.

    Args:
        student: answers by name, as `answers_of` gives them; those that the teacher lacks (heads that exist in training
            only) are not compared.
        teacher: answers by name.

    Raises:
        InvalidArgumentError: they have no answer in common, or one of other shapes.
    """
    names = [name for name in teacher if name in student]
    if not names or any(student[name].shape != teacher[name].shape for name in names):
        msg = (
            f"expected the same outputs from student and teacher, got {_shown(student)} and {_shown(teacher)}; "
            f"{_WITHOUT}"
        )
        raise InvalidArgumentError(msg)
    errors = []
    for name in names:
        wanted = teacher[name].float()
        errors.append(F.mse_loss(student[name].float(), wanted) / wanted.var(correction=0).clamp(min=1.0))
    return torch.stack(errors).mean()


def answers_of(outputs: Any, counted: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return what a model answers by name: its ``logits`` where it has some, else all tensors that are no integers.

    Complex ones get a last dimension of real and imaginary parts.

    Args:
        outputs: a tensor, or any nesting of mappings, tuples, lists and dataclasses; tensors without dimensions, such
            as a loss, and whatever is no tensor are left out.
        counted: dotted names of the outputs that count; with them it is these that are returned.

    >>> import torch
    >>> list(answers_of({"boxes": torch.zeros(2, 4), "levels": [torch.zeros(2, 3), torch.zeros(2, 5)]}))
    ['boxes', 'levels.0', 'levels.1']
    """
    found = named_outputs(outputs if counted else logits_of(outputs))
    return {
        name: torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
        for name, tensor in found
        if is_named(name, counted) and _is_answer(tensor)
    }


AUXILIARY = "aux"
"""Name of the answer of a second classifier, which is there for training."""


class Recorder:
    """Calls a model and remembers its answer, so that a task's loss and distillation share one forward pass.

    Args:
        model: the model to call.
        counted: dotted names of the outputs that count, see `answers_of`.

    Attributes:
        output: its latest answer: what it returned, or what modules inside put out, if that is what counts.
    """

    def __init__(self, model: Callable[..., Any], counted: Sequence[str] = ()) -> None:
        self._model = model
        self._counted = counted
        self.output: Any = None

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Call the model."""
        with listening(self._model, self._counted) as listener:
            returned = self._model(*inputs, **named)
            self.output = listener.answer(returned)
        return returned

    def answer(self, inputs: Any) -> Any:
        """Return the model's answer alone, which needs no targets."""
        self.output = answers(self._model, inputs, self._counted)
        return self.output


def logits_of(outputs: Any) -> Any:
    """Return the ``logits`` of a mapping or named tuple (GoogLeNet in training, transformers), else ``outputs``.

    Of torchvision's networks for segmentation, which return ``out`` and perhaps ``aux``, these are ``out``.
    """
    if isinstance(outputs, Mapping):
        is_segmentation = "out" in outputs and outputs.keys() <= {"out", AUXILIARY}
        return outputs["out"] if is_segmentation else outputs.get("logits", outputs)
    return getattr(outputs, "logits", outputs)


def outputs_beside_logits(outputs: Any) -> list[str]:
    """Return the names of floating-point outputs that `answers_of` leaves out because there are logits."""
    if logits_of(outputs) is outputs:
        return []
    counted = {id(leaf) for _, leaf in named_outputs(logits_of(outputs))}
    beside = [name for name, leaf in named_outputs(outputs) if id(leaf) not in counted and _is_answer(leaf)]
    return [name for name in beside if name != AUXILIARY]


def _is_answer(tensor: Tensor) -> bool:
    return is_inexact(tensor) and tensor.dim() > 0


def _shown(answers: Mapping[str, Tensor]) -> str:
    shapes = [f"{name or 'output'} {tuple(tensor.shape)}" for name, tensor in answers.items()]
    return ", ".join(shapes[:6]) + (", ..." if shapes[6:] else "") or "no floating-point tensor"
