"""A search on the digits that saves its trainings often: ``python preempted_driver.py FOLDER STRATEGY``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import autoprune as ap
from autoprune.api import searching
from autoprune.testing.digits_network import digits_network
from autoprune.train.checkpoint import Checkpoint
from autoprune.train.named_data import load_data

MACS = 8e8


def drive(folder: Path, strategy: str) -> ap.Run:
    """Search, or go on with a search."""
    torch.manual_seed(0)
    problem = ap.Problem(
        digits_network(),
        data=load_data("digits"),
        levels=4,
        evaluation=ap.ProxySettings(n_calibration=32, n_validation=64, batch_size=32),
    )
    searching._checkpoint = lambda place, key: Checkpoint(place / f"{key}.safetensors", every=2)
    return ap.search(problem, strategy, ap.Budget(macs=MACS), store=folder)


if __name__ == "__main__":
    run = drive(Path(sys.argv[1]), sys.argv[2])
    sys.stdout.write(f"{run.stop} {run.n_evaluations}\n")
