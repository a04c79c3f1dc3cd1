"""Transforms of a batch of images on the device: random crop, random flip, normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.errors import DataError, InvalidArgumentError


@dataclass(frozen=True)
class ImageTransform:
    """Batched transforms of images, the same on every device.

    uint8 pixels count as 0..1 before they are normalised. Crops are padded with black *pixels*, before normalisation,
    as torchvision's ``RandomCrop`` on a PIL image does: zeros after it are grey, and BatchNorm statistics notice.

    Attributes:
        mean: per channel, subtracted; empty for none.
        std: per channel, divided by; empty for none.
        crop_padding: training images are padded by this many black pixels and cropped at random to their size.
        horizontal_flip: training images are mirrored with probability 1/2.

    Raises:
        InvalidArgumentError: ``mean`` and ``std`` differ in length, a deviation is not positive, or the padding is
            negative.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    crop_padding: int = 0
    horizontal_flip: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        if len(self.mean) != len(self.std) or any(not s > 0 for s in self.std):
            msg = f"expected as many means as positive deviations, got mean={self.mean} and std={self.std}"
            raise InvalidArgumentError(msg)
        if self.crop_padding < 0:
            msg = f"expected a crop padding of 0 or more pixels, got {self.crop_padding}"
            raise InvalidArgumentError(msg)

    @property
    def augments(self) -> bool:
        """Whether training images differ from read to read."""
        return self.crop_padding > 0 or self.horizontal_flip

    def normalize(self, images: Tensor) -> Tensor:
        """Return (n, c, h, w) float32 images, normalised, in channels-last memory where the input is."""
        if not self.mean:
            return images.float().div_(255) if images.dtype == torch.uint8 else images
        if images.dim() != 4 or images.shape[1] != len(self.mean):
            msg = (
                f"expected images of shape (n, {len(self.mean)}, height, width) to normalise with "
                f"{len(self.mean)} means, got {tuple(images.shape)}"
            )
            raise DataError(msg)
        pixels = images.float().div_(255) if images.dtype == torch.uint8 else images
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        return (pixels - mean) / std

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Crop and flip each of (n, c, h, w) images at random; dtype unchanged, before `normalize`.

        Args:
            images: images with black at zero.
            generator: generator on the images' device; the only source of randomness.
        """
        if not self.augments:
            return images
        if images.dim() != 4:
            msg = f"expected images of shape (n, channels, height, width) to crop or flip, got {tuple(images.shape)}"
            raise DataError(msg)
        n, _, height, width = images.shape
        device, pad = images.device, self.crop_padding
        rows = torch.arange(height, device=device).repeat(n, 1)
        columns = torch.arange(width, device=device).repeat(n, 1)
        if self.horizontal_flip:
            flipped = torch.rand(n, 1, generator=generator, device=device) < 0.5
            columns = torch.where(flipped, width - 1 - columns, columns)
        if pad:
            offsets = torch.randint(0, 2 * pad + 1, (n, 2), generator=generator, device=device)
            rows, columns = rows + offsets[:, :1], columns + offsets[:, 1:]
            images = F.pad(images, (pad, pad, pad, pad))
        each = torch.arange(n, device=device)
        # The slice over the channels sends them last: the result is channels-last already.
        return images[each[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
