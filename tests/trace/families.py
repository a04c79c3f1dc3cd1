"""One small network per operator family, with what the tracer must find out about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

IMAGE = (1, 3, 8, 8)
TOKENS = (1, 6, 12)


def image() -> Tensor:
    """An image for the convolutional families."""
    return torch.randn(IMAGE, generator=torch.Generator().manual_seed(1))


def tokens() -> Tensor:
    """Token features for the attention families."""
    return torch.randn(TOKENS, generator=torch.Generator().manual_seed(1))


def words() -> Tensor:
    """Word indices."""
    return torch.tensor([[3, 1, 4, 1, 5, 9]])


class Conv1d3d(nn.Module):
    """Convolutions over one and three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(3, 8, 3, padding=1)
        self.b = nn.Conv1d(8, 6, 1)
        self.c = nn.Conv3d(6, 5, (1, 1, 2), padding=0)
        self.d = nn.Conv3d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x.flatten(2)))))
        return self.d(F.relu(self.c(x.unflatten(2, (4, 4, 4)))))


class Transposed(nn.Module):
    """Transposed convolutions: dense, grouped, depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.ConvTranspose2d(3, 8, 2, 2)
        self.b = nn.ConvTranspose2d(8, 8, 3, padding=1, groups=2)
        self.c = nn.ConvTranspose2d(8, 8, 3, padding=1, groups=8)
        self.d = nn.ConvTranspose2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))))


class Activations(nn.Module):
    """PReLU slopes, per-channel scales and shifts given as raw parameters and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.slope = nn.PReLU(8)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.register_buffer("shift", torch.randn(1, 8, 1, 1))
        self.norm = nn.InstanceNorm2d(8, affine=True)
        self.b = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.slope(self.a(x)) * self.scale + self.shift))


class Gated(nn.Module):
    """GLU, and a hand-written gate over two halves of a view."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 1)
        self.b = nn.Conv2d(8, 12, 1)
        self.c = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.glu(self.a(x), 1))
        n, c, h, w = x.shape
        u, v = x.view(n, 2, c // 2, h, w).unbind(1)
        return self.c(u * torch.sigmoid(v))


class Einsum(nn.Module):
    """Weights and activations contracted by equations."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(12, 10)
        self.w = nn.Parameter(torch.randn(8, 10) * 0.3)
        self.o = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("btc,oc->bto", F.relu(self.a(x)), self.w)
        scores = torch.einsum("bti,bsi->bts", y, y).softmax(-1)
        return self.o(torch.einsum("bts,bsi->bti", scores, y))


class RawMatmul(nn.Module):
    """``x @ weight`` and ``addmm`` with weights laid out (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(12, 10) * 0.3)
        self.v = nn.Parameter(torch.randn(10, 8) * 0.3)
        self.bias = nn.Parameter(torch.randn(8))
        self.o = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x @ self.w)
        return self.o(torch.addmm(self.bias, x.flatten(0, 1), self.v))


class StandardizedConv(nn.Conv2d):
    """Weight standardization."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, padding=1)


class Standardized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = StandardizedConv(3, 8, 3)
        self.b = StandardizedConv(8, 6, 3)
        self.c = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


