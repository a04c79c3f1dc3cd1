r"""What widths are worth: of equal ones, the knapsack's and DAIS's, on the same dense weights, trained alike.

    python benchmarks/methods/structures.py --data FOLDER --trained runs/e0 --out runs/structures --share 0.3
    python benchmarks/methods/structures.py --data FOLDER --trained runs/e0 --out runs/structures --share 0.5

The network is that of `held_out.py` (E0), on 10,000 of its training images. Every structure is found within a share of
the multiply-adds, cut from the dense weights with its readers re-solved, polished, and trained by `ap.finetune` for the
same multiply-adds (three epochs at 30 %). Test accuracy on 6,000 images, as found and trained. Killed, it goes on.

Structures: ``uniform`` (the twin of DAIS, for as good as no training), ``knapsack`` (100 evaluations by distance), and
``dais-WEIGHTS-MACS``, with ``@BATCH`` where it is not 64 and ``/SEED`` where it is not 0: a search in ``frozen`` or
in ``trained`` weights for so many.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cells import Cells
from held_out import held_out_data, held_out_network

import autoprune as ap
from autoprune.evaluators import measure

STRUCTURES = ("uniform", "knapsack", "dais-frozen-6e11", "dais-frozen-9e11", "dais-frozen-1.3e12")
STRUCTURES += ("dais-frozen-1.3e12/1", "dais-trained-1.3e12")
EPOCHS = 3 * 0.3  # times the multiply-adds of the dense network


def found(problem: ap.Problem, name: str, share: float, out: Path) -> ap.Run:
    """Return the run that found a structure within a share of the multiply-adds."""
    method, _, seed = name.partition("/")
    search = partial(ap.search, problem, prepare="none", warm_start="none", store=out, seed=int(seed or 0))
    if method == "knapsack":
        return search("knapsack", 100)
    settings: dict[str, Any] = {"targets": (share,), "share": 0.95, "min_epochs": 0.001, "epochs": 20}
    if method == "uniform":
        return search("dais:frozen", ap.Budget(macs=4.5e11), settings={**settings, "preparation": {"tune_share": 0.9}})
    method, _, batch = method.partition("@")
    _, weights, macs = method.split("-")
    settings["preparation"] = {"weights": weights, "tune_share": 0.1, "batch_size": int(batch or 64)}
    return search("dais", ap.Budget(macs=float(macs)), settings=settings)


def measured(problem: ap.Problem, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Find a structure, train it from the dense weights; return its widths and test accuracies."""
    share = arguments.share
    run = found(problem, name, share, arguments.out / f"{share:g}-{name.replace('/', '-')}")
    point = run.pick(max_macs=f"{100 * share:g}%")
    test = problem.data.test.subset(6000, 0)
    tuned = ap.finetune(
        run,
        [point],
        EPOCHS / share,
        settings=ap.FitSettings(batch_size=64, learning_rate=0.02),
        weights="dense",
        test=False,
    )
    as_found, trained = (measure(m, test, problem.task)["accuracy"] for m in (point.build(), tuned[0].build()))
    return {"levels": point.genome, "macs": point.costs["macs"], "as found": as_found, "trained": trained}


def main() -> None:
    """Measure what is missing and print a row for every structure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trained", type=Path, required=True, help="folder of the held-out network")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.3, help="of the dense network's multiply-adds")
    parser.add_argument("--structures", nargs="+", default=list(STRUCTURES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, _ = held_out_data(arguments.data, 10_000)
    evaluation = {"n_calibration": 500, "n_validation": 1000}
    problem = ap.Problem(
        held_out_network(arguments.trained), data=data, evaluator="reconstructed", evaluation=evaluation
    )
    cells = Cells(arguments.out / f"{arguments.share:g}.jsonl", {"share": arguments.share})
    print("| structure | levels | MACs | as found | trained |\n|---|---|--:|--:|--:|")
    for name in arguments.structures:
        row = cells(name, partial(measured, problem, name, arguments))
        figures = f"{100 * row['as found']:.1f} | {100 * row['trained']:.1f}"
        print(f"| `{name}` | {' '.join(map(str, row['levels']))} | {row['macs']:,} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
