"""The tracing zoo: 35 real networks and 14 torture networks, with what the prototype reached on them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.trace.torture import TORTURE


class BasicBlock(nn.Module):
    """A residual block with a projection shortcut or zero-padded channels ("A")."""

    def __init__(self, n_in: int, n_out: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.stride, self.n_in, self.n_out = stride, n_in, n_out
        self.pads = option == "A" and n_in != n_out
        same = n_in == n_out and stride == 1
        projection = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
        self.shortcut = nn.Identity() if same or option == "A" else projection

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pads:
            extra = self.n_out - self.n_in
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, extra // 2, extra - extra // 2))
        return F.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet for 32 x 32 images: three stages of ``n`` blocks."""

    def __init__(self, n: int, option: str = "B") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks: list[nn.Module] = []
        width = 16
        for stage, n_out in enumerate((16, 32, 64)):
            for block in range(n):
                blocks.append(BasicBlock(width, n_out, 2 if block == 0 and stage else 1, option))
                width = n_out
        self.layers = nn.Sequential(*blocks)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def _torchvision(name: str, **settings: object) -> nn.Module:
    import torchvision

    return getattr(torchvision.models, name)(weights=None, **settings)


def _ssdlite() -> nn.Module:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).backbone


def _timm(name: str, **settings: object) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, **settings)


@dataclass(frozen=True)
class Entry:
    """One network of the zoo.

    Attributes:
        make: builds it with random weights.
        size: of its square images.
        left: percent of the parameters left when the prototype halved every group it could use.
        fast: whether the test suite that runs on every change includes it.
        strict: whether fewer parameters must be left than the prototype left.
    """

    make: Callable[[], nn.Module]
    size: int
    left: int
    fast: bool = False
    strict: bool = False


def _tv(name: str, left: int, *, fast: bool = False, strict: bool = False, size: int = 64, **settings: object) -> Entry:
    return Entry(partial(_torchvision, name, **settings), size, left, fast, strict)


def _tm(name: str, left: int, *, fast: bool = False, strict: bool = False, size: int = 64, **settings: object) -> Entry:
    return Entry(partial(_timm, name, **settings), size, left, fast, strict)


ZOO: dict[str, Entry] = {
    "cifar_resnet20": Entry(lambda: CifarResNet(3), 32, 25, fast=True),
    "cifar_resnet56": Entry(lambda: CifarResNet(9), 32, 25),
    "cifar_resnet56A": Entry(lambda: CifarResNet(9, "A"), 32, 42),
    "tv.resnet18": _tv("resnet18", 26),
    "tv.resnet50": _tv("resnet50", 27),
    "tv.vgg16_bn": _tv("vgg16_bn", 26),
    "tv.mobilenet_v2": _tv("mobilenet_v2", 35, fast=True),
    "tv.mobilenet_v3_small": _tv("mobilenet_v3_small", 36),
    "tv.densenet121": _tv("densenet121", 29),
    "tv.squeezenet1_1": _tv("squeezenet1_1", 36, fast=True),
    "tv.googlenet": _tv("googlenet", 29, aux_logits=False, init_weights=False),
    "tv.shufflenet_v2_x1_0": _tv("shufflenet_v2_x1_0", 41, fast=True),
    "tv.efficientnet_b0": _tv("efficientnet_b0", 32),
    "tv.regnet_y_400mf": _tv("regnet_y_400mf", 28),
    "tv.convnext_tiny": _tv("convnext_tiny", 26),
    "tv.ssdlite_backbone": Entry(_ssdlite, 128, 37),
    "tv.vit_b_16": _tv("vit_b_16", 67, image_size=64),
    "tv.swin_t": _tv("swin_t", 69, strict=True),
    "timm.resnet50": _tm("resnet50", 27),
    "timm.resnext50_32x4d": _tm("resnext50_32x4d", 27),
    "timm.mobilenetv3_small_100": _tm("mobilenetv3_small_100", 36),
    "timm.efficientnet_lite0": _tm("efficientnet_lite0", 33),
    "timm.ghostnet_100": _tm("ghostnet_100", 32),
    "timm.repvgg_a0": _tm("repvgg_a0", 29),
    "timm.convnext_atto": _tm("convnext_atto", 28, fast=True),
    "timm.vit_tiny": _tm("vit_tiny_patch16_224", 69, fast=True, strict=True, img_size=64),
    "timm.hrnet_w18_small": _tm("hrnet_w18_small", 29),
    "timm.fbnetc_100": _tm("fbnetc_100", 35),
    "timm.mixnet_s": _tm("mixnet_s", 56, strict=True),
    "timm.cspresnet50": _tm("cspresnet50", 35),
    "timm.cspdarknet53": _tm("cspdarknet53", 44, strict=True),
    "timm.res2net50": _tm("res2net50_26w_4s", 50, strict=True),
    "timm.dla34": _tm("dla34", 26),
    "timm.inception_v3": _tm("inception_v3", 27, size=128),
    "timm.mobileone_s0": _tm("mobileone_s0", 31),
    **{f"x.{name}": Entry(make, 16, left, fast=True) for name, (make, left) in TORTURE.items()},
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network of the zoo in evaluation mode and an image for it."""
    entry = ZOO[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torchvision and timm are theirs
        model = entry.make().eval()
    return model, torch.randn(1, 3, entry.size, entry.size, generator=torch.Generator().manual_seed(1))
