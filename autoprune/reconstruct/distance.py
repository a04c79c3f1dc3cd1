"""The distance between the outputs of two models."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.reconstruct.following import tensors_in
from autoprune.reconstruct.goals import Batches
from autoprune.surgery.forward import forward


@torch.no_grad()
def distance(dense: nn.Module, other: nn.Module, batches: Batches) -> float | None:
    """Return the mean squared difference of two models' outputs; None where their shapes differ."""
    total, n = 0.0, 0
    for inputs, _ in batches:
        for x, y in zip(*(tensors_in(forward(model, inputs)) for model in (dense, other)), strict=False):
            if x.shape != y.shape:
                return None
            total += float((x.double() - y.double()).square().sum())
            n += x.numel()
    return total / max(1, n)
