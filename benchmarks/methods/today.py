"""A small vision transformer and an LSTM, trained here in minutes, through `ap.prune`: test accuracy at each limit.

    python benchmarks/methods/today.py vit --data npz:CIFAR10 [--images 10000] [--epochs 5]
    python benchmarks/methods/today.py lstm

The transformer (timm's, 4 x 4 patches, 64 channels, 4 heads, 4 blocks) learns CIFAR-10, a bidirectional LSTM of two
layers the 1,797 handwritten digits of scikit-learn, row by row. Each is trained from scratch with AdamW and one cosine;
widths are then chosen, and consumers re-solved, without labels.
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


def lstm(_: argparse.Namespace) -> tuple[nn.Module, ap.Data]:
    """Return the LSTM and the digits: 1,100 to train, 297 to search and 400 to test on."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 8, 8) / 16
    y = torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    parts = (torch.utils.data.TensorDataset(x[i], y[i]) for i in order.split([1100, 297, 400]))
    return Rows(), ap.Data(*parts)


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


def main() -> None:
    """Train, prune, print one row per limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=["vit", "lstm"])
    parser.add_argument("--data", help="npz:FOLDER with CIFAR-10, for the transformer")
    parser.add_argument("--epochs", type=int, default=0, help="5 for the transformer, 30 for the LSTM by default")
    parser.add_argument("--images", type=int, default=0, help="to train on; all by default")
    parser.add_argument("--limits", nargs="+", default=["70%", "50%", "30%"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    model, data = {"vit": vit, "lstm": lstm}[options.net](options)
    began = time.process_time()
    train(model, data, options.epochs or {"vit": 5, "lstm": 30}[options.net], options.images)
    print(f"trained in {time.process_time() - began:.1f} CPU s", flush=True)
    task = ap.Classification()
    print(f"dense: {measure(model, data.test, task)['accuracy']:.4f}", flush=True)
    began = time.process_time()
    found = ap.prune(model, data, [{"macs": limit} for limit in options.limits], seed=options.seed)
    print(f"{time.process_time() - began:.1f} CPU s for {len(found)} points", flush=True)
    for limit, result in zip(options.limits, found, strict=True):
        cut = measure(result.point.build(), data.test, task)["accuracy"]
        done = measure(result.model, data.test, task)["accuracy"]
        print(f"<= {limit}: {result.share['macs']:.3f} of the MACs, cut {cut:.4f}, polished {done:.4f}", flush=True)


if __name__ == "__main__":
    main()
