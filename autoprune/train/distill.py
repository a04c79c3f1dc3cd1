"""Learning from the dense model's answers: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from autoprune.errors import InvalidArgumentError


@dataclass(frozen=True)
class Distillation:
    """How much a student listens to its teacher.

    Attributes:
        weight: share of the distillation term in the loss; the task's own loss has the rest.
        temperature: softens both answers; the term is scaled by its square (section 2 of the paper), so that the
            gradients keep their size.
    """

    weight: float = 0.5
    temperature: float = 4.0

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 <= self.weight <= 1 or not self.temperature > 0:
            msg = (
                f"expected a weight in 0..1 and a positive temperature, got weight={self.weight} and "
                f"temperature={self.temperature}"
            )
            raise InvalidArgumentError(msg)

    def loss(self, student: Any, teacher: Any) -> Tensor:
        """Return the scaled Kullback-Leibler divergence of two (n, classes, ...) logits, averaged over items.

        Raises:
            InvalidArgumentError: the outputs are not two tensors of one shape.
        """
        student, teacher = logits_of(student), logits_of(teacher)
        if not isinstance(student, Tensor) or not isinstance(teacher, Tensor) or student.shape != teacher.shape:
            msg = "expected logits of one shape from student and teacher; train models of other outputs without one"
            raise InvalidArgumentError(msg)
        t = self.temperature
        divergence = F.kl_div(
            F.log_softmax(student.float() / t, dim=1),
            F.log_softmax(teacher.float() / t, dim=1),
            reduction="sum",
            log_target=True,
        )
        return divergence * (t * t / len(student))


class Recorder:
    """Calls a model and remembers its answer, so that a task's loss and distillation share one forward pass.

    Args:
        model: what to call.
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        self._model = model
        self.output: Any = None

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Call the model."""
        self.output = self._model(*inputs, **named)
        return self.output


def logits_of(outputs: Any) -> Any:
    """Return the ``logits`` of a mapping or named tuple (GoogLeNet in training, transformers), else ``outputs``."""
    if isinstance(outputs, Mapping):
        return outputs.get("logits", outputs)
    return getattr(outputs, "logits", outputs)
