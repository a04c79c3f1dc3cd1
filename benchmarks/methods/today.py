"""A small vision transformer and an LSTM, trained here in minutes, through `ap.prune`: test accuracy at each limit.

    python benchmarks/methods/today.py vit --data npz:CIFAR10 [--images 10000] [--epochs 5] [--attention widths]
    python benchmarks/methods/today.py digits [--attention widths]
    python benchmarks/methods/today.py lstm

The transformer (timm's, 4 x 4 patches, 64 channels, 4 heads, 4 blocks) learns CIFAR-10, a smaller one (2 x 2 patches,
48 channels, 3 heads, 3 blocks) the 1,797 handwritten digits of scikit-learn, and so does a bidirectional LSTM of two
layers, row by row. Each is trained from scratch with AdamW and one cosine;
widths are then chosen, and consumers re-solved, without labels. ``--bases both`` does it with the bases that `ap.prune`
turns streams into and heads of attention with ``--attention widths``, and with the channels that are there.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoprune as ap
from autoprune.evaluators import measure
from autoprune.train.named_data import IMAGENET_MEAN, IMAGENET_STD


class Rows(nn.Module):
    """Reads an image row by row, in both directions."""

    def __init__(self, size: int = 8, hidden: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.lstm = nn.LSTM(size, hidden, num_layers=2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, classes) scores of (n, rows, size) images."""
        return self.fc(self.lstm(x)[0].mean(1))


def vit(options: argparse.Namespace) -> tuple[nn.Module, ap.Data]:
    """Return the transformer and CIFAR-10."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(img_size=32, patch_size=4, embed_dim=64, depth=4, num_heads=4, num_classes=10)
    transform = ap.ImageTransform(IMAGENET_MEAN, IMAGENET_STD, crop_padding=4, horizontal_flip=True)
    return model, ap.load_data(options.data, transform=transform, val_size=5000)


def digits(_: argparse.Namespace) -> tuple[nn.Module, ap.Data]:
    """Return the smaller transformer and the digits."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, embed_dim=48, depth=3, num_heads=3, num_classes=10
    ), handwritten((-1, 1, 8, 8))


def lstm(_: argparse.Namespace) -> tuple[nn.Module, ap.Data]:
    """Return the LSTM and the digits."""
    return Rows(), handwritten((-1, 8, 8))


def handwritten(shape: tuple[int, ...]) -> ap.Data:
    """Return the digits in a shape: 1,100 to train, 297 to search and 400 to test on."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(shape) / 16
    y = torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    parts = (torch.utils.data.TensorDataset(x[i], y[i]) for i in order.split([1100, 297, 400]))
    return ap.Data(*parts)


def train(model: nn.Module, data: ap.Data, epochs: int, images: int) -> None:
    """Train a model from scratch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    items = data.train.subset(images, 0) if images else data.train
    loaders = [items.loader(128, augment=True, shuffle=True, seed=epoch) for epoch in range(epochs)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=sum(map(len, loaders)))
    model.train()
    for loader in loaders:
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    model.eval()


NETS = {"vit": (vit, 5), "digits": (digits, 100), "lstm": (lstm, 30)}
"""Networks and the epochs that they are trained for."""


def main() -> None:
    """Train, prune, print one row per limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=list(NETS))
    parser.add_argument("--data", help="npz:FOLDER with CIFAR-10, for the transformer")
    parser.add_argument("--epochs", type=int, default=0, help="5, 100 and 30 by default")
    parser.add_argument("--images", type=int, default=0, help="to train on; all by default")
    parser.add_argument("--limits", nargs="+", default=["70%", "50%", "30%"])
    parser.add_argument("--attention", choices=["heads", "widths"], default="heads")
    parser.add_argument("--bases", choices=["turned", "plain", "both"], default="turned")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    make, epochs = NETS[options.net]
    model, data = make(options)
    began = time.process_time()
    train(model, data, options.epochs or epochs, options.images)
    print(f"trained in {time.process_time() - began:.1f} CPU s", flush=True)
    task = ap.Classification()
    print(f"dense: {measure(model, data.test, task)['accuracy']:.4f}", flush=True)
    for bases in ("turned", "plain") if options.bases == "both" else (options.bases,):
        began = time.process_time()
        found = ap.prune(
            model,
            data,
            [{"macs": limit} for limit in options.limits],
            attention=options.attention,
            rotate=bases == "turned",
            seed=options.seed,
        )
        print(f"{bases}: {time.process_time() - began:.1f} CPU s for {len(found)} points", flush=True)
        for limit, result in zip(options.limits, found, strict=True):
            figures = [
                f"{step} {measure(small, data.test, task)['accuracy']:.4f} at {result.steps[step]['distance']:.5f}"
                for step, small in (("cut", result.point.build()), ("polished", result.model))
            ]
            print(f"<= {limit}: {result.share['macs']:.3f} of the MACs; {', '.join(figures)}", flush=True)


if __name__ == "__main__":
    main()
