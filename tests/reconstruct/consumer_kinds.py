"""One small network per kind of consumer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.groups import BoolArray, Structure
from autoprune.reconstruct import Consumer, Moments, collect, find_consumers
from autoprune.trace import trace


class Residual(nn.Module):
    """A residual stream with two consumers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 5) class scores."""
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(x + self.norm(self.inner(x)))).mean((2, 3))


class Concat(nn.Module):
    """Two producers side by side in one consumer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Conv2d(3, 4, 3, padding=1)
        self.c = nn.Conv2d(10, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 5) class scores."""
        return self.c(torch.cat([torch.relu(self.a(x)), torch.tanh(self.b(x))], 1)).mean((2, 3))


class Attention(nn.Module):
    """A transformer block on four tokens: projections of queries, keys and values, of heads, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, stride=4)
        self.qkv = nn.Linear(12, 36)
        self.proj = nn.Linear(12, 12)
        self.fc1 = nn.Linear(12, 16)
        self.fc2 = nn.Linear(16, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 5) class scores."""
        x = torch.tanh(self.patches(x)).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(len(x), -1, 3, 3, 4).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.fc2(F.gelu(self.fc1(x)))
        return self.head(x.mean(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3, stride=2, padding=1, dilation=2), nn.Flatten(2)
    ),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 12), nn.ReLU(), nn.Linear(12, 5)),
    "flatten": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(24, 5)
    ),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(), nn.Conv2d(8, 5, 1), nn.Flatten(2)
    ),
    "grouped": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 1)
    ),
    "transposed": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 5, 2, stride=2), nn.Flatten(2)
    ),
    "batchnorm": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 1)
    ),
    "no constant": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3, bias=False), nn.Flatten(2)),
    "residual": Residual,
    "concat": Concat,
    "attention": Attention,
}


def make_case(name: str) -> tuple[nn.Module, Structure, list[Tensor], tuple[Consumer, ...], dict[str, Moments]]:
    """Return a network with random weights, its structure, images, consumers and their moments."""
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    structure = trace(model, torch.randn(1, 3, 8, 8))
    batches = [torch.randn(16, 3, 8, 8) + 0.3 for _ in range(4)]
    consumers = find_consumers(model, structure)
    return model, structure, batches, consumers, collect(model, consumers, batches)


def random_kept(structure: Structure, share: float = 0.6, seed: int = 0) -> BoolArray:
    """Return the (n_genes,) channels that stay when every group keeps a share of random ones."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(group.width) for group in structure.groups]
    return structure.kept_genes(orders, np.maximum(1, (structure.full_widths * share).astype(int)))
