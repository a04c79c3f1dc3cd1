"""A ResNet-20 that never saw what a search looks at: trained here on 40,000 images of CIFAR-10, once (E0).

    python benchmarks/methods/held_out.py --data FOLDER --out runs/evidence --epochs 10

FOLDER holds ``cifar10_train.npz`` and ``cifar10_test.npz`` (``x`` uint8, ``y``). Of the other 10,000 training images
4,000 steer, 3,000 score candidates and 3,000 select between methods; CIFAR's test images are looked at once, at the end
of a comparison. Killed, the same command goes on with the training.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import autoprune as ap
from autoprune.core.groups import IntArray
from autoprune.evaluators import measure
from autoprune.searchspaces.models.resnet_cifar import resnet20
from autoprune.train.checkpoint import Checkpoint
from autoprune.train.named_data import IMAGENET_MEAN, IMAGENET_STD

PARTS = {"train": 40_000, "steer": 4_000, "score": 3_000, "select": 3_000}
"""How the 50,000 training images are dealt out, in this order, after one shuffle."""


def parts_of(n: int, seed: int = 0) -> dict[str, IntArray]:
    """Return the positions of every part of ``n`` shuffled images, in the proportions of `PARTS`."""
    ends = np.cumsum([n * size // sum(PARTS.values()) for size in PARTS.values()])
    return dict(zip(PARTS, np.split(np.random.default_rng(seed).permutation(n), ends)[:-1], strict=True))


def held_out_data(folder: Path, train: int | None = None) -> tuple[ap.Data, ap.Data]:
    """Return the data of a comparison, and the images that select between methods (as ``validation`` of their own).

    Args:
        folder: holds the two files.
        train: training images of the comparison; all when left out.
    """
    with np.load(folder / "cifar10_train.npz") as file:
        x, y = file["x"], file["y"].astype(np.int64)
    with np.load(folder / "cifar10_test.npz") as file:
        test = file["x"], file["y"].astype(np.int64)
    parts = parts_of(len(y))
    transform = ap.ImageTransform(IMAGENET_MEAN, IMAGENET_STD, crop_padding=4, horizontal_flip=True)

    def items(*names: str) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.concatenate([parts[name] for name in names])
        return x[chosen], y[chosen]

    data = ap.Data(items("train"), items("steer", "score"), test, name="cifar10", transform=transform, held_out=True)
    n = len(parts["steer"])
    data.steer = replace(data.validation, role="steer", positions=data.validation.positions[:n])
    data.score = replace(data.validation, role="score", positions=data.validation.positions[n:])
    if train is not None:
        data.train = data.train.subset(train, seed=0)
    return data, ap.Data(items("train"), items("select"), name="cifar10-select", transform=transform, held_out=True)


def held_out_network(out: Path, data: ap.Data | None = None, epochs: float = 10.0) -> nn.Module:
    """Return the network with the weights in ``out``, trained first where these are not there.

    Args:
        out: folder of ``resnet20.safetensors``.
        data: what it is trained on; needed the first time.
        epochs: passes over the 40,000 images.
    """
    file = out / "resnet20.safetensors"
    torch.manual_seed(0)
    model = resnet20()
    if file.exists():
        model.load_state_dict(load_file(file))
        return model.eval()
    if data is None:
        raise SystemExit(f"{file} is not there: train it with benchmarks/methods/held_out.py")
    settings = ap.FitSettings(epochs=epochs, learning_rate=0.1, warmup=0.15)
    out.mkdir(parents=True, exist_ok=True)
    ap.fit(model, data, ap.Classification(), settings, checkpoint=Checkpoint(out / "resnet20.checkpoint"))
    save_file(model.state_dict(), file)
    return model.eval()


def main() -> None:
    """Train, or take what is there; print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--epochs", type=float, default=10.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, select = held_out_data(arguments.data)
    began = time.process_time()
    model = held_out_network(arguments.out, data, arguments.epochs)
    print(f"{time.process_time() - began:.0f} CPU s of training")
    for name, split in (("train", data.train), ("score", data.score), ("select", select.validation)):
        print(f"{name}: {100 * measure(model, split, ap.Classification())['accuracy']:.2f} % of {len(split):,}")


if __name__ == "__main__":
    main()
