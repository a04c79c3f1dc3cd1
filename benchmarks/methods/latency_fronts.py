r"""A front by latency against a front by MACs: equal evaluations, points of both timed in turns.

    python benchmarks/methods/latency_fronts.py resnet20 --data npz:FOLDER --weights FILE --out runs/fronts
    python benchmarks/methods/latency_fronts.py mobilenet --out runs/fronts --batch 1 16

Networks and data are those of first_front.py. For every batch size: the same strategy, seed and number of evaluations
minimises the distance from the dense network and, in one run predicted latency, in the other MACs. Then, along the
distances that both fronts reach, the cheapest point of each that is at most so far from the dense network, by the cost
that the front was made for: measured times of both, the ratio with its range over three measurements, and their test
accuracy. Interrupted runs resume.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from first_front import NETWORKS

import autoprune as ap
from autoprune.evaluators import measure
from autoprune.latency.measuring import time_networks

ROWS, REPEATS = 6, 3
USEFUL = 0.6
"""Distance beyond which nobody wants a network before it is trained again."""

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
    return ap.search(problem, arguments.strategy, arguments.evaluations, prepare=None, store=store, seed=arguments.seed)


def compare(arguments: argparse.Namespace, batch: int) -> None:
    """Search twice, choose from both fronts, time what was chosen and print the rows."""
    settings = ap.LatencySettings(batch_size=batch, seconds=arguments.seconds)
    runs = {cost: searched(arguments, cost, settings) for cost in ("latency", "macs")}
    problem = runs["latency"].problem
    distances = [[point.metrics["distance"] for point in run.front] for run in runs.values()]
    nearest = max(min(at for at in found if at > FREE) for found in distances)
    farthest = min(max(found) for found in distances)
    wishes = np.geomspace(nearest, min(farthest, USEFUL), ROWS)
    chosen = {
        cost: [
            min((p for p in run.front if p.metrics["distance"] <= wish * (1 + 1e-9)), key=lambda p: p.costs[cost])
            for wish in wishes
        ]
        for cost, run in runs.items()
    }
    genomes = [problem.space.full_genome, *(np.array(point.genome) for found in chosen.values() for point in found)]
    seconds = np.stack(
        [
            time_networks(
                problem.model, problem.space, problem.example_input, np.stack(genomes), replace(settings, seed=seed)
            )
            for seed in range(REPEATS)
        ]
    )
    dense, by_latency, by_macs = np.split(1e3 * seconds, [1, 1 + ROWS], axis=1)
    print(
        f"{arguments.network}, batch {batch}: dense {np.median(dense):.3g} ms, table off by "
        f"{100 * problem.latency.error:.1f} %, {len(runs['latency'].front)} and {len(runs['macs'].front)} points",
        flush=True,
    )
    test = problem.data.test.subset(arguments.test_images, 0)
    for i, wish in enumerate(wishes):
        shown = []
        for found, times in zip(chosen.values(), (by_latency, by_macs), strict=True):
            accuracy = 100 * measure(found[i].build(), test, problem.task)["accuracy"]
            share = 100 * found[i].costs["macs"] / problem.dense_costs["macs"]
            predicted = found[i].costs["latency"] / 1e6
            shown.append(
                f"{np.median(times[:, i]):.3g} ms (predicted {predicted:.3g}; {share:.0f} % MACs, {accuracy:.1f} %)"
            )
        ratios = by_macs[:, i] / by_latency[:, i]
        print(
            f"  distance {wish:.3f}: {' against '.join(shown)}: {np.median(ratios):.2f}x "
            f"[{ratios.min():.2f}, {ratios.max():.2f}]",
            flush=True,
        )
    means = np.exp(np.log(by_macs / by_latency).mean(axis=1))
    print(f"  geometric mean {np.median(means):.3f}x [{means.min():.3f}, {means.max():.3f}]", flush=True)


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
