"""How many levels to probe: distance and accuracy of the optima that the sensitivities predict, and CPU seconds.

    python benchmarks/methods/probes.py --model resnet20 --weights resnet20.safetensors --data npz:CIFAR10

Space, evaluator and items are those of `ap.prune`, of which this is the first half: nothing is polished.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from given import given

import autoprune as ap


def main() -> None:
    """Print one row per number of levels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", help="a factory of searchspaces/models/resnet_cifar.py")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True, help="npz:FOLDER with CIFAR-10")
    parser.add_argument("--limits", nargs="+", default=["70%", "50%", "30%"])
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2, 3, 5, 9])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, data = given(options.model, options.weights, options.data)
    problem = ap.Problem(
        model,
        data=data,
        objectives=("min:distance", "macs"),
        levels=10,
        evaluation={"n_validation": 2000, "proxy_seed": options.seed},
        seed=options.seed,
    )
    targets = [problem.resolve_limits({"macs": limit}) for limit in options.limits]
    for n in options.levels:
        n_probes = int(np.minimum(n, problem.space.n_levels - 1).sum())
        began = time.process_time()
        run = ap.search(
            problem,
            "knapsack",
            ap.Budget(evaluations=1 + n_probes + len(targets)),
            settings={"probes": n, "targets": targets},
            store=Path(tempfile.mkdtemp()) / "run",
            seed=options.seed,
        )
        found = [run.pick(max_macs=limit).metrics for limit in options.limits]
        distances, accuracies = (
            " / ".join(form.format(row[name]) for row in found)
            for name, form in (("distance", "{:.3f}"), ("accuracy", "{:.3f}"))
        )
        print(
            f"{n} levels, {n_probes} probes, {time.process_time() - began:.0f} CPU s: {distances}; {accuracies}",
            flush=True,
        )


if __name__ == "__main__":
    main()
