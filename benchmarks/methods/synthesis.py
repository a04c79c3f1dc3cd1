"""Three generations of synthesis against uniform cuts at equal multiply-adds: `python benchmarks/methods/synthesis.py`.

A trained network has offspring at 70, 50 and 30 % of its multiply-adds: a ResNet on the digits, or with
``--given npz:FOLDER WEIGHTS`` the given ResNet-20 on CIFAR-10. All runs have the same number of trainings of the same
counted length; the twin cuts all groups to one share, the strongest channels of each, and trains without stress. Test
accuracy in % of the best network within every budget, in brackets its share of the multiply-adds. A minute of CPU per
seed on the digits.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import torch
from given import given

import autoprune as ap
from autoprune.searchspaces.models.resnet_digits import resnet_digits

TARGETS = (0.7, 0.5, 0.3)


def main() -> None:
    """Measure and print one line per run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--given", nargs=2, metavar=("DATA", "WEIGHTS"), help="CIFAR-10 and a trained ResNet-20")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--offspring", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=["uniform", "rehearsal", "decay", "none"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.given:
        model, data = given("resnet20", options.given[1], options.given[0])
    else:
        torch.manual_seed(0)
        model, data = resnet_digits(), ap.load_data("digits", val_size=0.25)
        ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=15, batch_size=64, learning_rate=0.05), seed=0)
    problem = ap.Problem(
        model.eval(),
        data=data,
        objectives=("accuracy", "macs"),
        evaluator="inherited",
        evaluation=ap.ProxySettings(n_calibration=500, n_validation=2000),
    )
    for seed in options.seeds:
        for kind in options.kinds:
            settings: dict[str, Any] = {"targets": TARGETS, "epochs": options.epochs, "offspring": options.offspring}
            if kind != "uniform":
                settings["preparation"] = {"stress": kind}
            strategy = "synthesis:uniform" if kind == "uniform" else "synthesis"
            with tempfile.TemporaryDirectory() as folder:
                run = ap.search(
                    problem, strategy, ap.Budget(evaluations=60), settings=settings, store=folder, seed=seed
                )
                cells = []
                for target in TARGETS:
                    point = run.pick(max_macs=f"{100 * target:g}%")
                    share = point.costs["macs"] / run.dense["macs"]
                    cells.append(f"{100 * point.test()['accuracy']:.1f} ({100 * share:.1f})")
            print(f"seed {seed}  {kind:10s} {' / '.join(cells)}  {run.spent.macs:.2e} MACs", flush=True)


if __name__ == "__main__":
    main()
