"""A driver of a search that trains: ``python preparing_driver.py FOLDER [ADDRESS]``, on Ray with the address."""

from __future__ import annotations

import sys
from pathlib import Path

import autoprune as ap
from autoprune.strategies._sweep import SweepSettings
from autoprune.testing.digits_network import digits_network

SETTINGS = SweepSettings(targets=(0.5,), epochs=30, preparation={"batch_size": 64})


def search(folder: Path, executor: ap.RaySettings | None) -> ap.Run:
    """Search, or go on."""
    problem = ap.Problem(digits_network(), data=ap.load_data("digits"))
    budget = ap.Budget(evaluations=6)
    return ap.search(problem, "dais", budget, settings=SETTINGS, store=folder, executor=executor, seed=1, window=2)


if __name__ == "__main__":
    on_ray = ap.RaySettings(address=sys.argv[2], insecure=True, workers=1, patience=600) if len(sys.argv) > 2 else None
    search(Path(sys.argv[1]), on_ray)
