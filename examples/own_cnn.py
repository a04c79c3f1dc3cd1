"""A network of one's own, from training to a file that loads anywhere: `python examples/own_cnn.py`, half a minute.

Replace `Net` and `data` by yours; nothing else knows them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import autoprune as ap


def block(width: int, inner: int) -> nn.Module:
    """Return two convolutions, the first of another width."""
    return nn.Sequential(
        *(nn.Conv2d(width, inner, 3, padding=1), nn.BatchNorm2d(inner), nn.ReLU()),
        *(nn.Conv2d(inner, width, 3, padding=1), nn.BatchNorm2d(width)),
    )


class Net(nn.Module):
    """A stem, two residual blocks, a classifier."""

    def __init__(self, width: int = 24, inner: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.ModuleList([block(width, inner), block(width, inner)])
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of (n, 1, h, w) images."""
        x = self.stem(x)
        for inner in self.blocks:
            x = torch.relu(x + inner(x))
        return self.head(x.mean(dim=(2, 3)))


def main(folder: Path = Path("runs/own-cnn"), evaluations: int = 60) -> ap.Run:
    """Train, prune, search, report, save and load."""
    torch.manual_seed(0)
    model, data = Net(), ap.load_data("digits", held_out=True)
    ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=6, batch_size=64, learning_rate=0.1))

    found = ap.prune(model, data, {"macs": "50%"})
    print(found.summary)

    problem = ap.Problem(model, data=data, objectives=("accuracy", "macs"), name="own-cnn")
    run = ap.search(problem, budget=evaluations, store=folder)
    print(run.summary())
    print(run.front.table())

    point = run.pick(max_macs="40%")
    point.save(folder / "own-cnn-40.autoprune", point.build(polish=True))
    small = ap.load(folder / "own-cnn-40.autoprune", Net())
    print(problem.test(small), "on test items at 40 % of the MACs, polished")
    print(run.report().html)
    return run


if __name__ == "__main__":
    main()
