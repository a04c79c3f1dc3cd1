"""What a cut takes after sparsity training: `python benchmarks/methods/regularizers.py --help`.

A network is trained, then trained on by `sparsify` with each regularizer given; its channels are ranked, it is cut to
shares of its multiply-adds, and the BatchNorm statistics are recomputed: accuracy with the weights as they are, and
with readers re-solved by least squares. Nothing is trained after the cut. Two minutes of CPU for the defaults, two
networks on the digits; ``--given DATA WEIGHTS`` takes the given ResNet-20 instead, trained on for an epoch of 10,000
images, and looks at the label-free front of what comes out: test accuracy, a minute of CPU per regularizer and seed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from given import given as given_network
from torch import nn

import autoprune as ap
from autoprune.core.jobs import Prepare
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.criteria.scoring import order, scores
from autoprune.evaluators import measure
from autoprune.prepare.recipe import Workbench
from autoprune.prepare.sparsify import Sparsify
from autoprune.prepare.statistics import dense_model
from autoprune.reconstruct import LeastSquares, collect, find_consumers
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights
from autoprune.testing.digits_network import digits_setup
from autoprune.testing.recipe_laws import MemoryBlobs
from autoprune.testing.regularizer_laws import stream_bench
from autoprune.trace import trace
from autoprune.train.job_setup import JobSetup
from autoprune.train.loop import fit
from autoprune.train.recalibrate import recalibrate
from autoprune.train.settings import FitSettings
from autoprune.train.tasks import Classification
from autoprune.weight_sets import WeightReader, put_weight_set

SHARES = (1.0, 0.7, 0.5, 0.3)
PROBES, N_TEST = 4, 5000
REGULARIZERS = (
    "none",
    "group_lasso:strength=0.2",
    "sparse_group_lasso:strength=0.01,coupling=100.0",
    "ccm:strength=1.0",
    "ffr:length=1.0,bend=1.0",
    "ffr:length=0.3,bend=0.0,variant='arc',scale_free=True",
)


def trained(setup: JobSetup) -> tuple[Workbench, Any]:
    """Return a bench with the trained network, ranked by `l2`, and its weights."""
    fit(setup.model, setup.data, setup.task, FitSettings(epochs=10, batch_size=64, learning_rate=0.1))
    return started(setup)


def resnet20(data: str, weights: str, n_images: int) -> JobSetup:
    """Return the given ResNet-20 and part of the data that it was trained on."""
    model, found = given_network("resnet20", weights, data)
    found = copy.copy(found)
    found.train = found.train.subset(n_images, 0)
    space = SearchSpace.build(trace(model, found.example_batch()[0]), levels=16)
    return JobSetup(model, space, CostModel(space.structure, space), found, Classification())


def started(setup: JobSetup) -> tuple[Workbench, Any]:
    """Return a bench with the network as it is, ranked by `l2`, and its weights."""
    blobs, structure = MemoryBlobs(), setup.structure
    ranked = order(scores("l2", setup.model.eval(), structure))
    return Workbench(setup, blobs), put_weight_set(blobs.put, structure, model_weights(setup.model, structure), ranked)


def sparsified(bench: Workbench, parent: Any, settings: dict[str, Any], seed: int) -> nn.Module:
    """Return the network after the training that ``settings`` say."""
    outcome = Sparsify(bench)(Prepare(0, "sparsify", settings, parent, seed))
    assert outcome.weight_set is not None
    made = WeightReader(bench.blobs, bench.setup.structure, "cpu")(outcome.weight_set)
    return dense_model(bench.setup, made.weights, torch.device("cpu")).eval()


def by_front(setup: JobSetup, model: nn.Module, seed: int) -> list[list[float]]:
    """Return test accuracy in % by share on the label-free front of ``model``: probes by distance, then a knapsack."""
    problem = ap.Problem(
        model,
        data=setup.data,
        objectives=("min:distance", "macs"),
        levels=10,
        evaluation=ap.ReconstructedSettings(n_validation=500, proxy_seed=seed),
        seed=seed,
    )
    targets = [problem.resolve_limits({"macs": f"{share:.0%}"}) for share in SHARES[1:]]
    probes = min(PROBES, int(problem.space.n_levels.min()) - 1)
    budget = 1 + probes * problem.space.n_variables + len(targets)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"probes": probes, "targets": targets}
        run = ap.search(problem, "knapsack", budget, settings=settings, store=folder, seed=seed, progress=False)
        networks = [model, *(run.pick(limits=target).build() for target in targets)]
    assert setup.data.test is not None
    test = setup.data.test.subset(N_TEST, 0)
    return [[100 * measure(network, test, setup.task)["accuracy"] for network in networks]]


def by_order(setup: JobSetup, model: nn.Module, criterion: str) -> list[list[float]]:
    """Return accuracy in % by share of ``model``, all groups cut alike: without and with re-solved readers."""
    structure, costs = setup.structure, setup.costs
    calibration = setup.data.train.subset(1000, 1).loader(100)
    measured = setup.data.validation.subset(2000, 0).loader(100)
    weights, consumers = model_weights(model, structure), find_consumers(model, structure)
    moments = collect(model, consumers, (images for images, _ in calibration))
    solver = LeastSquares(weights, consumers, moments, max_bytes=2**28)
    genomes = [
        setup.space.repair(setup.space.full_genome[None, :], costs, {"macs": int(setup.dense_macs * share)})
        for share in SHARES
    ]
    orders = order(scores(criterion, model, structure, batches=calibration, loss=setup.task.loss))
    rows: list[list[float]] = [[], []]
    for genome in genomes:
        kept = structure.kept_genes(orders, setup.space.widths(genome)[0])
        for row, more in zip(rows, ({}, solver(kept)), strict=True):
            small = cut(setup.model, structure, kept, {**weights, **more}).eval()
            recalibrate(small, calibration)
            row.append(100 * setup.task.metric(small, measured)["accuracy"])
    return rows


def main() -> None:
    """Measure and print one line per network, regularizer and criterion."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--regularizers", nargs="+", default=REGULARIZERS, help="name:key=value,... each")
    parser.add_argument("--criteria", nargs="+", default=["l2", "obs"], help="of the digits networks")
    parser.add_argument("--epochs", type=float, help="20 of the digits, 1 of --images; may be a fraction")
    parser.add_argument("--learning-rate", type=float, help="0.05 on the digits, 0.02 on the ResNet-20")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--given", nargs=2, metavar=("DATA", "WEIGHTS"), help="CIFAR-10 and a trained ResNet-20")
    parser.add_argument("--images", type=int, default=10_000, help="of CIFAR-10 that are trained on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shares = " / ".join(f"{share:.0%}" for share in SHARES)

    if options.given:
        print(f"test accuracy in % at {shares} of the multiply-adds, on the label-free front")
        benches = {"resnet20": started(resnet20(*options.given, options.images))}
        measures: dict[str, Callable[[JobSetup, nn.Module, int], list[list[float]]]] = {"front": by_front}
        epochs, rate = options.epochs or 1.0, options.learning_rate or 0.02
    else:
        print(f"accuracy in % at {shares} of the multiply-adds: weights as they are | readers re-solved")
        benches = {"chain": trained(digits_setup()), "stream": trained(stream_bench()[0].setup)}
        measures = {name: lambda setup, model, _, name=name: by_order(setup, model, name) for name in options.criteria}
        epochs, rate = options.epochs or 20.0, options.learning_rate or 0.05
    for network, (bench, parent) in benches.items():
        for text in options.regularizers:
            name, _, values = text.partition(":")
            if network == "chain" and name == "ffr":
                continue  # no two maps of one shape
            settings = {
                key: ast.literal_eval(value) for key, value in (item.split("=") for item in values.split(",") if item)
            }
            given = {"regularizer": name, "regularization": settings, "epochs": epochs, "learning_rate": rate}
            runs: dict[str, list[list[list[float]]]] = {how: [] for how in measures}
            for seed in options.seeds:
                model = sparsified(bench, parent, given, seed)
                for how, measured in measures.items():
                    runs[how].append(measured(bench.setup, model, seed))
            for how, found in runs.items():
                mean, spread = np.mean(found, axis=0), np.ptp(found, axis=0)
                rows = [" / ".join(f"{value:.1f}" for value in row) for row in mean]
                print(f"{network:9s}{text:56s}{how:8s}{'  |  '.join(rows)}  range {spread.max():.1f}", flush=True)


if __name__ == "__main__":
    main()
