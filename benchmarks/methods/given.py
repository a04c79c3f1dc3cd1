"""What most scripts here start from: a CIFAR-10 ResNet with given weights, and the data that it was trained on."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import nn

import autoprune as ap
from autoprune.searchspaces.models import resnet_cifar
from autoprune.train.named_data import IMAGENET_MEAN, IMAGENET_STD


def given(name: str, weights: str | Path, data: str) -> tuple[nn.Module, ap.Data]:
    """Return the network, in evaluation mode, and the data with 5,000 search-validation images split off.

    Args:
        name: a factory of ``searchspaces/models/resnet_cifar.py``.
        weights: a safetensors file.
        data: as for `ap.load_data`; images are normalised by ImageNet's mean and deviation, as they were in training.
    """
    model = getattr(resnet_cifar, name)()
    model.load_state_dict(load_file(weights))
    transform = ap.ImageTransform(IMAGENET_MEAN, IMAGENET_STD, crop_padding=4, horizontal_flip=True)
    return model.eval(), ap.load_data(data, transform=transform, val_size=5000)
