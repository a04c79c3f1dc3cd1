"""The same search by two workers here, or on a Ray cluster: `RAY_ADDRESS=HOST:PORT python examples/cluster.py`.

The ledger, and so the front, is the same as in one process; workers may die and join meanwhile.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

import autoprune as ap
from autoprune.searchspaces.models.resnet_digits import resnet_digits


def main(
    folder: Path = Path("runs/cluster"), address: str | None = None, workers: int = 2, evaluations: int = 60
) -> ap.Run:
    """Search with workers, then train two points side by side."""
    torch.manual_seed(0)
    model, data = resnet_digits(), ap.load_data("digits", held_out=True)
    ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=4, batch_size=64, learning_rate=0.1))
    problem = ap.Problem(model, data=data, objectives=("accuracy", "macs"), name="cluster")
    ray = ap.RaySettings(address=address, workers=workers)
    run = ap.search(problem, budget=evaluations, store=folder, executor=ray)
    tuned = ap.finetune(run, points=2, epochs=2, executor=ray)
    print(tuned.table())
    return run


if __name__ == "__main__":
    main(address=os.environ.get("RAY_ADDRESS"))
