"""A network of one's own that reads lines of text: convolutions, a bidirectional LSTM, scores for CTC.

    python examples/crnn.py

No layer is named: the LSTM's units are cut with all their gates and with what reads them, the convolutions with what
they feed.
"""

import numpy as np
import torch
from torch import Tensor, nn

import autoprune as ap


class Crnn(nn.Module):
    """Scores of characters for every column of an image of one line."""

    def __init__(self, n_characters: int = 20) -> None:
        super().__init__()
        self.columns = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d((2, 1))),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        )
        self.reader = nn.LSTM(32 * 4, 24, num_layers=2, bidirectional=True, batch_first=True)
        self.scores = nn.Linear(48, n_characters + 1)

    def forward(self, lines: Tensor) -> Tensor:
        y = self.columns(lines)  # (n, 32, 4, columns)
        y, _ = self.reader(y.flatten(1, 2).transpose(1, 2))
        return self.scores(y).log_softmax(2)


def main() -> None:
    """Halve the multiply-adds, save, load, export."""
    torch.manual_seed(0)
    lines = np.random.default_rng(0).random((64, 1, 16, 48), dtype=np.float32)

    found = ap.prune(Crnn(), ap.Data(lines), {"macs": "50%"})
    print(found.summary)
    found.save("small.autoprune")
    small = ap.load("small.autoprune", Crnn())
    print("units of the LSTM:", small.reader.hidden_size, "of 24")
    print(small(torch.rand(2, 1, 16, 80)).shape)  # lines of any length


if __name__ == "__main__":
    main()
