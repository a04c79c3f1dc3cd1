"""Small networks for drawn scenes of shapes, on torchvision's heads: trained on a processor within minutes."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.segmentation.fcn import FCN, FCNHead

from autoprune.searchspaces.models.resnet_digits import Block

N_CLASSES = 4
"""Background, disc, square, triangle."""


class ShapesBackbone(nn.Module):
    """A stem and three residual stages with ``width``, ``2 width`` and ``4 width`` channels, at 1/2, 1/4 and 1/8.

    Args:
        width: channels of the first stage.
        last_stride: stride of the last stage.
    """

    def __init__(self, width: int, last_stride: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = Block(width, width, 1)
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(
            Block(2 * width, 4 * width, last_stride), *(Block(4 * width, 4 * width, 1) for _ in range(2))
        )

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        x = self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))
        return OrderedDict(aux=x, out=self.layer3(x))


class ShapesLevels(ShapesBackbone):
    """The backbone with an extra layer: maps at 1/4, 1/8 and 1/16, for large and small shapes.

    Attributes:
        out_channels: channels of every map, as torchvision's SSD reads them.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.extra = Block(4 * width, 4 * width, 2)
        self.out_channels = [2 * width, 4 * width, 4 * width]

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        found = super().forward(x)
        return OrderedDict(found, extra=self.extra(found["out"]))


def shapes_detector(width: int = 16, n_classes: int = N_CLASSES, size: int = 64) -> SSD:
    """Build torchvision's SSD on a small backbone: three maps, four boxes around every position of each."""
    boxes = DefaultBoxGenerator([[2]] * 3, scales=[0.2, 0.35, 0.5, 0.7], steps=[4, 8, 16])
    return SSD(ShapesLevels(width), boxes, (size, size), n_classes, [0.5] * 3, [0.25] * 3)


def shapes_segmenter(width: int = 16, n_classes: int = N_CLASSES) -> FCN:
    """Build torchvision's FCN with a second classifier on a small backbone."""
    return FCN(ShapesBackbone(width, 1), FCNHead(4 * width, n_classes), FCNHead(2 * width, n_classes))
