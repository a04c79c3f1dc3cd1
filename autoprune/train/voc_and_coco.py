"""PASCAL VOC and COCO through torchvision: images that are cropped and flipped together with their masks or boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from autoprune.errors import DataError
from autoprune.train.named_data import DataRequest, DataRoles

BORDER = 255
"""Class of pixels that nobody has labelled: the borders of objects, and what lies outside of an image."""

NAMES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""VOC's classes from 1."""

Steps = Callable[[Any, Any], tuple[Any, Any]]


class Masked(Dataset[Any]):
    """Images with the class of every pixel.

    Args:
        dataset: torchvision's dataset of PIL images and masks.
        steps: transform of an image and its mask together.
    """

    def __init__(self, dataset: Any, steps: Steps) -> None:
        self._dataset = dataset
        self._steps = steps
        self.samples = [(path,) for path in dataset.images]  # where the content of items is looked up

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._dataset)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Read a (3, h, w) uint8 image and its (h, w) classes."""
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional as transforms

        image, mask = self._dataset[position]
        found, classes = self._steps(
            tv_tensors.Image(transforms.pil_to_tensor(image)), tv_tensors.Mask(transforms.pil_to_tensor(mask))
        )
        return found.as_subclass(Tensor), classes.as_subclass(Tensor)[0].long()


def read_segmentation(request: DataRequest) -> DataRoles:
    """Read VOC 2012; its validation images are the test set, and search-validation images are split off training."""
    from torchvision import datasets, tv_tensors
    from torchvision.transforms import v2

    size = request.image_size
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: BORDER}
    augmenting = v2.Compose(
        [
            v2.RandomResize(size, 2 * size + 1),
            v2.RandomCrop(size, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(),
        ]
    )
    plain = v2.Compose([v2.Resize(size), v2.CenterCrop(size)])

    def read(image_set: str, steps: Steps) -> Masked:
        try:
            found = datasets.VOCSegmentation(
                str(request.path), image_set=image_set, download=request.download and image_set == "train"
            )
        except (RuntimeError, FileNotFoundError) as error:
            msg = (
                f"VOC 2012 is not in {request.path}, where VOCdevkit/VOC2012 was looked for ({error}); pass "
                "download=True to fetch it, or another root="
            )
            raise DataError(msg) from error
        return Masked(found, steps)

    return DataRoles(read("train", augmenting), test=read("val", plain), plain_train=read("train", plain))


class Boxed(Dataset[Any]):
    """Images, each with its boxes.

    Args:
        dataset: torchvision's dataset of PIL images and annotations.
        paths: file of every image.
        read: gives ``(box, class, crowd)`` of every object of an annotation, boxes as left, top, right, bottom.
        steps: transform of an image and its boxes together.
    """

    def __init__(self, dataset: Any, paths: Sequence[str | Path], read: Callable[[Any], list[Any]], steps: Any) -> None:
        self._dataset = dataset
        self._read = read
        self._steps = steps
        self.samples = [(path,) for path in paths]  # where the content of items is looked up

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._dataset)

    def __getitem__(self, position: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Read a (3, h, w) image, 0 to 1, and the (k, 4) boxes, (k,) classes and (k,) crowd marks of its objects."""
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional as transforms

        image, annotation = self._dataset[position]
        objects = self._read(annotation)
        pixels = tv_tensors.Image(transforms.pil_to_tensor(image.convert("RGB")) / 255)
        boxes = torch.tensor([box for box, _, _ in objects], dtype=torch.float32).reshape(-1, 4)
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=pixels.shape[-2:]),
            "labels": torch.tensor([label for _, label, _ in objects], dtype=torch.int64),
            "iscrowd": torch.tensor([crowd for _, _, crowd in objects], dtype=torch.int64),
        }
        pixels, target = self._steps(pixels, target)
        return pixels.as_subclass(Tensor), {name: value.as_subclass(Tensor) for name, value in target.items()}


def _steps_of_boxes() -> tuple[Any, Any]:
    """Return how an image and its boxes are transformed, at random (torchvision's recipe for SSDlite) and not."""
    from torchvision.transforms import v2

    tidy = v2.SanitizeBoundingBoxes(labels_getter=lambda item: (item[1]["labels"], item[1]["iscrowd"]))
    return v2.Compose([v2.RandomIoUCrop(), v2.RandomHorizontalFlip(), tidy]), tidy


def read_detection(request: DataRequest) -> DataRoles:
    """Read VOC 2007: training and validation images to train on, its test images as the test set.

    Objects that VOC calls difficult are marked as crowds: they are not learned, and do not count if they are found.
    """
    from torchvision import datasets

    augmenting, plain = _steps_of_boxes()

    def read(image_set: str, steps: Any) -> Boxed:
        try:
            found = datasets.VOCDetection(
                str(request.path), year="2007", image_set=image_set, download=request.download and steps is not plain
            )
        except (RuntimeError, FileNotFoundError) as error:
            msg = (
                f"VOC 2007 is not in {request.path}, where VOCdevkit/VOC2007 was looked for ({error}); pass "
                "download=True to fetch it, or another root="
            )
            raise DataError(msg) from error
        return Boxed(found, found.images, _voc_objects, steps)

    train, plain_train = read("trainval", augmenting), read("trainval", plain)
    return DataRoles(train, test=read("test", plain), plain_train=plain_train)


def _voc_objects(annotation: Mapping[str, Any]) -> list[Any]:
    """Return the objects of a VOC annotation, whose pixels count from 1."""
    found = []
    for item in annotation["annotation"].get("object", []):
        left, top, right, bottom = (float(item["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax"))
        found.append(((left - 1, top - 1, right, bottom), NAMES.index(item["name"]) + 1, int(item.get("difficult", 0))))
    return found


def read_coco(request: DataRequest) -> DataRoles:
    """Read COCO 2017 from a folder of its layout; its validation images are the test set. Classes are COCO's ids."""
    from torchvision import datasets

    augmenting, plain = _steps_of_boxes()

    def read(role: str, steps: Any) -> Boxed:
        folder, file = request.path / role, request.path / "annotations" / f"instances_{role}.json"
        if not folder.is_dir() or not file.is_file():
            msg = f"expected COCO's images in {folder} and its annotations in {file}"
            raise DataError(msg)
        try:
            found = datasets.CocoDetection(str(folder), str(file))
        except ModuleNotFoundError as error:
            msg = "COCO's annotations are read by pycocotools; pip install 'autoprune[detection]'"
            raise DataError(msg) from error
        paths = [folder / item["file_name"] for item in found.coco.loadImgs(found.ids)]
        return Boxed(found, paths, _coco_objects, steps)

    return DataRoles(read("train2017", augmenting), test=read("val2017", plain), plain_train=read("train2017", plain))


def _coco_objects(annotation: Sequence[Mapping[str, Any]]) -> list[Any]:
    found = []
    for item in annotation:
        left, top, width, height = item["bbox"]
        if width > 0 and height > 0:
            found.append(((left, top, left + width, top + height), item["category_id"], item.get("iscrowd", 0)))
    return found
