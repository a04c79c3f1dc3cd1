r"""Sixty evaluations of `gp` against its twin, Optuna's Gaussian process, and NSGA-II from the knapsack at 60 and 300.

    python benchmarks/methods/surrogate.py digits --out runs/surrogate  # trained here, seconds
    python benchmarks/methods/surrogate.py mobilenet --out runs/surrogate  # trained on Debian's Fashion-MNIST, minutes
    python benchmarks/methods/surrogate.py resnet20 --data npz:CIFAR10 --weights FILE --out runs/surrogate
    python benchmarks/methods/surrogate.py resnet20 --out runs/surrogate --show

Every seed draws its own items to score on, the same for all arms. What is done is not done again; arms and seeds may be
added. One row per arm, means over seeds with their standard error: share of the box that the front dominates, by what
steered the search and by test accuracy, and test accuracy within 70, 50 and 30 % of the MACs, nothing trained. Below,
`gp` minus every other arm, paired by seed. MobileNetV2 has three of its 23 variables locked, so that `optuna:gp`, which
takes 20, has a row.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import Cells
from first_front import SHARES, mobilenet, resnet
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn

import autoprune as ap
from autoprune.errors import InfeasibleError
from autoprune.evaluators import measure
from autoprune.pareto.hypervolume import hypervolume
from autoprune.searchspaces.models.resnet_digits import resnet_digits

ARMS = (
    "gp@60",
    "gp:zero@60",
    "gp:zero+knapsack@60",
    "optuna:gp@60",
    "optuna:gp+knapsack@60",
    "knapsack@60",
    "pymoo:nsga2+knapsack@60",
    "pymoo:nsga2+knapsack@300",
)
LOCKED = ("features.0.0", "features.2.conv.0.0", "features.4.conv.2")
N_TESTED = 16  # points of a front, spread over its MACs


def digits(_: argparse.Namespace) -> tuple[nn.Module, ap.Data]:
    """Return the ResNet for scikit-learn's digits, trained here on 800 of them; 600 to search on and 397 to test on."""
    images, labels = load_digits(return_X_y=True)
    x = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    parts = [(x[part], labels[part]) for part in np.split(order, [800, 1400])]
    data = ap.Data(parts[0], val=parts[1], test=parts[2])
    torch.manual_seed(0)
    model = resnet_digits()
    ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=8, batch_size=64, learning_rate=0.1))
    return model.eval(), data


NETWORKS = {"digits": digits, "mobilenet": mobilenet, "resnet20": resnet}


def problem_of(arguments: argparse.Namespace, model: nn.Module, data: ap.Data, seed: int) -> ap.Problem:
    """Return the problem with the items of one seed."""
    quality = arguments.objective
    return ap.Problem(
        model,
        data=data,
        objectives=("min:distance" if quality == "distance" else quality, "macs"),
        evaluation={"n_calibration": 200, "n_validation": arguments.validation, "proxy_seed": seed},
        reference={"distance": 1.0} if quality == "distance" else {"accuracy": 0.0},
        locks=LOCKED if arguments.network == "mobilenet" else (),
        name=arguments.network,
    )


