"""The distance between the outputs of two models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from autoprune.reconstruct.following import tensors_in
from autoprune.reconstruct.goals import Batches
from autoprune.surgery.forward import forward


@torch.no_grad()
def distances(dense: nn.Module, others: Sequence[nn.Module], batches: Batches) -> list[float] | None:
    """Return the mean squared difference of each model's outputs from the dense one's; None where shapes differ."""
    totals, n = [0.0] * len(others), 0
    for inputs, _ in batches:
        wanted = list(tensors_in(forward(dense, inputs)))
        n += sum(x.numel() for x in wanted)
        for i, other in enumerate(others):
            for x, y in zip(wanted, tensors_in(forward(other, inputs)), strict=False):
                if x.shape != y.shape:
                    return None
                totals[i] += float((x.double() - y.double()).square().sum())
    return [total / max(1, n) for total in totals]


def distance(dense: nn.Module, other: nn.Module, batches: Batches) -> float | None:
    """Return the mean squared difference of two models' outputs; None where their shapes differ."""
    found = distances(dense, [other], batches)
    return None if found is None else found[0]
