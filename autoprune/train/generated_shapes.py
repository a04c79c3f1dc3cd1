"""Drawn scenes of shapes, with the class of every pixel and the box of every shape: data that needs no download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from autoprune.core.groups import IntArray
from autoprune.core.streams import stream
from autoprune.train.named_data import DataRequest, DataRoles

CLASSES = ("background", "disc", "square", "triangle")
"""What a pixel shows, by class."""

SIZE, MOST_SHAPES, N_TRAIN, N_TEST = 64, 3, 800, 200
"""Pixels per side, shapes at most in one image, images of either role."""

_LEAST_SEEN = 0.4
"""Share of a shape that the others may leave of it: what is hidden further is not drawn."""


@dataclass(frozen=True, eq=False)
class Scenes:
    """Images of discs, squares and triangles before a noisy background.

    Attributes:
        images: (n, size, size, 3) uint8 array.
        masks: (n, size, size) uint8 array, the class of every pixel.
        boxes: per image, (k, 4) float32 array: left, top, right, bottom of every shape in pixels.
        labels: per image, (k,) integer array: the class of every shape.
    """

    images: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.uint8]
    boxes: tuple[npt.NDArray[np.float32], ...]
    labels: tuple[IntArray, ...]


def draw_scenes(n: int, seed: int, size: int = SIZE) -> Scenes:
    """Draw ``n`` scenes of one to three shapes; the same for the same arguments.

    Args:
        n: number of images.
        seed: seed for everything.
        size: pixels per side.

    >>> scenes = draw_scenes(2, seed=0)
    >>> scenes.images.shape, [len(boxes) for boxes in scenes.boxes]
    ((2, 64, 64, 3), [1, 3])
    """
    images = np.empty((n, size, size, 3), dtype=np.uint8)
    masks = np.zeros((n, size, size), dtype=np.uint8)
    boxes, labels = [], []
    for i in range(n):
        rng = stream(seed, "shapes", i)
        colour = rng.uniform(40, 215, 3)
        pixels = colour + rng.normal(0, 20, (size, size, 1)) + np.linspace(-25, 25, size)[:, None] * rng.uniform(-1, 1)
        seen: list[tuple[int, npt.NDArray[np.bool_]]] = []
        for _ in range(rng.integers(1, MOST_SHAPES + 1)):
            label, inside = _shape(rng, size)
            rest = [there & ~inside for _, there in seen]
            if any(left.sum() < _LEAST_SEEN * there.sum() for left, (_, there) in zip(rest, seen, strict=True)):
                continue
            seen = [(kind, left) for left, (kind, _) in zip(rest, seen, strict=True)] + [(label, inside)]
            away = rng.choice([-1, 1], 3) * rng.uniform(50, 110, 3)  # in colour, from the background
            pixels = np.where(inside[:, :, None], colour + away + rng.normal(0, 12, (size, size, 1)), pixels)
        images[i] = np.clip(pixels, 0, 255).astype(np.uint8)
        for label, there in seen:
            masks[i][there] = label
        boxes.append(np.array([_box(there) for _, there in seen], dtype=np.float32))
        labels.append(np.array([label for label, _ in seen], dtype=np.int64))
    return Scenes(images, masks, tuple(boxes), tuple(labels))


def _shape(rng: np.random.Generator, size: int) -> tuple[int, npt.NDArray[np.bool_]]:
    """Return the class of a new shape and the (size, size) pixels inside it."""
    label = int(rng.integers(1, len(CLASSES)))
    radius = rng.uniform(0.11, 0.24) * size
    x, y = rng.uniform(radius, size - radius, 2)
    down, right = np.mgrid[:size, :size] + 0.5 - np.array([y, x])[:, None, None]
    if CLASSES[label] == "disc":
        return label, down**2 + right**2 < radius**2
    if CLASSES[label] == "square":
        return label, np.maximum(np.abs(down), np.abs(right)) < 0.85 * radius
    return label, (down < 0.8 * radius) & (2 * np.abs(right) < down + radius)


def _box(there: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class Boxed(Dataset[Any]):
    """Drawn images, each with the boxes of its shapes.

    Args:
        scenes: the images.
    """

    def __init__(self, scenes: Scenes) -> None:
        self.data = torch.from_numpy(scenes.images).permute(0, 3, 1, 2)
        self._scenes = scenes

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.data)

    def __getitem__(self, position: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a (3, size, size) image, 0 to 1, and the (k, 4) boxes and (k,) classes of its shapes."""
        boxes, labels = self._scenes.boxes[position], self._scenes.labels[position]
        return self.data[position] / 255, {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}


def read_boxes(_request: DataRequest) -> DataRoles:
    """Draw the scenes of `read_masks` with a box around every shape."""
    train, test = (Boxed(draw_scenes(n, seed)) for seed, n in enumerate((N_TRAIN, N_TEST)))
    return DataRoles(train, test=test)


def read_masks(_request: DataRequest) -> DataRoles:
    """Draw images with the class of every pixel; none of the test images is a training image."""
    train, test = (draw_scenes(n, seed) for seed, n in enumerate((N_TRAIN, N_TEST)))
    return DataRoles((train.images, train.masks), test=(test.images, test.masks))
