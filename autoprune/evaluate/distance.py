"""Distance of a candidate's outputs from the dense model's on fixed items: a measure of damage that needs no labels.

Paired by construction, so it has almost no noise where a change of accuracy drowns in it; it does not saturate where
the network has seen the items; and the damages of different layers nearly add up, since their errors are hardly
correlated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.errors import MetricError
from autoprune.evaluate.measure import Batches
from autoprune.surgery.forward import forward
from autoprune.train.distill import answers_of
from autoprune.train.source import Batch

DISTANCE = "distance"
"""The name of the metric."""

MAX_BYTES = 2**28
"""Memory for the dense model's outputs; where it does not suffice, the first batches are compared."""


class DenseAnswers:
    """The dense model's outputs on the first batches of a role, as many as fit into memory.

    The distance of a model is, for every floating-point output, the squared difference from the dense model's over the
    squared difference of these from their mean over the items; averaged over the outputs. 0 for the dense model, 1 for
    a model that answers the same to every item.

    Args:
        dense: the dense model, placed and in evaluation mode.
        batches: the items.
        max_bytes: memory for the outputs.
    """

    def __init__(self, dense: nn.Module, batches: Batches, max_bytes: int = MAX_BYTES) -> None:
        self._answers: list[dict[str, Tensor]] = []
        size = 0
        for inputs, _ in batches:
            answers = {name: answer.detach().clone() for name, answer in answers_of(forward(dense, inputs)).items()}
            size += sum(answer.nbytes for answer in answers.values())
            if self._answers and size > max_bytes:
                break
            self._answers.append(answers)
        self._scales = _scales(self._answers)

    @property
    def exist(self) -> bool:
        """Whether there is anything to compare: the dense model has an output of floating-point numbers."""
        return bool(self._scales)

    @contextmanager
    def compared(self, model: nn.Module, batches: Iterable[Batch]) -> Iterator[ComparedBatches]:
        """Compare what ``model`` answers while something else measures it.

        Args:
            model: placed and in evaluation mode.
            batches: the items.

        Yields:
            What is to be iterated instead of ``batches``; gives the distance afterwards.
        """
        comparison = ComparedBatches(self, model, batches)
        hook = model.register_forward_hook(comparison.hear, with_kwargs=True)
        try:
            yield comparison
        finally:
            hook.remove()

    def __len__(self) -> int:
        """Return the number of batches that are compared."""
        return len(self._answers)

    def squared_error(self, number: int, outputs: Any) -> dict[str, Tensor]:
        """Return, by output, the summed squared difference from the dense model's on one batch, over the scale.

        Raises:
            MetricError: the outputs are of other names or shapes.
        """
        found = answers_of(outputs)
        errors = {}
        for name, scale in self._scales.items():
            wanted = self._answers[number][name]
            if name not in found or found[name].shape != wanted.shape:
                got = tuple(found[name].shape) if name in found else "none"
                what = name or "output"
                msg = (
                    f"expected the {what} of a candidate in the shape of the dense model's, {tuple(wanted.shape)}, got "
                    f"{got}; outputs whose shape depends on their values have no distance"
                )
                raise MetricError(msg)
            errors[name] = (found[name].detach().double() - wanted.double()).square().sum() / scale
        return errors


class ComparedBatches:
    """One model against the dense answers, batch by batch."""

    def __init__(self, dense: DenseAnswers, model: nn.Module, batches: Iterable[Batch]) -> None:
        self._dense = dense
        self._model = model
        self._batches = batches
        self._errors: dict[int, Mapping[str, Tensor]] = {}
        self._current: tuple[int, Any] | None = None

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches) if isinstance(self._batches, Sized) else sum(1 for _ in self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; what the model answers to them meanwhile is compared."""
        for number, batch in enumerate(self._batches):
            self._current = (number, batch[0]) if number < len(self._dense) else None
            yield batch
        self._current = None

    def hear(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        """Compare an answer, where it is the first to the current batch as it came."""
        if self._current is None or self._current[0] in self._errors:
            return
        number, inputs = self._current
        mine = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if len(mine) == len(given) and all(a is b for a, b in zip(mine, given, strict=True)):
            self._errors[number] = self._dense.squared_error(number, outputs)

    def distance(self) -> float:
        """Return the distance; batches that nobody has run the model on are run now.

        Raises:
            MetricError: the outputs are of other names or shapes than the dense model's.
        """
        if len(self._errors) < len(self._dense):
            for number, (inputs, _) in enumerate(self._batches):
                if number >= len(self._dense):
                    break
                if number not in self._errors:
                    self._errors[number] = self._dense.squared_error(number, forward(self._model, inputs))
        # Summed in the order of the batches: the order in which they were run must not change the last bit.
        per_batch = [torch.stack(list(self._errors[number].values())) for number in range(len(self._dense))]
        return float(torch.stack(per_batch).sum(dim=0).mean())


def _scales(answers: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return, by output, the summed squared difference of the answers from their mean over the items."""
    scales = {}
    for name in answers[0] if answers else ():
        rows = [batch[name].double() for batch in answers]
        n = sum(len(row) for row in rows)
        mean = torch.stack([row.sum(dim=0) for row in rows]).sum(dim=0) / n
        spread = torch.stack([(row - mean).square().sum() for row in rows]).sum()
        size = torch.stack([row.square().sum() for row in rows]).sum()
        scales[name] = torch.where(spread > 1e-12 * size, spread, size).clamp_min(1e-30)
    return scales
