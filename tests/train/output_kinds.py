"""Small networks on the digits, one per kind of output, each with its task and its data: what distillation meets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.train.brought_tasks import FunctionTask
from autoprune.train.data import Data
from autoprune.train.named_data import load_data
from autoprune.train.tasks import Classification, Task

N_ITEMS = 240


@dataclass
class Fields:
    """Outputs of a network as transformers and segmentation libraries return them."""

    mask: Tensor
    edge: Tensor


class Pixels(nn.Module):
    """(n, 1, 8, 8) images to (n, 3, 8, 8) logits, or to what ``shape`` makes of them."""

    def __init__(self, shape: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 3, 1)
        self.shape = shape

    def forward(self, x: Tensor) -> Any:
        """Return what ``shape`` makes of the logits."""
        return self.shape(self.head(F.relu(self.second(F.relu(self.first(x))))))


class Tokens(nn.Module):
    """(n, 1, 8, 8) images, row by row, to (n, 8, 3) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return one row of logits per row of pixels."""
        return self.head(F.relu(self.second(F.relu(self.first(x.flatten(1, 2))))))


class Levels(nn.Module):
    """(n, 1, 8, 8) images to (n, 2) numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 16)
        self.second = nn.Linear(16, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the numbers."""
        return self.head(F.relu(self.second(F.relu(self.first(x.flatten(1))))))


@dataclass(frozen=True, eq=False)
class OutputKind:
    """A network with what it is trained for.

    Attributes:
        network: makes one with random weights.
        task: a task with one metric, ``"score"``, of which more is better, or classification.
        data: training and search-validation items.
    """

    network: Callable[[], nn.Module]
    task: Task
    data: Data


def output_kinds() -> Mapping[str, Callable[[], OutputKind]]:
    """Return how to make every kind, by name."""
    return {
        "classes": lambda: OutputKind(_classes, Classification(), _data(lambda _, y: y)),
        "pixels": lambda: _kind(Pixels, F.cross_entropy, _shades, class_axis=None),
        "tokens": lambda: _kind(Tokens, _token_loss, _row_shades, class_axis=-1),
        "numbers": lambda: _kind(Levels, F.mse_loss, _levels, class_axis=None),
        "mapping": lambda: _kind(lambda: Pixels(_as_mapping), _of("mask"), _shades, class_axis=None),
        "data class": lambda: _kind(lambda: Pixels(_as_fields), _field_loss, _shades, class_axis=None),
        "list": lambda: _kind(lambda: Pixels(_as_list), _of(0), _shades, class_axis=None),
    }


def _kind(
    network: Callable[[], nn.Module],
    loss: Callable[[Any, Any], Tensor],
    targets: Callable[[Tensor, Tensor], Tensor],
    class_axis: int | None,
) -> OutputKind:
    data = _data(targets)

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            return -float(np.mean([float(loss(model(x), y)) for x, y in data.validation.loader(40)]))

    return OutputKind(network, FunctionTask(loss, {"max:score": score}, class_axis=class_axis), data)


def _data(targets: Callable[[Tensor, Tensor], Tensor]) -> Data:
    x, y = next(iter(load_data("digits").train.loader(N_ITEMS)))
    return Data((x, targets(x, y)))


def _classes() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))


def _shades(x: Tensor, _: Tensor) -> Tensor:
    """Call every pixel dark, grey or bright."""
    return torch.bucketize(x[:, 0].contiguous(), torch.tensor([0.25, 0.75]))


def _row_shades(x: Tensor, y: Tensor) -> Tensor:
    return _shades(x, y).amax(2)


def _levels(x: Tensor, _: Tensor) -> Tensor:
    """Return the brightness of the upper and the lower half."""
    return torch.stack([x[:, 0, :4].mean((1, 2)), x[:, 0, 4:].mean((1, 2))], dim=1)


def _token_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def _of(key: str | int) -> Callable[[Any, Tensor], Tensor]:
    return lambda outputs, targets: F.cross_entropy(outputs[key], targets)


def _field_loss(outputs: Fields, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.mask, targets)


def _as_mapping(logits: Tensor) -> dict[str, Tensor]:
    return {"mask": logits, "edge": logits.amax(1)}


def _as_fields(logits: Tensor) -> Fields:
    return Fields(mask=logits, edge=logits.amax(1))


def _as_list(logits: Tensor) -> list[Tensor]:
    return [logits, logits.amax(1)]
