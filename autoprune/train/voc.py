"""PASCAL VOC through torchvision: images and masks that are scaled, cropped and flipped together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from autoprune.errors import DataError
from autoprune.train.named_data import DataRequest, DataRoles

BORDER = 255
"""Class of pixels that nobody has labelled: the borders of objects, and what lies outside of an image."""

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
