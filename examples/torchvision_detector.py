"""A smaller detector of torchvision: pruned by its raw heads, used as ever.

    python examples/torchvision_detector.py

Random weights and images stand for yours. What the heads say of every anchor is compared with the dense model; boxes
are chosen by the detector itself, which stays complete.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone

import autoprune as ap


class RawHeads(nn.Module):
    """What a RetinaNet says of every anchor, for a batch of images of one size, scaled as the backbone wants them."""

    def __init__(self, detector: RetinaNet) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Any:
        said = self.detector.head(list(self.detector.backbone(images).values()))
        return said["cls_logits"], said["bbox_regression"]


def build() -> RawHeads:
    """Return the dense detector, with a MobileNetV3 and a feature pyramid."""
    backbone = mobilenet_backbone(
        backbone_name="mobilenet_v3_small", weights=None, fpn=True, trainable_layers=6, norm_layer=nn.BatchNorm2d
    )
    anchors = AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3)
    return RawHeads(RetinaNet(backbone, num_classes=5, anchor_generator=anchors, min_size=64, max_size=64)).eval()


def main() -> None:
    """Halve the multiply-adds, save, load, detect."""
    torch.manual_seed(0)
    model = build()
    images = np.random.default_rng(0).random((24, 3, 64, 64), dtype=np.float32)

    found = ap.prune(model, ap.Data(images), {"macs": "50%"})
    print(found.summary)
    found.save("small.autoprune")

    detector = ap.load("small.autoprune", build()).detector
    (boxes,) = detector([torch.rand(3, 80, 100)])
    print(sorted(boxes), sum(p.numel() for p in detector.parameters()), "parameters")


if __name__ == "__main__":
    main()
