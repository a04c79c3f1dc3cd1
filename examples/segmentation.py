"""Smaller segmenters: one of torchvision, whose auxiliary output does not count, and a U-Net of segmentation-models.

    pip install segmentation-models-pytorch
    python examples/segmentation.py

Random weights and images stand for yours. Labels are not needed; with masks, `ap.TorchMetrics` reports mean IoU
(docs/data.md).
"""

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import autoprune as ap


def unet() -> smp.Unet:
    """Return the dense U-Net."""
    return smp.Unet("mobilenet_v2", encoder_weights=None, decoder_channels=(64, 32, 16, 16, 8))


def main() -> None:
    """Halve both; save and load the U-Net."""
    torch.manual_seed(0)
    images = np.random.default_rng(0).random((16, 3, 64, 64), dtype=np.float32)

    mobile = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    print(ap.prune(mobile, ap.Data(images), {"macs": "50%"}, outputs=["out"]).summary)

    found = ap.prune(unet(), ap.Data(images), {"macs": "50%"})
    print(found.summary)
    found.save("small.autoprune")
    small = ap.load("small.autoprune", unet())
    print(small.predict(torch.rand(1, 3, 96, 96)).shape)  # any size that the dense model takes


if __name__ == "__main__":
    main()
