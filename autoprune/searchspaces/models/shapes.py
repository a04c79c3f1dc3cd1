"""A small network for drawn scenes of shapes, on torchvision's heads: trained on a processor within minutes."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn
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


def shapes_segmenter(width: int = 16, n_classes: int = N_CLASSES) -> FCN:
    """Build torchvision's FCN with a second classifier on a small backbone."""
    return FCN(ShapesBackbone(width, 1), FCNHead(4 * width, n_classes), FCNHead(2 * width, n_classes))
