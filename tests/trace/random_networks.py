"""Random small networks with everything that makes channels depend on each other, for property tests.

A network is described by plain data (`NetworkSpec`), so that a failing example can be printed, shrunk and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = (
    "conv", "norm", "group_norm", "residual", "concat", "split", "depthwise", "multiplier", "grouped", "shuffle",
    "squeeze_excite", "padding_shortcut", "pixel_shuffle", "transposed", "gated", "shared",
)  # fmt: skip


@dataclass(frozen=True)
class NetworkSpec:
    """A small network: its blocks in order, its widths, how it ends.

    Attributes:
        blocks: names out of `BLOCKS`.
        width: channels of the stem, a multiple of 4.
        head: ``"pooled"`` or ``"flattened"`` features before the classifier.
    """

    blocks: tuple[str, ...]
    width: int = 8
    head: str = "pooled"


def random_recipe(rng: np.random.Generator, *, max_blocks: int = 4) -> NetworkSpec:
    """Draw a recipe of 1 to ``max_blocks`` blocks."""
    blocks = rng.choice(BLOCKS, size=rng.integers(1, max_blocks + 1))
    head = str(rng.choice(["pooled", "flattened"]))
    return NetworkSpec(tuple(str(b) for b in blocks), int(rng.choice([8, 12])), head)


def build_network(recipe: NetworkSpec, *, seed: int = 0) -> nn.Module:
    """Return the network of a recipe in evaluation mode, with weights and statistics none of which is zero."""
    generator = torch.Generator().manual_seed(seed)
    network = SmallNetwork(recipe)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand(buffer.shape, generator=generator) * 0.5)
    return network.eval()


def example_input(batch: int = 1) -> Tensor:
    """Return an input for every small network, (batch, 3, 8, 8)."""
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(7))


class SmallNetwork(nn.Module):
    """A stem, the blocks of a recipe, and a classifier of 5 classes."""

    def __init__(self, recipe: NetworkSpec) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, recipe.width, 3, padding=1)
        width = recipe.width
        blocks = []
        for name in recipe.blocks:
            block = _make_block(name, width)
            width = block.out_width
            blocks.append(block)
        self.blocks = nn.Sequential(*blocks)
        self.flattens = recipe.head == "flattened"
        self.classifier = nn.Linear(width * 4 if self.flattens else width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 5) scores for (n, 3, 8, 8) images."""
        x = self.blocks(F.relu(self.stem(x)))
        x = F.adaptive_avg_pool2d(x, 2).flatten(1) if self.flattens else x.mean((2, 3))
        return self.classifier(x)


class NetworkBlock(nn.Module):
    """A piece of a small network; ``out_width`` is what it returns in the dense model."""

    def __init__(self, kind: str, layers: Sequence[nn.Module], out_width: int, extra: int = 0) -> None:
        super().__init__()
        self.kind = kind
        self.layers = nn.ModuleList(layers)
        self.out_width = out_width
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to an (n, channels, h, w) tensor."""
        a, b = self.layers[0], self.layers[-1]
        match self.kind:
            case "residual":
                return F.relu(x + b(F.relu(a(x))))
            case "concat":
                return torch.cat([a(x), x, b(x)], 1)
            case "split":
                u, v = F.relu(a(x)).chunk(2, 1)
                return torch.cat([self.layers[1](v), u, b(u)], 1)
            case "shuffle":
                y = F.relu(a(x))
                n, c, h, w = y.shape
                return b(y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))
            case "squeeze_excite":
                return x * torch.sigmoid(b(F.relu(a(x.mean((2, 3), keepdim=True)))))
            case "padding_shortcut":
                return F.relu(b(x) + F.pad(x, (0, 0, 0, 0, self.extra, self.extra)))
            case "pixel_shuffle":
                return F.avg_pool2d(F.pixel_shuffle(a(x), 2), 2)
            case "gated":
                return F.glu(a(x), 1)
            case "shared":
                return b(F.relu(a(F.relu(a(x)))))
            case "transposed":
                return F.avg_pool2d(F.relu(a(x)), 2)
            case _:
                for layer in self.layers:
                    x = layer(x)
                return F.relu(x)


def _conv(n_in: int, n_out: int, kernel: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, groups=groups)


def _make_block(kind: str, w: int) -> NetworkBlock:
    wide = w + 4
    makers: dict[str, Callable[[], tuple[list[nn.Module], int]]] = {
        "conv": lambda: ([_conv(w, wide, 3)], wide),
        "norm": lambda: ([_conv(w, w), nn.BatchNorm2d(w)], w),
        "group_norm": lambda: ([_conv(w, 8), nn.GroupNorm(2, 8)], 8),
        "residual": lambda: ([_conv(w, wide, 3), _conv(wide, w)], w),
        "concat": lambda: ([_conv(w, 6), _conv(w, 4, 3)], w + 10),
        "split": lambda: ([_conv(w, 12), _conv(6, 5), _conv(6, 4)], 15),
        "depthwise": lambda: ([_conv(w, w, 3, groups=w), nn.BatchNorm2d(w), _conv(w, wide)], wide),
        "multiplier": lambda: ([_conv(w, 2 * w, 3, groups=w), _conv(2 * w, 8)], 8),
        "grouped": lambda: ([_conv(w, 8), _conv(8, 16, 3, groups=2), _conv(16, 8)], 8),
        "shuffle": lambda: ([_conv(w, 8), _conv(8, w)], w),
        "squeeze_excite": lambda: ([_conv(w, 4), _conv(4, w)], w),
        "padding_shortcut": lambda: ([_conv(w, wide, 3)], wide),
        "pixel_shuffle": lambda: ([_conv(w, 24)], 6),
        "transposed": lambda: ([nn.ConvTranspose2d(w, 8, 2, 2)], 8),
        "gated": lambda: ([_conv(w, 16)], 8),
        "shared": lambda: ([_conv(w, w), _conv(w, wide)], wide),
    }
    layers, out_width = makers[kind]()
    return NetworkBlock(kind, layers, out_width, extra=2)
