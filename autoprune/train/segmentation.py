"""Segmentation: one class per pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core import check
from autoprune.errors import DataError, MetricError
from autoprune.surgery.forward import forward
from autoprune.train.distill import AUXILIARY, logits_of
from autoprune.train.source import Batch
from autoprune.train.split import Split
from autoprune.train.tasks import check_metrics, shown_outputs


@dataclass(frozen=True)
class Segmentation:
    """One class per pixel: cross entropy; ``miou`` (mean intersection over union), ``pixel_accuracy`` and ``loss``.

    Targets are (n, h, w) integer classes. A model returns (n, classes, h, w) logits, or a mapping that has them as
    ``out`` or ``logits``; logits of another size, as of networks that answer at a quarter of the resolution, are
    interpolated to that of the targets. Pixels are counted as integers over all items, so equal predictions give equal
    figures in any order. The mean is over the classes that are there, in targets or predictions.

    Attributes:
        ignore_index: class of pixels that do not count, such as the borders of PASCAL VOC's objects.
        auxiliary: weight of the loss of a second classifier, ``aux`` among the outputs, in training; the default is
            that of torchvision's own training (references/segmentation/train.py).
    """

    ignore_index: int = 255
    auxiliary: float = 0.5

    metrics: ClassVar[tuple[str, ...]] = ("miou", "pixel_accuracy", "loss")
    class_axis: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        check.not_negative(self, "auxiliary")

    @property
    def fingerprint(self) -> str:
        """Name and settings."""
        return repr(self)

    def chance(self, outputs: Any) -> dict[str, float]:
        """Return what guessing scores on pixels of equally frequent classes, given what the model returns."""
        classes = _logits(outputs).shape[1]
        return {"miou": 1 / (2 * classes - 1), "pixel_accuracy": 1 / classes}

    def check(self, split: Split) -> None:
        """Refuse what would move pixels away from their classes; asked before anything is measured.

        Raises:
            DataError: the transform crops or flips the images alone, or the targets are no maps of classes.
        """
        if split.transform.augments:
            msg = (
                "crop_padding and horizontal_flip of the transform move the pixels of images and leave the classes "
                "where they are; crop and flip images and masks together in the dataset, and leave both out here"
            )
            raise DataError(msg)
        targets = next(iter(split.loader(1)))[1] if split.labelled else None
        if targets is not None and (not isinstance(targets, Tensor) or targets.dim() != 3 or _is_real(targets)):
            msg = f"expected (n, h, w) integer classes of pixels as {split.role} targets, got {shown_outputs(targets)}"
            raise DataError(msg)

    def loss(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the mean cross entropy of the pixels of one batch, that of a second classifier added."""
        inputs, targets = batch
        outputs = forward(cast(nn.Module, model), inputs)
        loss = self._mean(_logits(outputs, targets), targets)
        if isinstance(outputs, Mapping) and AUXILIARY in outputs and self.auxiliary > 0:
            loss = loss + self.auxiliary * self._mean(_resized(outputs[AUXILIARY], targets), targets)
        return loss

    def metric(self, model: nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
        """Count pixels by class and prediction; one synchronisation with the device, at the end.

        Raises:
            MetricError: there is nothing to measure on, the outputs are not logits, or the targets no such classes.
        """
        pairs: Tensor | None = None
        total: Tensor | float = 0.0
        for inputs, targets in loader:
            logits = _logits(forward(model, inputs), targets)
            classes = logits.shape[1]
            total = total + self._sum(logits, targets).double()
            there = targets != self.ignore_index
            chosen = targets[there] * classes + logits.argmax(dim=1)[there]
            found = torch.bincount(chosen, minlength=classes * classes).reshape(classes, classes)
            pairs = found if pairs is None else pairs + found
        if pairs is None or not pairs.any():
            msg = f"expected at least one pixel to measure on that is not of class {self.ignore_index}, got none"
            raise MetricError(msg)
        pairs = pairs.cpu().double()  # exact below 2**53
        right, n = pairs.diagonal(), pairs.sum()
        union = pairs.sum(dim=0) + pairs.sum(dim=1) - right
        there = union > 0
        figures = {
            "miou": (right[there] / union[there]).mean(),
            "pixel_accuracy": right.sum() / n,
            "loss": total / n,
        }
        return check_metrics(figures, self.metrics)

    def _mean(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self._sum(logits, targets) / (targets != self.ignore_index).sum().clamp(min=1)

    def _sum(self, logits: Tensor, targets: Any) -> Tensor:
        """Return the summed cross entropy of the pixels that count, or say what does not fit."""
        there = targets[targets != self.ignore_index]
        if not targets.is_cuda and len(there) and not 0 <= int(there.min()) <= int(there.max()) < logits.shape[1]:
            msg = (
                f"the model answers with {logits.shape[1]} classes, but the data has pixels of class "
                f"{int(there.min()) if there.min() < 0 else int(there.max())}; pixels that do not count have class "
                f"{self.ignore_index}, or set Segmentation(ignore_index=...)"
            )
            raise MetricError(msg)
        return F.cross_entropy(logits.float(), targets, ignore_index=self.ignore_index, reduction="sum")


def _is_real(targets: Tensor) -> bool:
    return targets.is_floating_point() or targets.is_complex()


def _logits(outputs: Any, targets: Any = None) -> Tensor:
    """Find the (n, classes, h, w) logits among what a model returns, in the size of (n, h, w) targets if there are."""
    found = logits_of(outputs)
    if not isinstance(found, Tensor) or found.dim() != 4:
        msg = (
            f"expected (n, classes, h, w) logits from the model, got {shown_outputs(outputs)}; write a Task for other "
        )
        raise MetricError(msg + "outputs")
    return found if targets is None else _resized(found, targets)


def _resized(logits: Tensor, targets: Any) -> Tensor:
    if not isinstance(targets, Tensor) or targets.dim() != 3 or targets.dtype != torch.int64:
        msg = f"expected (n, h, w) integer classes of pixels, got {shown_outputs(targets)}"
        raise MetricError(msg)
    if logits.shape[2:] == targets.shape[1:]:
        return logits
    return F.interpolate(logits, size=targets.shape[1:], mode="bilinear", align_corners=False)
