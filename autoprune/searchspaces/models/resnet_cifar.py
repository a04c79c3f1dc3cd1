"""ResNets for 32x32 images: He et al., "Deep Residual Learning", CVPR 2016, section 4.2, option-A shortcuts.

Parameter names are those of akamaster/pytorch_resnet_cifar10, whose published weights load without a change.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PadShortcut(nn.Module):
    """Option A: subsample in space and fill the new channels with zeros; it has no parameters.

    Args:
        stride: take every ``stride``-th row and column.
        before: zero channels in front.
        after: zero channels behind.
    """

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = before
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        new = channels - in_channels
        self.shortcut = nn.Identity() if new == 0 and stride == 1 else PadShortcut(stride, new // 2, new - new // 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """Three stages of ``n_blocks`` blocks with 16, 32 and 64 channels: ``6 n_blocks + 2`` layers.

    Args:
        n_blocks: blocks per stage.
        n_classes: outputs.
    """

    def __init__(self, n_blocks: int, n_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(n_blocks, 16, 16, 1)
        self.layer2 = self._stage(n_blocks, 16, 32, 2)
        self.layer3 = self._stage(n_blocks, 32, 64, 2)
        self.linear = nn.Linear(64, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(n_blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
        rest = [BasicBlock(channels, channels, 1) for _ in range(n_blocks - 1)]
        return nn.Sequential(BasicBlock(in_channels, channels, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.avg_pool2d(x, x.shape[-1]).flatten(1))


def resnet20(n_classes: int = 10) -> CifarResNet:
    """Build the 20-layer network (0.27 M parameters)."""
    return CifarResNet(3, n_classes)


def resnet32(n_classes: int = 10) -> CifarResNet:
    """Build the 32-layer network (0.46 M parameters)."""
    return CifarResNet(5, n_classes)


def resnet44(n_classes: int = 10) -> CifarResNet:
    """Build the 44-layer network (0.66 M parameters)."""
    return CifarResNet(7, n_classes)


def resnet56(n_classes: int = 10) -> CifarResNet:
    """Build the 56-layer network (0.85 M parameters)."""
    return CifarResNet(9, n_classes)


def resnet110(n_classes: int = 10) -> CifarResNet:
    """Build the 110-layer network (1.7 M parameters)."""
    return CifarResNet(18, n_classes)
