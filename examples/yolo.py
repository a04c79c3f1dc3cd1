"""YOLO in, smaller YOLO out: a file that `YOLO(path)` loads, predicts with and exports.

    pip install ultralytics
    python examples/yolo.py

Random weights and images stand for yours: `YOLO("yolo11n.pt")`, and images as the detector is trained on. No labels
are needed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.nn.modules import C2f

import autoprune as ap


class RawHeads(nn.Module):
    """A detector that returns what its heads say, before boxes are decoded: in training and evaluation alike."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Any:
        found = self.detector(images)
        heads = found[1] if isinstance(found, tuple) else found
        return heads["boxes"], heads["scores"]


def main() -> None:
    """Halve the multiply-adds of a YOLO, save it, load it with its own loader, predict and export."""
    torch.manual_seed(0)
    yolo = YOLO("yolov8n.yaml", verbose=False)
    images = np.random.default_rng(0).random((24, 3, 64, 64), dtype=np.float32)

    found = ap.prune(RawHeads(yolo.model), ap.Data(images), {"macs": "50%"})
    print(found.summary)

    yolo.model = found.model.detector
    for block in yolo.model.modules():
        if isinstance(block, C2f):
            block.c = block.cv1.conv.out_channels // 2  # a number that it splits by in an export, and nowhere else
    yolo.save("small.pt")  # ultralytics rounds the weights to half precision

    small = YOLO("small.pt")
    print(small.predict(np.zeros((64, 64, 3), dtype=np.uint8), imgsz=64, verbose=False)[0].boxes.shape)
    exported = Path(small.export(format="onnx", imgsz=64, simplify=False, verbose=False))
    print(exported, exported.stat().st_size)


if __name__ == "__main__":
    main()
