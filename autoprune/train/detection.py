"""Detection: boxes with classes, by networks that bring their own loss."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoprune.errors import DataError, InvalidArgumentError, MetricError
from autoprune.surgery.forward import forward
from autoprune.train.source import Batch, is_image_list
from autoprune.train.split import Split
from autoprune.train.tasks import check_metrics, shown_outputs
from autoprune.train.transforms import ImageTransform

_NEEDED = ("torchmetrics", "pycocotools")


@dataclass(frozen=True)
class Detection:
    """Boxes and their classes: the detector's own losses, and mean average precision as COCO counts it.

    Batches hold a list of (channels, height, width) images, 0 to 1, of any sizes, and a list of targets with ``boxes``,
    (k, 4) left, top, right, bottom in pixels, and ``labels``, (k,) integers from 1. Boxes that ``iscrowd`` marks (k
    integers) are not learned, and whether they are found does not count. The model is called as torchvision's detectors
    are: in training it takes images and targets and returns losses by name, which are added; else it takes images and
    returns boxes, labels and scores of each.

    ``map`` is the mean over the overlaps 0.50, 0.55, ..., 0.95 and over the classes (pycocotools, by torchmetrics: the
    extra ``detection``), ``map_50`` that at 0.50 alone. The dense model's answers, which a smaller one is compared with
    and learns from, are those of its heads, before any box is selected.

    Raises:
        InvalidArgumentError: torchmetrics or pycocotools is not installed.
    """

    metrics: ClassVar[tuple[str, ...]] = ("map", "map_50")
    directions: ClassVar[Mapping[str, str]] = {"map": "max", "map_50": "max"}
    class_axis: ClassVar[None] = None

    def __post_init__(self) -> None:
        """Check that the metric can be computed."""
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            msg = f"mean average precision needs {' and '.join(missing)}; pip install 'autoprune[detection]'"
            raise InvalidArgumentError(msg)

    @property
    def fingerprint(self) -> str:
        """The name."""
        return repr(self)

    def chance(self, outputs: Any) -> dict[str, float]:  # noqa: ARG002  boxes are not guessed
        """Return what a model without any box scores."""
        return {"map": 0.0, "map_50": 0.0}

    def check(self, split: Split) -> None:
        """Refuse transforms of images without their boxes, and targets without boxes; asked before all measuring.

        Raises:
            DataError: the data is of another kind.
        """
        if split.transform != ImageTransform():
            msg = (
                "expected no transform of images for detection: detectors normalise and scale them, and crops and "
                "flips in ImageTransform would leave the boxes where they are; do these in the dataset, with its boxes"
            )
            raise DataError(msg)
        if split.labelled:
            _check_targets(next(iter(split.loader(2)))[1], f"as {split.role} targets")

    def loss(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the sum of the detector's losses on one batch.

        Raises:
            MetricError: the targets are not boxes, or the model returns no losses.
        """
        images, targets = _images(batch[0]), _check_targets(batch[1], "as targets", MetricError)
        learned = [_without_crowds(target) for target in targets]
        try:
            with _returning_losses(model):
                losses = model(images, learned)
        except IndexError as error:  # on the CPU; a GPU only stops
            highest = max((int(target["labels"].max()) for target in learned if len(target["labels"])), default=0)
            msg = f"the data has classes up to {highest}, which the model does not have (0 is the background): {error}"
            raise MetricError(msg) from error
        if not isinstance(losses, Mapping) or not losses:
            msg = (
                "expected a detector that returns losses by name in training, as torchvision's do, got "
                f"{shown_outputs(losses)}; write a Task for another"
            )
            raise MetricError(msg)
        return torch.stack([value.reshape(()) for value in losses.values()]).sum()

    def metric(self, model: nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
        """Compare all boxes with the targets.

        Raises:
            MetricError: there is no box to be found, or the model returns none.
        """
        from torchmetrics.detection import MeanAveragePrecision  # slow to import

        counter = MeanAveragePrecision(backend="pycocotools")
        counter.warn_on_many_detections = False  # the best 100 of an image count, as in COCO
        n_boxes = 0
        for inputs, given in loader:
            targets = _check_targets(given, "as targets", MetricError)
            found = forward(model, inputs)
            if not _holds(found, ("boxes", "labels", "scores")) or len(found) != len(targets):
                msg = f"expected boxes, labels and scores of each image from the model, got {shown_outputs(found)}"
                raise MetricError(f"{msg}; write a Task for other detectors")
            counter.update(*([{k: v.cpu() for k, v in item.items()} for item in items] for items in (found, targets)))
            n_boxes += sum(len(_without_crowds(target)["boxes"]) for target in targets)
        if not n_boxes:
            msg = "expected at least one box to be found in the items to measure on, got none"
            raise MetricError(msg)
        return check_metrics(counter.compute(), self.metrics)


def _images(inputs: Any) -> list[Tensor]:
    """Return the images of a batch, one by one."""
    return list(inputs[0] if is_image_list(inputs) else inputs)


def _check_targets(targets: Any, where: str, error: type[DataError | MetricError] = DataError) -> Any:
    """Return the targets of a batch if they are boxes with classes.

    Raises:
        DataError: they are not, or the error that was asked for.
    """
    if not _holds(targets, ("boxes", "labels")):
        what = shown_outputs(targets[0]) if isinstance(targets, tuple | list) and targets else shown_outputs(targets)
        msg = (
            f"expected a list {where}, of 'boxes' (k, 4) and 'labels' (k,) for every image, got {what}; give a dataset "
            "of (image, {'boxes': ..., 'labels': ...}) items"
        )
        raise error(msg)
    for target in targets:
        boxes, labels = target["boxes"], target["labels"]
        if boxes.shape != (len(labels), 4) or labels.dtype != torch.int64 or labels.dim() != 1:
            msg = f"expected (k, 4) boxes and (k,) integer labels {where}, got {shown_outputs(target)}"
            raise error(msg)
        if len(labels) and (not (boxes[:, 2:] > boxes[:, :2]).all() or labels.min() < 1):
            msg = (
                f"expected boxes {where} as left, top, right, bottom with positive width and height, and classes from "
                f"1 (0 is the background), got {boxes.tolist()[:4]} of {labels.tolist()[:4]}"
            )
            raise error(msg)
    return targets


def _holds(items: Any, names: Sequence[str]) -> bool:
    """Say whether there is a list of mappings with tensors of these names."""
    return isinstance(items, tuple | list) and all(
        isinstance(item, Mapping) and all(isinstance(item.get(name), Tensor) for name in names) for item in items
    )


def _without_crowds(target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    there = target.get("iscrowd")
    if there is None or not there.any():
        return dict(target)
    keep, n = there == 0, len(there)
    return {name: value[keep] if value.dim() and len(value) == n else value for name, value in target.items()}


@contextmanager
def _returning_losses(model: Any) -> Iterator[None]:
    """Let a detector return losses although its layers are in evaluation mode, as where a teacher is judged."""
    parts = [
        module
        for module in (model.modules() if isinstance(model, nn.Module) else ())
        if not module.training and (module is model or type(module).__module__.startswith("torchvision.models.detect"))
    ]
    for module in parts:
        module.training = True
    try:
        yield
    finally:
        for module in parts:
            module.training = False
