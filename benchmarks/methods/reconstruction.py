r"""Closed-form reconstruction on CIFAR-10: what it is worth before and after training, and how it ranks.

    python benchmarks/methods/reconstruction.py table --model resnet20 --data npz:FOLDER --weights FILE --out runs/rec \
        --evaluations 150 300
    python benchmarks/methods/reconstruction.py tau --model resnet20 --data npz:FOLDER --weights FILE --out runs/rec

``table``: searches (by pymoo:nsga2 unless told otherwise) once with inherited weights and once with reconstructed ones
(the longer search goes on from the shorter), picks the best point within 70, 50 and 30 % of the MACs by
search-validation accuracy and gives the test accuracy before any training, after the polish, and after the same
fine-tunes. ``tau``: structures of mixed and
similar cost, and of the fronts of those searches, scored by both evaluators and fine-tuned alike from the same plain
weights; Kendall's tau between the two, on search-validation images that no score has seen. Both go on where they were
interrupted; ``--show`` measures nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from cells import Cells
from given import given
from reconstruction_tau import show_tau, tau
from torch import nn

import autoprune as ap
from autoprune.errors import InfeasibleError
from autoprune.searchspaces.models import resnet_cifar
from autoprune.train.checkpoint import Checkpoint

SHARES = ("70%", "50%", "30%")


def problem_of(arguments: argparse.Namespace, evaluator: str, criterion: str) -> ap.Problem:
    """Build the problem: the given network, search-validation images split off the training set."""
    model, data = given(arguments.model, arguments.weights, arguments.data)
    return ap.Problem(
        model,
        data=data,
        evaluator=evaluator,
        criterion=criterion,
        locks=arguments.locks,
        evaluation=ap.ProxySettings(n_calibration=arguments.calibration, n_validation=arguments.validation),
        reference={"accuracy": 0.0},  # as the tables of docs/measured.md have it
        name=arguments.model,
    )


def fine_tuned(
    model: nn.Module, problem: ap.Problem, epochs: float, arguments: argparse.Namespace, name: str
) -> nn.Module:
    """Train ``model`` for epochs of ``--train-images`` images each; an interrupted training goes on."""
    passes = epochs * min(1.0, arguments.train_images / len(problem.data.train))
    checkpoint = Checkpoint(arguments.out / "checkpoints" / f"{arguments.model}-{name}", every=100)
    settings = ap.FitSettings(epochs=passes, learning_rate=0.02, batch_size=128)
    ap.fit(model, problem.data, problem.task, settings, checkpoint=checkpoint, seed=arguments.seed)
    checkpoint.path.unlink()
    return model


def picked(
    cells: Cells, problem: ap.Problem, folder: Path, variant: str, arguments: argparse.Namespace
) -> Iterator[tuple[int, str, int]]:
    """Search, and yield (evaluations, share, id of the best point within it)."""
    for evaluations in sorted(arguments.evaluations):
        cell = f"{variant} {evaluations} picks"
        if cells.get(cell) is None:
            run = ap.search(
                problem, arguments.strategy, ap.Budget(evaluations=evaluations), store=folder, seed=arguments.seed
            )
            cells(cell, lambda run=run: {share: _best(run, share) for share in SHARES})
        for share, id in cells(cell, dict).items():
            if id is not None:
                yield evaluations, share, id


def _best(run: ap.Run, share: str) -> int | None:
    try:
        return run.pick(max_macs=share).id
    except InfeasibleError:
        return None


def polished(point: ap.RunPoint, arguments: argparse.Namespace) -> nn.Module:
    """Polish a point once for all of its fine-tunes."""
    file = arguments.out / "polished" / f"{point.run.folder.name}-{point.id}.autoprune"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        point.save(file, point.build(polish=True))
    return ap.load(file, getattr(resnet_cifar, arguments.model)())


def table(cells: Cells, arguments: argparse.Namespace) -> None:
    """Measure the cells: first everything before training, then every fine-tune, the shorter ones first."""
    points = []
    for variant in arguments.variants:
        evaluator, criterion = variant.split(":")
        problem = problem_of(arguments, evaluator, criterion)
        folder = arguments.out / f"{arguments.model}-{evaluator}-{criterion}-{arguments.seed}"
        picks = list(picked(cells, problem, folder, variant, arguments))
        run = ap.open_run(folder, problem)
        for polish in (True, False) if evaluator == "reconstructed" else (False,):
            name = f"{variant}{'+polish' if polish else ''}"
            points += [(evaluations, name, share, run.point(id), polish) for evaluations, share, id in picks]
    cells("dense", lambda: points[0][3].run.problem.test(points[0][3].run.problem.model))
    for epochs in (0.0, *sorted(arguments.epochs)):
        for evaluations, name, share, point, polish in sorted(points, key=lambda item: -item[0]):

            def measured(
                point: ap.RunPoint = point,
                name: str = f"{name}-{evaluations}-{share}-{epochs:g}",
                epochs: float = epochs,
                polish: bool = polish,
            ) -> dict[str, Any]:
                problem = point.run.problem
                model = polished(point, arguments) if polish else point.build()
                if epochs:
                    model = fine_tuned(model, problem, epochs, arguments, name)
                share_of_macs = point.costs["macs"] / point.run.dense["macs"]
                test = problem.test(model)["accuracy"]
                return {"point": point.id, "macs": share_of_macs, "proxy": point.metrics["accuracy"], "test": test}

            same = [
                row for cell, row in cells.items() if cell.startswith(f"{name} ") and cell.endswith(f"% {epochs:g}")
            ]
            known = next((row for row in same if row["point"] == point.id), None)  # of another search
            row = cells(
                f"{name} {evaluations} {share} {epochs:g}", measured if known is None else lambda row=known: row
            )
            print(f"{name} {evaluations} {share} {epochs:g} epochs: {row}", flush=True)


def show_table(cells: Cells, arguments: argparse.Namespace) -> None:
    """Print the table of what has been measured."""
    print(
        f"{arguments.model}, {arguments.strategy}, seed {arguments.seed}; "
        f"an epoch is {arguments.train_images} images, batch 128"
    )
    print(f"test accuracy in %, dense: {100 * (cells.get('dense') or {}).get('accuracy', float('nan')):.2f}")
    names = list(arguments.variants)
    names += [f"{name}+polish" for name in names if name.startswith("reconstructed")]
    for evaluations in sorted(arguments.evaluations):
        for epochs in (0.0, *sorted(arguments.epochs)):
            for name in names:
                rows = [cells.get(f"{name} {evaluations} {share} {epochs:g}") for share in SHARES]
                text = " | ".join(
                    "-" if r is None else f"{100 * r['test']:.1f} ({100 * r['macs']:.1f} %)" for r in rows
                )
                print(f"{evaluations} evaluations, {epochs:g} epochs | {name:24s} | {text}")


def main() -> None:
    """Measure what is missing and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("table", "tau"))
    parser.add_argument("--data", required=True, help="as for ap.load_data: cifar10, or npz:FOLDER")
    parser.add_argument("--weights", required=True, type=Path, help="safetensors of the trained network")
    parser.add_argument("--model", default="resnet20", help="a factory of searchspaces/models/resnet_cifar.py")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs and of what was measured")
    parser.add_argument("--locks", nargs="*", default=[])
    parser.add_argument("--calibration", type=int, default=1000)
    parser.add_argument("--validation", type=int, default=2000)
    parser.add_argument("--train-images", type=int, default=45000, help="images of an epoch of the fine-tunes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print what has been measured, measure nothing")
    parser.add_argument("--evaluations", nargs="+", type=int, default=[150, 300], help="table: sizes of the searches")
    parser.add_argument("--strategy", default="pymoo:nsga2", help="table: of the searches; one folder holds one")
    parser.add_argument("--epochs", nargs="*", type=float, default=[1.0, 5.0], help="table: lengths of the fine-tunes")
    parser.add_argument("--variants", nargs="+", default=["inherited:l2", "reconstructed:obs"], help="table")
    parser.add_argument("--structures", type=int, default=16, help="tau: of mixed cost, and as many of similar cost")
    parser.add_argument("--criterion", default="obs", help="tau: the order of all structures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    common = ("model", "locks", "calibration", "validation", "train_images", "seed")
    settings = {name: getattr(arguments, name) for name in common}
    if arguments.what == "tau":
        settings |= {"structures": arguments.structures, "criterion": arguments.criterion}
        name = f"{arguments.model}-tau-{arguments.criterion}.jsonl"
    else:
        settings |= {"strategy": arguments.strategy}
        name = f"{arguments.model}-table.jsonl"
    cells = Cells(arguments.out / name, settings)
    if arguments.what == "tau":
        if not arguments.show:
            problem = problem_of(arguments, "inherited", arguments.criterion)
            tau(cells, problem, arguments, lambda model, name: fine_tuned(model, problem, 1.0, arguments, name))
        show_tau(cells)
        return
    if not arguments.show:
        table(cells, arguments)
    show_table(cells, arguments)


if __name__ == "__main__":
    main()
