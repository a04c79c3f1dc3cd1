"""How many levels to probe: distance and accuracy of the optima that the sensitivities predict, and CPU seconds.

    python benchmarks/methods/probes.py --model resnet20 --weights resnet20.safetensors --data npz:CIFAR10
    python benchmarks/methods/probes.py --model resnet56 ... --levels 1 --middles 0 4
    python benchmarks/methods/probes.py --model mobilenet --out runs/first --epochs 3 --levels 1 --middles 0 4

Networks are those of `first_front.py`; space, evaluator and items those of `ap.prune`, of which this is the first half:
nothing is polished.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from first_front import NETWORKS

import autoprune as ap


def main() -> None:
    """Print one row per number of levels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", choices=NETWORKS, dest="network")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", help="npz:FOLDER with CIFAR-10; for lite0 the folder")
    parser.add_argument("--out", type=Path, help="where mobilenet is kept")
    parser.add_argument("--epochs", type=float, default=5.0, help="of the training of mobilenet")
    parser.add_argument("--limits", nargs="+", default=["70%", "50%", "30%"])
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2, 3, 5, 9])
    parser.add_argument("--middles", type=int, nargs="+", default=[0], help="middle levels beside one level of each")
    parser.add_argument("--validation", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, data = NETWORKS[options.network](options)
    problem = ap.Problem(
        model,
        data=data,
        objectives=("min:distance", "macs"),
        levels=10,
        evaluation={"n_validation": options.validation, "proxy_seed": options.seed},
        seed=options.seed,
    )
    targets = [problem.resolve_limits({"macs": limit}) for limit in options.limits]
    for n, middles in product(options.levels, options.middles):
        n_probes = int(np.minimum(n, problem.space.n_levels - 1).sum()) + middles
        began = time.process_time()
        run = ap.search(
            problem,
            "knapsack",
            ap.Budget(evaluations=1 + n_probes + len(targets)),
            settings={"probes": n, "middles": middles, "targets": targets},
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
