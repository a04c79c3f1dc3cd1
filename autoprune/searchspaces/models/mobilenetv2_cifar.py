"""MobileNetV2 for 32x32 images: Sandler et al., CVPR 2018, with stride 1 in the stem and in the second stage.

It is torchvision's class with other strides; chenyaofo/pytorch-cifar-models made the same choice, and the weights
published there load without a change.
"""

from __future__ import annotations

from torchvision.models import MobileNetV2

# expansion, channels, blocks, stride of the first block
SETTING = [
    [1, 16, 1, 1],
    [6, 24, 2, 1],  # stride 2 on ImageNet
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]


def mobilenet_v2(n_classes: int = 10, width: float = 1.0) -> MobileNetV2:
    """Build MobileNetV2 for CIFAR with ``width`` times the usual channels."""
    model = MobileNetV2(num_classes=n_classes, width_mult=width, inverted_residual_setting=SETTING)
    model.features[0][0].stride = (1, 1)  # 2 on ImageNet
    return model
