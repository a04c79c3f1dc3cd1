"""Small networks that were hard for every tracer measured: splits, concatenations, shuffles, sharing."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SplitSwap(nn.Module):
    """Halves consumed in swapped order by different convolutions, then concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b, self.c = nn.Conv2d(8, 12, 1), nn.Conv2d(8, 20, 1)
        self.d, self.fc = nn.Conv2d(32, 10, 1), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.relu(self.a(x)).chunk(2, 1)
        return self.fc(self.d(torch.cat([self.c(v), self.b(u)], 1)).mean((2, 3)))


class SplitTwice(nn.Module):
    """One half used twice, as in C2f blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.d, self.fc = nn.Conv2d(24, 10, 1), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.relu(self.a(x)).chunk(2, 1)
        return self.fc(F.relu(self.d(torch.cat([u, v, self.b(v)], 1))).mean((2, 3)))


class DupCat(nn.Module):
    """A tensor concatenated with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.d, self.fc = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(32, 10, 1), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        u = F.relu(self.a(x))
        return self.fc(F.relu(self.d(torch.cat([u, u], 1))).mean((2, 3)))


class Flat(nn.Module):
    """A feature map flattened before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.f1, self.f2 = nn.Linear(12 * 16, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        x = F.adaptive_avg_pool2d(F.relu(self.b(x)), 4)
        return self.f2(F.relu(self.f1(x.flatten(1))))


class FlatCat(nn.Module):
    """Two flattened feature maps of different size, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 12, 3, padding=1)
        self.f1, self.f2 = nn.Linear(8 * 16 + 12 * 4, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        u = F.adaptive_avg_pool2d(F.relu(self.a(x)), 4).flatten(1)
        v = F.adaptive_avg_pool2d(F.relu(self.b(x)), 2).flatten(1)
        return self.f2(F.relu(self.f1(torch.cat([u, v], 1))))


class Shared(nn.Module):
    """A head called for two feature maps; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 3, padding=1)
        self.h, self.o = nn.Conv2d(16, 12, 3, padding=1), nn.Conv2d(12, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.o(F.relu(self.h(F.relu(self.a(x))))), self.o(F.relu(self.h(F.relu(self.b(x)))))


class GroupedGN(nn.Module):
    """A grouped convolution between group norm and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(8, 32)
        self.g, self.n2 = nn.Conv2d(32, 64, 3, padding=1, groups=4), nn.BatchNorm2d(64)
        self.o, self.fc = nn.Conv2d(64, 32, 1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.n(self.a(x)))
        return self.fc(F.relu(x + self.o(F.relu(self.n2(self.g(x))))).mean((2, 3)))


class DepthwiseMultiplier(nn.Module):
    """A depthwise convolution with two outputs per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1, groups=16)
        self.o, self.fc = nn.Conv2d(32, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.o(F.relu(self.g(F.relu(self.a(x)))))).mean((2, 3)))


class PixelShuffle(nn.Module):
    """Channels that become pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.c = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.pixel_shuffle(F.relu(self.b(F.relu(self.a(x)))), 2))


class UNet(nn.Module):
    """Down, up, and a skip connection by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.c, self.u = nn.Conv2d(16, 16, 3, padding=1), nn.ConvTranspose2d(16, 8, 2, 2)
        self.d, self.o = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        u = self.u(F.relu(self.c(F.relu(self.b(F.max_pool2d(a, 2))))))
        return self.o(F.relu(self.d(torch.cat([a, u], 1))))


class CrossStage(nn.Module):
    """Hard-coded slices in the style of C2f, then pooled copies in the style of SPPF."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.cv1 = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 1)
        self.m1, self.m2 = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.cv2, self.p1, self.p2 = nn.Conv2d(64, 24, 1), nn.Conv2d(24, 12, 1), nn.Conv2d(48, 16, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.cv1(F.silu(self.a(x))))
        parts = [y[:, :16], y[:, 16:]]
        parts.append(F.silu(self.m1(parts[-1])))
        parts.append(F.silu(self.m2(parts[-1])))
        pooled = [F.silu(self.p1(F.silu(self.cv2(torch.cat(parts, 1)))))]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], 3, 1, 1))
        return self.fc(F.silu(self.p2(torch.cat(pooled, 1))).mean((2, 3)))


class RawWeights(nn.Module):
    """Weights as plain parameters used by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.w = nn.Parameter(torch.randn(24, 16, 3, 3) * 0.1)
        self.g = nn.Parameter(torch.randn(1, 24, 1, 1))
        self.o, self.fc = nn.Conv2d(24, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(F.relu(self.a(x)), self.w, padding=1) * self.g)
        return self.fc(F.relu(self.o(x)).mean((2, 3)))


class Shuffle(nn.Module):
    """A channel shuffle behind a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 1, groups=3)
        self.h, self.fc = nn.Conv2d(24, 12, 1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.g(F.relu(self.a(x))))
        n, c, h, w = x.shape
        x = x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.fc(F.relu(self.h(x)).mean((2, 3)))


class DataDependent(nn.Module):
    """Python control flow that looks at the data."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        if x.mean() > -1:
            x = x + F.relu(self.b(x))
        return self.fc(x.mean((2, 3)))


TORTURE: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "SplitSwap": (SplitSwap, 37),
    "SplitTwice": (SplitTwice, 41),
    "DupCat": (DupCat, 41),
    "Flat": (Flat, 27),
    "FlatCat": (FlatCat, 29),
    "Shared": (Shared, 34),
    "GroupedGN": (GroupedGN, 29),
    "DWMult": (DepthwiseMultiplier, 44),
    "PixShuf": (PixelShuffle, 28),
    "UNet": (UNet, 26),
    "CSP": (CrossStage, 30),
    "FnWeights": (RawWeights, 28),
    "Shuffle": (Shuffle, 41),
    "Dyn": (DataDependent, 30),
}
