"""Three generations of synthesis against uniform cuts at equal multiply-adds: `python benchmarks/methods/synthesis.py`.

The given ResNet-20 on CIFAR-10 has offspring at 70, 50 and 30 % of its multiply-adds. Each kind of run gets the same
number of trainings of the same counted length in a row: the twin cuts all groups to one share of the channels that are
strongest, and trains as long without stress. Test accuracy in % of the best network of every generation.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from given import given

import autoprune as ap

TARGETS = (0.7, 0.5, 0.3)


def main() -> None:
    """Measure and print one line per run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="as for ap.load_data: cifar10, or npz:FOLDER")
    parser.add_argument("weights", help="safetensors of the trained ResNet-20")
    parser.add_argument("--epochs", type=float, default=0.5)
    parser.add_argument("--offspring", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--stress", nargs="+", default=["rehearsal", "decay", "none"])
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, data = given("resnet20", options.weights, options.data)
    problem = ap.Problem(
        model,
        data=data,
        objectives=("accuracy", "macs"),
        evaluator="inherited",
        evaluation=ap.ProxySettings(n_calibration=500, n_validation=2000),
    )
    runs = [("synthesis:uniform", 1, "none")]
    runs += [("synthesis", n, stress) for n in options.offspring for stress in options.stress]
    for seed in range(options.seeds):
        for strategy, n, stress in runs:
            settings = {"targets": TARGETS, "epochs": options.epochs, "offspring": n, "preparation": {"stress": stress}}
            with tempfile.TemporaryDirectory() as folder:
                run = ap.search(
                    problem, strategy, ap.Budget(evaluations=60), settings=settings, store=folder, seed=seed
                )
                cells = []
                for target in TARGETS:
                    point = run.pick(max_macs=f"{100 * target:g}%")
                    share = point.costs["macs"] / run.dense["macs"]
                    cells.append(f"{100 * point.test()['accuracy']:.1f} ({100 * share:.1f})")
                print(
                    f"{strategy:18s} {n} {stress:10s} seed {seed}  {' / '.join(cells)}  {run.spent.macs:.2e}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
