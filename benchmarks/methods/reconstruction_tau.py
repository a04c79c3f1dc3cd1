"""Kendall's tau between what an evaluator says and the accuracy after a fine-tune; part of `reconstruction.py`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
from cells import Cells
from scipy.stats import kendalltau
from torch import nn

import autoprune as ap
from autoprune.core.feasible import sample
from autoprune.core.groups import IntArray
from autoprune.criteria.scoring import order, scores
from autoprune.evaluate.evaluator import Evaluator
from autoprune.evaluate.measure import measure
from autoprune.evaluate.registry import make_evaluator
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights
from autoprune.train.job_setup import JobSetup
from autoprune.weight_sets import Inherited

FloatArray = npt.NDArray[np.float64]

MIXED, SIMILAR = (0.3, 0.9), (0.45, 0.55)
"""Shares of the dense MACs; a tau over mixed cost is high for whatever grows with cost, so both are shown."""

EVALUATORS = ("inherited", "reconstructed")
BOOTSTRAPS = 2000
MIN_STRUCTURES = 4
TARGETS = {"tuned": "unseen search-validation images", "test": "test images"}


def tau(
    cells: Cells, problem: ap.Problem, arguments: argparse.Namespace, fine_tune: Callable[[nn.Module, str], nn.Module]
) -> None:
    """Score and fine-tune every structure: all from plain weights, all with the same channels first."""
    setup = JobSetup(problem.model, problem.space, problem.costs, problem.data, problem.task)
    batches = problem.data.train.subset(arguments.calibration, 0).loader(100, augment=True)
    ranked = order(
        scores(arguments.criterion, problem.model, problem.structure, batches=batches, loss=problem.task.loss)
    )
    inherited = Inherited(model_weights(problem.model, problem.structure), ranked)
    evaluators: dict[str, Evaluator] = {name: make_evaluator(name, setup, problem.evaluation) for name in EVALUATORS}
    validation = problem.data.validation
    scored = validation.subset(arguments.validation, problem.evaluation.proxy_seed).positions
    unseen = replace(validation, positions=np.setdiff1d(validation.positions, scored))

    kinds = {
        "mixed": _spread(setup, arguments.structures, arguments.seed),
        "similar": _within(setup, arguments.structures, arguments.seed),
        "front": _fronts(arguments),
    }
    turns = zip_longest(*([(kind, genome) for genome in genomes] for kind, genomes in kinds.items()))
    for kind, genome in filter(None, chain.from_iterable(turns)):

        def measured(genome: tuple[int, ...] = genome, kind: str = kind) -> dict[str, Any]:
            row: dict[str, Any] = {"kind": kind, "genome": genome, "macs": setup.macs(genome) / setup.dense_macs}
            row |= {name: evaluator.evaluate(genome, inherited) for name, evaluator in evaluators.items()}
            model = cut(problem.model, problem.structure, setup.kept(genome, inherited))
            tuned = fine_tune(model, "tau-" + "-".join(map(str, genome)))
            row["tuned"] = measure(tuned, unseen, problem.task, problem.evaluation)["accuracy"]
            row["test"] = problem.test(tuned)["accuracy"]
            return row

        row = cells(f"{kind} {genome}", measured)
        figures = {name: round(row[name]["accuracy"], 4) for name in EVALUATORS}
        print(f"{kind} {row['macs']:.3f} {figures} tuned {row['tuned']:.4f}", flush=True)


def _spread(setup: JobSetup, n: int, seed: int) -> list[tuple[int, ...]]:
    """Draw random structures whose cost is spread evenly over `MIXED`."""
    genomes, shares = _sampled(setup, seed)
    chosen = dict.fromkeys(tuple(genomes[np.abs(shares - wish).argmin()].tolist()) for wish in np.linspace(*MIXED, n))
    return list(chosen)


def _within(setup: JobSetup, n: int, seed: int) -> list[tuple[int, ...]]:
    """Draw random structures of a cost within `SIMILAR`."""
    genomes, shares = _sampled(setup, seed + 1)
    inside = genomes[(shares >= SIMILAR[0]) & (shares <= SIMILAR[1])]
    return list(dict.fromkeys(tuple(genome) for genome in inside.tolist()))[:n]


def _sampled(setup: JobSetup, seed: int) -> tuple[IntArray, FloatArray]:
    genomes = sample(setup.space, 4096, np.random.default_rng(seed), setup.costs, {})
    return genomes, setup.costs(genomes)["macs"] / setup.dense_macs


def _fronts(arguments: argparse.Namespace) -> list[tuple[int, ...]]:
    """Take points of the fronts that `reconstruction.py table` has found, evenly from each."""
    found: list[tuple[int, ...]] = []
    folders = sorted(arguments.out.glob(f"{arguments.model}-*-{arguments.seed}/run.sqlite"))
    for file in folders:
        run = ap.open_run(file.parent)
        points = [p for p in run.front if MIXED[0] <= p.costs["macs"] / run.dense["macs"] <= MIXED[1]]
        picks = np.linspace(0, len(points) - 1, min(len(points), arguments.structures // len(folders)))
        found += [points[round(pick)].genome for pick in picks]
    return list(dict.fromkeys(found))


def show_tau(cells: Cells) -> None:
    """Print tau per kind of structures and reading, with bootstrap intervals."""
    rows = [row for _, row in cells.items() if "tuned" in row]
    for kind in ("mixed", "similar", "front", "all"):
        chosen = [row for row in rows if kind in (row["kind"], "all")]
        if len(chosen) < MIN_STRUCTURES:
            continue
        for target in ("tuned", "test"):
            print(f"{kind}, {len(chosen)} structures, fine-tuned accuracy on {TARGETS[target]}: tau (95 % bootstrap)")
            for name, values in _readings(chosen):
                low, high = np.percentile(_bootstrap(values, chosen, target), (2.5, 97.5))
                print(f"  {name:24s} {_tau(values, _column(chosen, target)):6.3f} ({low:.2f} to {high:.2f})")


def _readings(rows: list[dict[str, Any]]) -> Iterator[tuple[str, FloatArray]]:
    for name in EVALUATORS:
        yield f"{name} accuracy", np.array([row[name]["accuracy"] for row in rows])
        yield f"{name} loss", -np.array([row[name]["loss"] for row in rows])
    yield "MACs alone", _column(rows, "macs")


def _column(rows: list[dict[str, Any]], name: str) -> FloatArray:
    return np.array([row[name] for row in rows], dtype=np.float64)


def _tau(values: FloatArray, target: FloatArray) -> float:
    return float(kendalltau(values, target).statistic)


def _bootstrap(values: FloatArray, rows: list[dict[str, Any]], target: str) -> list[float]:
    rng = np.random.default_rng(0)
    wanted = _column(rows, target)
    draws = rng.integers(len(rows), size=(BOOTSTRAPS, len(rows)))
    found = [_tau(values[draw], wanted[draw]) for draw in draws if len(set(draw.tolist())) > MIN_STRUCTURES // 2]
    return [value for value in found if np.isfinite(value)]
