r"""How a network that was cut is best trained for a while: by labels, by the dense network's outputs, or by both.

    python benchmarks/methods/training.py digits --out runs/training  # trained here, seconds
    python benchmarks/methods/training.py vit --out runs/training
    python benchmarks/methods/training.py lstm --out runs/training
    python benchmarks/methods/training.py mobilenet --weights FILE --out runs/training
    python benchmarks/methods/training.py resnet20 --data npz:CIFAR10 --weights FILE --out runs/training
    python benchmarks/methods/training.py held-out --data FOLDER --trained runs/e0 --out runs/training

The networks are those of `ap.prune`, polished. Every way has the same multiply-adds, those of so many epochs of the
smaller network by labels; a teacher's forward passes are counted. Ways are OBJECTIVE:OPTIMIZER:LEARNING_RATE, the
objective ``task``, ``kl`` or ``mse`` (squared errors of logits) and the share of the teacher, the rate ``found``
where it is tried. Accuracy on search-validation images, by which defaults may be chosen, and on test images, means
over seeds. Killed, it goes on.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from cells import Cells
from families import network
from first_front import NETWORKS
from today import Rows, handwritten, train
from torch import nn

import autoprune as ap
from autoprune.cost.counter import count_macs
from autoprune.errors import MetricError
from autoprune.evaluators import measure
from autoprune.surgery.copying import copy_model
from autoprune.train.distill import Distillation

WAYS = (
    "task0:sgd:0.02",
    "task0:adamw:0.001",
    "task0:adamw:0.003",
    "kl0.5:sgd:0.02",
    "kl0.5:adamw:0.001",
    "kl0.5:adamw:0.003",
    "mse0.5:adamw:0.001",
    "mse0.5:adamw:0.003",
    "mse1:adamw:0.001",
    "mse1:adamw:0.003",
    "task0:adamw:found",
    "kl0.5:adamw:found",
    "mse1:adamw:found",
)


class Squares(ap.Classification):
    """Classification whose logits are distilled by squared errors."""

    class_axis = None


def lstm(_: argparse.Namespace) -> tuple[nn.Module, ap.Data]:
    """Return the LSTM of today.py, which learns the digits here."""
    torch.manual_seed(0)
    model, data = Rows(), handwritten((-1, 8, 8))
    train(model, data, 30, 0)
    return model, data


def pruned(arguments: argparse.Namespace) -> tuple[nn.Module, ap.Data, dict[str, nn.Module]]:
    """Return the dense network, its data, and a polished network for every share."""
    name = arguments.network
    if name in ("digits", "held-out"):
        model, data, _ = network(arguments)
    else:
        model, data = {**NETWORKS, "lstm": lstm}[name](arguments)
    limits = [f"{100 * share:g}%" for share in arguments.shares]
    found = ap.prune(model.eval(), data, [{"macs": limit} for limit in limits], progress=False)
    return model, data, {limit: point.model for limit, point in zip(limits, found, strict=True)}


def figures(model: nn.Module, data: ap.Data, n: int) -> dict[str, float]:
    """Return the accuracies of a network."""
    parts = {"validation": data.score.subset(n, 0), "test": data.test.subset(n, 0)}
    return {role: measure(model.eval(), part, ap.Classification())["accuracy"] for role, part in parts.items()}


def trained(
    small: nn.Module, dense: nn.Module, data: ap.Data, way: str, epochs: float, seed: int, n: int
) -> dict[str, Any]:
    """Train a copy in one way; return its accuracies."""
    objective, optimizer, rate = way.split(":")
    weight = float(objective.strip(ascii_lowercase))
    example = data.example_batch()[0]
    own, other = count_macs(small, example), count_macs(dense, example) if weight else 0
    batch = min(64, len(data.train))
    steps = max(1, int(epochs * len(data.train) * 3 * own / (batch * (3 * own + other))))
    settings = ap.FitSettings(
        steps=steps,
        batch_size=batch,
        optimizer=optimizer,
        learning_rate=None if rate == "found" else float(rate),
        weight_decay=5e-4 if optimizer == "sgd" else 0.0,
        distillation=Distillation(weight=weight) if weight else None,
    )
    model, task = copy_model(small), Squares() if objective.startswith("mse") else ap.Classification()
    try:
        result = ap.fit(model, data, task, settings, teacher=dense if weight else None, seed=seed)
        return {"steps": steps, "rate": result.learning_rate, **figures(model, data, n)}
    except MetricError:  # it diverged
        return {"steps": steps, "rate": None, "validation": 0.0, "test": 0.0}


def main() -> None:
    """Measure what is missing and print a row for every way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=[*NETWORKS, "digits", "held-out", "lstm"])
    parser.add_argument("--data")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--trained", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.3])
    parser.add_argument("--epochs", type=float, nargs="+", default=[1.0], help="of the smaller network by labels")
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--items", type=int, default=5000, help="of either role at most that accuracies are of")
    parser.add_argument("--train", type=int, default=None, help="training images; all by default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dense, data, smalls = pruned(arguments)
    settings = {"items": arguments.items, "train": arguments.train}
    cells = Cells(arguments.out / f"{arguments.network}.jsonl", settings)
    print(f"{arguments.network}, dense: {figures(dense, data, arguments.items)}", flush=True)
    for limit, small in smalls.items():
        print(f"{limit}, polished: {figures(small, data, arguments.items)}", flush=True)
    print("| share | epochs | way | steps | validation | test |\n|---|---|---|--:|---|---|")
    for epochs in arguments.epochs:
        for limit, small in smalls.items():
            for way in arguments.ways:
                rows = [
                    cells(
                        f"{limit} {epochs:g} {way} {seed}",
                        partial(trained, small, dense, data, way, epochs, seed, arguments.items),
                    )
                    for seed in range(arguments.seeds)
                ]
                means = " | ".join(
                    f"{100 * sum(row[role] for row in rows) / len(rows):.1f}" for role in ("validation", "test")
                )
                print(f"| {limit} | {epochs:g} | `{way}` | {rows[0]['steps']} | {means} |", flush=True)


if __name__ == "__main__":
    main()