class BatchStandardizedConv(nn.Conv2d):
    """Weight standardization as timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        w = F.batch_norm(rows, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, w, self.bias, padding=1)


class BatchStandardized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = BatchStandardizedConv(3, 8, 3), BatchStandardizedConv(8, 8, 3)
        self.c = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.c(F.relu(x + self.b(x)))


class WeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
        self.b = parametrizations.weight_norm(nn.Conv2d(8, 6, 1))
        self.c = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


class Attention(nn.Module):
    """Attention in the style of timm, with the constants kept on the module."""

    def __init__(self, kind: str, heads: int = 3) -> None:
        super().__init__()
        self.kind = kind
        self.num_heads = heads
        self.head_dim = 12 // heads
        self.attn_dim = 12
        self.norm = nn.LayerNorm(12)
        self.qkv = nn.Linear(12, 36)
        self.proj = nn.Linear(12, 12)
        self.mlp = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.stem = nn.Linear(12, 12)
        self.head = nn.Linear(12, 5)

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        if self.kind == "separate":
            q, k, v = (t.view(b, n, self.num_heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        else:
            qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
            q, k, v = qkv.unbind(0)
        if self.kind == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q @ k.transpose(-2, -1)) * self.head_dim**-0.5).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, self.attn_dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.attend(self.norm(x))
        x = x + self.mlp(x)
        return self.head(x.mean(1))


class Rotary(nn.Module):
    """Rotary positions: halves of every head are exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 3
        self.qkv = nn.Linear(12, 36)
        self.proj = nn.Linear(12, 5)

    @staticmethod
    def rotate(x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[-2]).to(x)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1]).to(x)
        half = torch.cat([-x[..., 2:], x[..., :2]], -1)
        return x * angle.cos() + half * angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v)
        return self.proj(y.transpose(1, 2).flatten(2))


class SelfAttention(nn.Module):
    """``nn.MultiheadAttention`` between prunable layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(12, 12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.b = nn.Linear(12, 20)
        self.c = nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(F.relu(self.b(self.attention(x, x, x, need_weights=False)[0])))


class LanguageModel(nn.Module):
    """An embedding whose weight is also the classifier's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 12)
        self.position = nn.Parameter(torch.randn(1, 6, 12))
        self.norm = nn.LayerNorm(12)
        self.up = nn.Linear(12, 16)
        self.down = nn.Linear(16, 12)
        self.out = nn.Linear(12, 10, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x) + self.position
        return self.out(x + self.down(F.relu(self.up(self.norm(x)))))


class Written(nn.Module):
    """A result assembled by writing into views and slices."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a = nn.Conv2d(3, 6, 1)
        self.b = nn.Conv2d(3, 4, 1)
        self.c = nn.Conv2d(10, 5, 1)
        self.d = nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.relu(self.a(x)), F.relu(self.b(x))
        n, _, h, w = x.shape
        out = torch.zeros(n, u.shape[1] + v.shape[1], h, w, dtype=x.dtype)
        if self.how == "slices":
            out[:, : u.shape[1]] = u
            out[:, u.shape[1] :] = v
        else:
            out.narrow(1, 0, u.shape[1]).copy_(u)
            out[:, u.shape[1] :].add_(v)
        return self.d(F.relu(self.c(out)))


class InPlaceView(nn.Module):
    """A view of a feature map is changed in place; the map sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(3, 4, 1)
        self.c = nn.Conv2d(8, 5, 1)
        self.d = nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.a(x))
        half = y.shape[1] // 2
        y[:, half:].mul_(torch.sigmoid(self.b(x)))
        return self.d(F.relu(self.c(y)))


class Rolled(nn.Module):
    """Channels rolled by a fixed number: every position depends on all widths."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(8, 5, 1)
        self.c = nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(torch.roll(F.relu(self.a(x)), 2, 1))))


class HardCoded(nn.Module):
    """A view with a literal width."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(8, 6, 1)
        self.c = nn.Linear(6 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x)))).view(-1, 6 * 64))


class Splits(nn.Module):
    """Split sizes kept in a list on the module."""

    def __init__(self) -> None:
        super().__init__()
        self.splits = [6, 4, 2]
        self.a = nn.Conv2d(3, 12, 1)
        self.branches = nn.ModuleList([nn.Conv2d(s, s, 3, padding=1, groups=s) for s in self.splits])
        self.b = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(F.relu(self.a(x)), self.splits, 1)
        return self.b(torch.cat([f(p) for f, p in zip(self.branches, parts, strict=True)], 1))


