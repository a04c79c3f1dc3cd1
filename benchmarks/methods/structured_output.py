"""What the auto-encoder loss of `examples/structured_output` does: `python benchmarks/methods/structured_output.py`.

The network of the example is trained on its drawn faces with the plain squared error and with the loss of the
auto-encoder beside it, equally many steps each, once on all training images and once on few of them; the auto-encoder
learns on the labels of all of them, which need no images. Each is cut to 50 and 30 % of its multiply-adds by
`ap.prune`, without labels, and trained for a quarter as long by the loss that it came from. Mean distance of a landmark
from its place on 400 test images, in percent of the side. A minute of CPU per seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import autoprune as ap
from autoprune.evaluators import measure

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "structured_output"))
from structured_output.landmarks import draw_faces
from structured_output.network import build
from structured_output.task import StructuredOutput

SHARES = (0.5, 0.3)


def errors(data: ap.Data, task: StructuredOutput, epochs: float, seed: int) -> list[float]:
    """Return the test error in % dense, and per share as cut and after training."""
    assert data.test is not None
    test = data.test

    def error(network: nn.Module) -> float:
        return 100 * measure(network, test, task)["nme"]

    def train(network: nn.Module, epochs: float, learning_rate: float) -> None:
        settings = ap.FitSettings(epochs=epochs, batch_size=64, optimizer="adamw", learning_rate=learning_rate)
        ap.fit(network, data, task, settings, seed=seed)

    torch.manual_seed(seed)
    model = build().eval()
    train(model, epochs, 3e-3)
    found = [error(model)]
    limits = [{"macs": f"{share:.0%}"} for share in SHARES]
    for result in ap.prune(model, data, limits, task=task, seed=seed, progress=False):
        found.append(error(result.model))
        train(result.model, epochs / 4, 1e-3)
        found.append(error(result.model))
    return found


def main() -> None:
    """Measure and print one line per number of images and weight."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--images", type=int, nargs="+", default=[1200, 200], help="labelled images that are trained on"
    )
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.5, 2.0], help="of the auto-encoder loss")
    parser.add_argument("--steps", type=int, default=380, help="of the training: 20 epochs of 1,200 images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    faces, labels = draw_faces(1200, 0)
    print("test error in %: dense | 50 % of the multiply-adds as cut, trained | 30 % as cut, trained")
    for n in options.images:
        data = ap.Data((faces[:n], labels[:n]), draw_faces(200, 1), draw_faces(400, 2))
        epochs = options.steps / -(-n // 64)
        for weight in options.weights:
            task = StructuredOutput(torch.from_numpy(labels), weight)
            runs = [errors(data, task, epochs, seed) for seed in options.seeds]
            mean, spread = np.mean(runs, axis=0), np.ptp(runs, axis=0)
            cells = [f"{a:.2f} ({b:.2f})" for a, b in zip(mean, spread, strict=True)]
            print(
                f"{n:5d} images, weight {weight:g}: {cells[0]} | {', '.join(cells[1:3])} | {', '.join(cells[3:])}  "
                f"mean (range) of {len(runs)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
