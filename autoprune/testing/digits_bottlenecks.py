"""A network with linear bottlenecks for tests: something in it can be turned into a better basis."""

from __future__ import annotations

import torch
from torch import nn


class Inverted(nn.Module):
    """A stem, inverted residuals of some channels and a head, for the digits."""

    def __init__(self, channels: int = 24, blocks: int = 3) -> None:
        super().__init__()
        n, inner = channels, 2 * channels
        self.stem = nn.Sequential(nn.Conv2d(1, n, 3, padding=1, bias=False), nn.BatchNorm2d(n))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(n, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()),
                *(nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()),
                *(nn.Conv2d(inner, n, 1, bias=False), nn.BatchNorm2d(n)),
            )
            for _ in range(blocks)
        )
        self.head = nn.Sequential(
            nn.Conv2d(n, 48, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 10) logits."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)