class SameWidth(nn.Module):
    """One integer on the module measures several splits, which must keep equally many channels."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 4
        self.a = nn.Conv2d(3, 12, 1)
        self.f = nn.Conv2d(4, 4, 3, padding=1)
        self.g = nn.Conv2d(4, 5, 3, padding=1)
        self.h = nn.Conv2d(4, 6, 3, padding=1)
        self.b = nn.Conv2d(15, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        u, v, w = torch.split(F.relu(self.a(x)), self.width, 1)
        return self.b(torch.cat([self.f(u), self.g(v), self.h(w)], 1))


class UnequalChunks(nn.Module):
    """A stream in parts of 8, 8 and 6 channels, and attention of two heads over all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 22, 1)
        self.f, self.g = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.num_heads = 2
        self.qkv = nn.Linear(22, 66)
        self.proj = nn.Linear(22, 22)
        self.b = nn.Linear(22, 4)

    def forward(self, x: Tensor) -> Tensor:
        u, v, w = F.relu(self.a(x)).chunk(3, 1)
        x = torch.cat([self.f(u), self.g(v), w], 1).flatten(2).mT
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, scale=0.3).transpose(1, 2).reshape(b, n, c)
        return self.b(x + self.proj(y))


class Halves(nn.Module):
    """Two halves whose size is that of the whole over their number, as in selective kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.num_paths = 12, 2
        self.a = nn.Conv2d(3, 12, 1)
        self.f, self.g = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(6, 5, 1)
        self.b = nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        u, v = torch.split(F.relu(self.a(x)), self.in_channels // self.num_paths, 1)
        return self.b(F.relu(self.f(u) + self.g(v)))


class Auxiliary(nn.Module):
    """A head that exists only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.aux = nn.Conv2d(8, 4, 1)
        self.b = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.norm(self.a(x)))
        return {"out": self.b(x), "aux": self.aux(x)} if self.training else {"out": self.b(x)}


class ChannelStatistics(nn.Module):
    """Attention over space made from statistics over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.gate = nn.Conv2d(2, 1, 3, padding=1)
        self.b = nn.Conv2d(8, 6, 1)
        self.c = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.c(F.relu(self.b(x * torch.sigmoid(self.gate(pooled)))))


class Through(nn.Module):
    """Two prunable layers with something in between that the tracer must refuse to follow."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(8, 6, 1)
        self.c = nn.Conv2d(6, 4, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(self.between(self.a(x)))))


class Mixer(nn.Module):
    """Linear layers over tokens and over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(12, 10)
        self.t1, self.t2 = nn.Linear(6, 14), nn.Linear(14, 6)
        self.o = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.o(x + self.t2(F.gelu(self.t1(x.transpose(1, 2)))).transpose(1, 2))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(12, 8)
        self.lstm = nn.LSTM(8, 7, batch_first=True)
        self.b = nn.Linear(7, 6)
        self.c = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(self.lstm(self.a(x))[0])))


class Patches(nn.Module):
    """im2col and a linear layer instead of a convolution; normalization with a size kept on the module."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.lin = nn.Linear(8 * 9, 6)
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        columns = F.unfold(F.relu(self.a(x)), 3, padding=1).transpose(1, 2)
        return self.out(self.norm(F.relu(self.lin(columns))))


class Resampled(nn.Module):
    """Up and down, stack and mean."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.c = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        y = F.interpolate(F.relu(self.b(x)), scale_factor=2, mode="bilinear")
        return self.c(torch.stack([x, y]).mean(0))


class InstanceLike(nn.Module):
    """A group norm with one channel a group."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 1), nn.GroupNorm(8, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.norm(self.a(x))))


@dataclass(frozen=True)
class Family:
    """A network, its input, and what must come out.

    Attributes:
        make: builds the network.
        example: makes its input.
        groups: names of the prunable groups.
        pinned: layers that keep channels, with a piece of the reason.
        exact: whether masked equals sliced without neutral statistics.
        tied: number of tie sets.
    """

    make: Callable[[], nn.Module]
    example: Callable[[], Any]
    groups: tuple[str, ...]
    pinned: dict[str, str] = field(default_factory=dict)
    exact: bool = True
    tied: int = 0


