"""A comparison that sends itself a signal: ``python comparing_driver.py FOLDER WHEN [NAME]``, SIGKILL by default.

Its task writes a line per model it measures into FOLDER/measured.txt. The signal comes before the WHEN-th model of this
process is measured; 0 lets the comparison end.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import autoprune as ap
from autoprune.testing.digits_network import digits_network
from autoprune.train.named_data import load_data
from autoprune.train.source import Batch


class Counting:
    """Classification that keeps a record of what it measures, and dies."""

    def __init__(self, record: Path, when: int, number: signal.Signals) -> None:
        self._inner = ap.Classification()
        self._record = record
        self._left = when
        self._number = number
        self.metrics = self._inner.metrics
        self.fingerprint = self._inner.fingerprint

    def loss(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        return self._inner.loss(model, batch)

    def metric(self, model: nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._number)
        found = self._inner.metric(model, loader)
        with self._record.open("a", encoding="utf-8") as file:
            file.write(f"{describe(model)} {found['loss']:.9f}\n")
        return found


def describe(model: nn.Module) -> str:
    """Return the number of a model's weights and their sum."""
    weights = [p.detach().double() for p in model.parameters()]
    return f"{sum(w.numel() for w in weights)} {sum(float(w.sum()) for w in weights):.9f}"


def drive(folder: Path, when: int = 0, number: signal.Signals = signal.SIGKILL) -> ap.Comparison:
    """Compare, or go on with it, in ``folder``."""
    folder.mkdir(exist_ok=True)
    problem = ap.Problem(
        digits_network(),
        data=load_data("digits"),
        task=Counting(folder / "measured.txt", when, number),
        levels=4,
        evaluator="inherited",  # its budget in MACs is sized for this one
        evaluation=ap.ProxySettings(n_calibration=32, n_validation=64, batch_size=32),
    )
    return ap.compare(
        problem,
        ["pymoo:nsga2"],
        ap.Budget(macs=1.2e7),
        seeds=2,
        shares=[0.5],
        finetune=ap.FitSettings(steps=3, batch_size=32),
        retrain="dense",
        n_sampled=3,
        store=folder / "compare",
    )


if __name__ == "__main__":
    drive(Path(sys.argv[1]), int(sys.argv[2]), signal.Signals[(*sys.argv, "SIGKILL")[3]])
