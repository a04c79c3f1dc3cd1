r"""A front by latency against a front by MACs: equal evaluations, all points of both timed in turns.

    python benchmarks/methods/latency_fronts.py resnet20 --data npz:FOLDER --weights FILE --out runs/fronts
    python benchmarks/methods/latency_fronts.py mobilenet --out runs/fronts --batch 1 16

Networks and data are those of first_front.py. For every batch size: the same strategy, seed and number of evaluations
minimises the distance from the dense network and, in one run latency, in the other MACs. Then, along the distances
that both fronts reach: the fastest measured network of either that is at most so far from the dense one, and how many
times faster the one of the front by latency is; its test accuracy beside the other's. Interrupted runs resume.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from first_front import NETWORKS

import autoprune as ap
from autoprune.evaluators import measure
from autoprune.latency.measuring import time_networks

ROWS = 6
FREE = 1e-4
"""Distance of networks that lost nothing but channels without effect."""


def searched(arguments: argparse.Namespace, cost: str, settings: ap.LatencySettings) -> ap.Run:
    """Return the run that minimises the distance and ``cost``."""
    model, data = NETWORKS[arguments.network](arguments)
    problem = ap.Problem(
        model.eval(),
        data=data,
        objectives=("min:distance", cost),
        evaluation={"n_calibration": arguments.calibration, "n_validation": arguments.validation},
        latency=settings,
        name=arguments.network,
    )
    store = arguments.out / f"{arguments.network}-{cost}-{settings.batch_size}-{arguments.strategy.replace(':', '-')}"
    return ap.search(problem, arguments.strategy, arguments.evaluations, store=store, seed=arguments.seed)


def compare(arguments: argparse.Namespace, batch: int) -> None:
    """Search twice, time both fronts and print the rows."""
    settings = ap.LatencySettings(batch_size=batch, seconds=arguments.seconds)
    runs = {cost: searched(arguments, cost, settings) for cost in ("latency", "macs")}
    problem = runs["latency"].problem
    points = {cost: list(run.front) for cost, run in runs.items()}
    every = [problem.space.full_genome, *(np.array(point.genome) for found in points.values() for point in found)]
    seconds = time_networks(problem.model, problem.space, problem.example_input, np.stack(every), settings)
    dense, *rest = 1e3 * seconds
    times = dict(zip(points, np.split(np.array(rest), [len(points["latency"])]), strict=True))
    distances = {cost: np.array([point.metrics["distance"] for point in found]) for cost, found in points.items()}
    print(
        f"{arguments.network}, batch {batch}: dense {dense:.3g} ms, table off by {100 * problem.latency.error:.1f} %, "
        f"{len(points['latency'])} and {len(points['macs'])} points",
        flush=True,
    )
    nearest = max(found[(times[cost] < 0.95 * dense) & (found > FREE)].min() for cost, found in distances.items())
    farthest = min(found.max() for found in distances.values())
    test = problem.data.test.subset(arguments.test_images, 0)
    ratios = []
    for at in np.geomspace(nearest, farthest, ROWS):
        shown = []
        for cost, found in distances.items():
            within = np.flatnonzero(found <= at * (1 + 1e-9))
            fastest = within[np.argmin(times[cost][within])]
            point = points[cost][fastest]
            accuracy = measure(point.build(), test, problem.task)["accuracy"]
            shown.append((times[cost][fastest], point.costs["macs"] / problem.dense_costs["macs"], accuracy))
        (fast, fast_macs, fast_accuracy), (slow, slow_macs, slow_accuracy) = shown
        ratios.append(slow / fast)
        print(
            f"  distance {at:.4f}: {fast:.3g} ms ({100 * fast_macs:.0f} % MACs, {100 * fast_accuracy:.1f} %) against "
            f"{slow:.3g} ms ({100 * slow_macs:.0f} %, {100 * slow_accuracy:.1f} %): {ratios[-1]:.2f}x",
            flush=True,
        )
    print(f"  geometric mean {np.exp(np.mean(np.log(ratios))):.2f}x", flush=True)


def main() -> None:
    """Compare what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--data", help="npz:FOLDER with CIFAR-10; for lite0 the folder")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, nargs="*", default=[1])
    parser.add_argument("--strategy", default="knapsack")
    parser.add_argument("--evaluations", type=int, default=150)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each table")
    parser.add_argument("--calibration", type=int, default=200)
    parser.add_argument("--validation", type=int, default=500)
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--epochs", type=float, default=5.0, help="of the training of mobilenet")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for batch in arguments.batch:
        compare(arguments, batch)


if __name__ == "__main__":
    main()
