r"""Search quality on CIFAR-10 with a network that others trained: one run per strategy, then the points users ask for.

    python benchmarks/methods/cifar.py --data npz:FOLDER --weights resnet20_cifar10.safetensors --out runs/cifar \
        --strategies pymoo:nsga2 optuna:tpe --evaluations 300 --epochs 2

Prints, per run, hypervolume, evaluations per second and the test accuracy of the best points within 70, 50 and 30 % of
the MACs: before any training, BatchNorm recalibrated, and after the same short fine-tune. Interrupted runs resume.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from given import given

import autoprune as ap
from autoprune.errors import InfeasibleError

SHARES = ("70%", "50%", "30%")


def problem_of(arguments: argparse.Namespace) -> ap.Problem:
    """Build the problem: the given network, search-validation images split off the training set."""
    model, data = given(arguments.model, arguments.weights, arguments.data)
    return ap.Problem(
        model,
        data=data,
        evaluator=arguments.evaluator,
        criterion=arguments.criterion,
        locks=arguments.locks,
        evaluation=ap.ProxySettings(n_calibration=arguments.calibration, n_validation=arguments.validation),
        reference={"accuracy": 0.0},  # as the tables of docs/measured.md have it
        name=arguments.model,
    )


def budget_of(arguments: argparse.Namespace) -> ap.Budget:
    """Return the budget: evaluations, or counted MACs where all runs shall spend alike."""
    return ap.Budget(macs=arguments.macs) if arguments.macs else ap.Budget(evaluations=arguments.evaluations)


def figures(run: ap.Run, problem: ap.Problem, epochs: float, seconds: float, *, polish: bool) -> dict[str, Any]:
    """Return what is printed of one run."""
    found: dict[str, Any] = {
        "strategy": run.meta.strategy,
        "evaluator": problem.evaluator.name,
        "evaluations": run.n_evaluations,
        "macs spent": run.spent.macs,
        "hypervolume": round(run.front.hypervolume, 4),
        "evaluations per second": round(run.n_evaluations / seconds, 3),
        "seconds": round(seconds, 1),
    }
    for share in SHARES:
        try:
            point = run.pick(max_macs=share)
        except InfeasibleError:
            found[share] = None
            continue
        row = {
            "macs": round(point.costs["macs"] / run.dense["macs"], 4),
            "proxy": round(point.metrics["accuracy"], 4),
            "test": point.test()["accuracy"],
        }
        if polish:
            row["test polished"] = problem.test(point.build(polish=True))["accuracy"]
        if epochs:
            model = point.build()
            settings = ap.FitSettings(epochs=epochs, learning_rate=0.02, batch_size=128)
            ap.fit(model, problem.data, problem.task, settings, seed=0)
            row["test after fine-tune"] = problem.test(model)["accuracy"]
        found[share] = row
    return found


def main() -> None:
    """Run every strategy and print one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="as for ap.load_data: cifar10, or npz:FOLDER")
    parser.add_argument("--weights", required=True, type=Path, help="safetensors of the trained network")
    parser.add_argument("--model", default="resnet20", help="a factory of searchspaces/models/resnet_cifar.py")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs")
    parser.add_argument("--strategies", nargs="+", default=["pymoo:nsga2", "optuna:tpe"])
    parser.add_argument("--evaluator", default="inherited")
    parser.add_argument("--criterion", default="l2")
    parser.add_argument("--locks", nargs="*", default=[])
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--macs", type=float, help="budget in counted MACs instead of evaluations")
    parser.add_argument("--calibration", type=int, default=500)
    parser.add_argument("--validation", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=0.0, help="of the fine-tune; 0 leaves it out")
    parser.add_argument("--polish", action="store_true", help="also polish the points (--evaluator reconstructed)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    problem = problem_of(arguments)
    for strategy in arguments.strategies:
        name = f"{arguments.evaluator}-{arguments.criterion}-{strategy.replace(':', '-')}-{arguments.seed}"
        started = time.monotonic()
        run = ap.search(
            problem,
            strategy,
            budget_of(arguments),
            store=arguments.out / name,
            cache=arguments.out / name / "evaluations.sqlite",
            seed=arguments.seed,
        )
        print(
            json.dumps(figures(run, problem, arguments.epochs, time.monotonic() - started, polish=arguments.polish)),
            flush=True,
        )


if __name__ == "__main__":
    main()