def lrn(x: Tensor) -> Tensor:
    """Local response normalization: every channel depends on its neighbors."""
    return F.local_response_norm(x, 3)


def through_numpy(x: Tensor) -> Tensor:
    """A detour that torch does not see."""
    return torch.from_numpy(x.detach().numpy() * 2)


def sorted_channels(x: Tensor) -> Tensor:
    """Channels in the order of their values."""
    return x.sort(1).values


FAMILIES: dict[str, Family] = {
    "conv1d and conv3d": Family(Conv1d3d, image, ("a", "b", "c")),
    "transposed": Family(Transposed, image, ("a", "b")),
    "activations": Family(Activations, image, ("a",)),
    "gated": Family(Gated, image, ("a", "b")),
    "einsum": Family(Einsum, tokens, ("a",), {"w": "no weight reads it"}),
    "raw matmul": Family(RawMatmul, tokens, ("w", "v")),
    "weight standardization": Family(Standardized, image, ("a", "b"), exact=False),
    "standardized by batch norm": Family(BatchStandardized, image, ("a",), exact=False),
    "weight norm": Family(WeightNorm, image, ("b",), {"a": "remove_parametrizations(model.b"}),
    "attention, fused": Family(lambda: Attention("fused"), tokens, ("stem", "qkv", "mlp.1"), exact=False),
    "attention, explicit": Family(lambda: Attention("explicit"), tokens, ("stem", "qkv", "mlp.1"), exact=False),
    "attention, separate": Family(lambda: Attention("separate"), tokens, ("stem", "qkv", "mlp.1"), exact=False),
    "rotary attention": Family(Rotary, tokens, ("qkv",)),
    "multi-head attention": Family(SelfAttention, tokens, ("a", "attention", "attention.out_proj", "b"), tied=1),
    "tied embedding": Family(LanguageModel, words, ("embedding", "up"), exact=False),
    "written slices": Family(lambda: Written("slices"), image, ("a", "b", "c")),
    "written views": Family(lambda: Written("views"), image, ("a", "b", "c")),
    "in-place view": Family(InPlaceView, image, ("a", "a:2", "c"), tied=1),
    "rolled": Family(Rolled, image, ("b",), {"a": "`roll`"}),
    "hard-coded view": Family(HardCoded, image, ("a",), {"b": "hard-coded in `view`"}),
    "split sizes on a module": Family(Splits, image, ("a", "a:2", "a:3")),
    "one size for several splits": Family(SameWidth, image, ("a", "a:2", "a:3", "f", "g", "h"), tied=1),
    "unequal chunks": Family(UnequalChunks, image, ("a", "a:2", "a:3", "f", "g", "qkv"), tied=1),
    "halves": Family(Halves, image, ("a", "a:2", "f"), tied=1),
    "auxiliary head": Family(Auxiliary, image, ("a",)),
    "channel statistics": Family(ChannelStatistics, image, ("b",), {"a": "reduced over channels by `amax`"}),
    "local response norm": Family(lambda: Through(lrn), image, ("b",), {"a": "local_response_norm"}),
    "numpy": Family(lambda: Through(through_numpy), image, ("b",), {"a": "leaves torch through `numpy`"}),
    "sorted": Family(lambda: Through(sorted_channels), image, ("b",), {"a": "sort"}),
    "mixer": Family(Mixer, tokens, ("a", "t1"), {"t2": "must stay"}),
    "recurrent": Family(Recurrent, tokens, ("a", "lstm", "b")),
    "patches": Family(Patches, image, ("a", "lin"), exact=False),
    "group norm per channel": Family(InstanceLike, image, ("a",)),
    "resampled": Family(Resampled, image, ("a",)),
}