def measured(arguments: argparse.Namespace, problem: ap.Problem, test: Any, arm: str, seed: int) -> dict[str, Any]:
    """Search, and measure points of the front on test items."""
    strategy, _, evaluations = arm.partition("@")
    folder = f"{arguments.network}-{arguments.objective}-{arm}-{seed}".replace(":", "-")
    wall, began = time.perf_counter(), time.process_time()
    run = ap.search(
        problem,
        strategy,
        int(evaluations),
        prepare=None,
        warm_start="auto" if "+" in strategy else None,  # the name says it, as in comparisons
        window=2 if strategy.startswith("optuna:gp") else None,
        store=arguments.out / folder,
        seed=seed,
    )
    seconds, wall = time.process_time() - began, time.perf_counter() - wall
    points = sorted(run.front, key=lambda point: point.costs["macs"])
    chosen = [points[i] for i in np.unique(np.linspace(0, len(points) - 1, N_TESTED).round().astype(int))]
    dense = run.dense["macs"]
    tested = [measure(point.build(), test, problem.task)["accuracy"] for point in chosen]
    shares = [point.costs["macs"] / dense for point in chosen]
    row = {
        "scored": run.front.hypervolume,
        "tested": hypervolume([[1 - a, s] for a, s in zip(tested, shares, strict=True)], (1.0, 1.0)),
        "evaluations": run.n_evaluations,
        "seconds": seconds,
        "wall": wall,
        "front": len(points),
    }
    for share in SHARES:
        try:
            accuracy = measure(run.pick(max_macs=share).build(), test, problem.task)["accuracy"]
        except InfeasibleError:
            accuracy = None
        row[share] = accuracy
    return row


def show(cells: Cells, arms: list[str], seeds: list[int]) -> None:
    """Print the two tables."""
    keys = ("scored", "tested", *SHARES)
    print("| | n | " + " | ".join(keys) + " | CPU s |\n|---|--:" + "|--:" * (len(keys) + 1) + "|")
    found = {arm: {seed: row for seed in seeds if (row := cells.get(f"{arm} {seed}"))} for arm in arms}
    for arm, rows in found.items():
        if rows:
            figures = [summary([row[key] for row in rows.values()]) for key in keys]
            seconds = np.mean([row["seconds"] for row in rows.values()])
            print(f"| `{arm}` | {len(rows)} | " + " | ".join(figures) + f" | {seconds:.0f} |")
    print(f"\n| `{arms[0]}` minus | n | scored | p | tested | p |\n|---|--:|--:|--:|--:|--:|")
    for arm in arms[1:]:
        common = sorted(found[arms[0]].keys() & found[arm].keys())
        if len(common) < 2:
            continue
        figures = []
        for key in ("scored", "tested"):
            first, second = (np.array([found[a][seed][key] for seed in common]) for a in (arms[0], arm))
            figures += [f"{np.mean(first - second):+.4f}", f"{stats.ttest_rel(first, second).pvalue:.3f}"]
        print(f"| `{arm}` | {len(common)} | " + " | ".join(figures) + " |")


def summary(values: list[float | None]) -> str:
    """Return mean and standard error; how many there are where some found nothing."""
    there = np.array([value for value in values if value is not None])
    if not len(there):
        return "-"
    error = there.std(ddof=1) / np.sqrt(len(there)) if len(there) > 1 else np.nan
    return f"{there.mean():.4f} ± {error:.4f}" + ("" if len(there) == len(values) else f" ({len(there)})")


def main() -> None:
    """Measure what is missing and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--data", help="npz:FOLDER with CIFAR-10, for resnet20")
    parser.add_argument("--weights", type=Path, help="safetensors of the trained network, for resnet20")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--objective", choices=("accuracy", "distance"), default="accuracy")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), help="strategy, warm start and evaluations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--validation", type=int, default=300, help="search-validation items of a candidate")
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--epochs", type=float, default=5.0, help="of the training of mobilenet")
    parser.add_argument("--show", action="store_true", help="print what has been measured, measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"validation": arguments.validation, "test": arguments.test_images, "epochs": arguments.epochs}
    cells = Cells(arguments.out / f"{arguments.network}-{arguments.objective}.jsonl", settings)
    if not arguments.show:
        model, data = NETWORKS[arguments.network](arguments)
        test = data.test.subset(arguments.test_images, 0)
        for seed in arguments.seeds:
            problem = problem_of(arguments, model.eval(), data, seed)
            for arm in arguments.arms:
                row = cells(f"{arm} {seed}", partial(measured, arguments, problem, test, arm, seed))
                print(f"{arguments.network} {arguments.objective} {arm} {seed}: {row}", flush=True)
    show(cells, arguments.arms, arguments.seeds)


if __name__ == "__main__":
    main()
