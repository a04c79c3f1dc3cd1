"""A tiny search problem with a known answer: a chain of layers whose accuracy is a formula. Numpy only.

The error is a sum over the width variables, ``sum_v s_v (1 - r_v)^2`` with keep ratios ``r`` and sensitivities ``s``
that differ by two orders of magnitude: what random search spends everywhere, a method that learns spends where it
pays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from autoprune.core.budget import Spending
from autoprune.core.groups import FloatArray, IntArray, Structure
from autoprune.core.jobs import (
    Evaluate,
    Evaluation,
    Job,
    Outcome,
    Preparation,
    Prepare,
    Status,
    WeightSet,
    failed,
    job_to_json,
)
from autoprune.core.limits import resolve_limits
from autoprune.core.objectives import Objectives
from autoprune.core.protocols import Ranking, SearchSetup
from autoprune.core.space import SearchSpace
from autoprune.core.variables import WidthVariable
from autoprune.testing.structures import TermCosts, chain

TOY_WIDTHS = (8, 16, 16, 32, 32, 64)


def toy_space(widths: Sequence[int] = TOY_WIDTHS, levels: int = 8) -> SearchSpace:
    """Return the space of a chain of layers with these ``widths``, with at most ``levels`` choices for each."""
    return SearchSpace.build(chain(widths), levels=levels)


def single_genome_space() -> SearchSpace:
    """Return a space in which nothing can be chosen."""
    return SearchSpace(chain((8,)), (WidthVariable("fc0", (0,), (8,)),))


def toy_setup(
    space: SearchSpace | None = None,
    *,
    seed: int = 0,
    objectives: Sequence[str] = ("accuracy", "macs"),
    limits: Mapping[str, str | float] | None = None,
    evaluations: int | None = None,
) -> SearchSetup:
    """Return a fresh setup; ``limits`` as users write them."""
    space = space or toy_space()
    costs = TermCosts(space)
    setup = SearchSetup(
        space=space,
        objectives=Objectives.parse(objectives),
        costs=costs,
        limits=resolve_limits(limits or {}, space, costs),
        weight_set=WeightSet("weights", "order"),
        seed=np.random.SeedSequence(seed),
        rankings={"toy": Ranking(_scores(space.structure), WeightSet("weights", "toy-order"))},
        evaluations=evaluations,
    )
    return replace(setup, estimate=partial(toy_estimate, setup))


def toy_accuracy(space: SearchSpace, genomes: IntArray) -> FloatArray:
    """Return the (n,) accuracies of (n, d) ``genomes``: 0.95 for the dense model, 0.10 when nothing is kept."""
    sensitivities = np.array([10.0 ** ((7 * v) % 5 / 2) for v in range(space.n_variables)])
    errors = (1 - space.keep_ratios(genomes)) ** 2 @ (sensitivities / sensitivities.sum())
    return 0.95 - 0.85 * errors


def toy_outcome(setup: SearchSetup, job: Job) -> Outcome:
    """Run an Evaluate job on the formula; a Prepare job makes weights that are as good as all others."""
    if isinstance(job, Prepare):
        return _prepared(setup, job)
    genomes = np.array([job.candidate.genome], dtype=np.int64)
    costs = {name: int(values[0]) for name, values in setup.costs(genomes).items()}
    accuracy = float(toy_accuracy(setup.space, genomes)[0])
    spent = Spending(macs=costs["macs"], evaluations=1)
    return Evaluation(job, Status.OK, {"accuracy": accuracy}, costs, spent=spent)


def toy_estimate(setup: SearchSetup, job: Job) -> Spending:
    """Return what `toy_outcome` will charge: a genome its MACs, a preparation a hundred dense ones per epoch."""
    genomes = np.array([job.candidate.genome if isinstance(job, Evaluate) else setup.space.full_genome], dtype=np.int64)
    macs = int(setup.costs(genomes)["macs"][0])
    if isinstance(job, Evaluate):
        return Spending(macs=macs, evaluations=1)
    return Spending(macs=round(100 * macs * float(job.settings.get("epochs", 1))))


def _prepared(setup: SearchSetup, job: Prepare) -> Preparation:
    """Return new names of weights and a random genome, both decided by what the job is but for its id."""
    text = json.dumps({**job_to_json(job), "id": 0}, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    genome = setup.space.sample(1, np.random.default_rng(int(digest[:16], 16)), setup.costs, setup.limits)[0]
    weight_set = WeightSet(digest, digest[::-1])
    found = tuple(genome.tolist())
    return Preparation(job, Status.OK, spent=toy_estimate(setup, job), weight_set=weight_set, found_genome=found)


def failed_outcome(job: Job) -> Outcome:
    """Return the outcome of ``job`` when its worker fails."""
    return failed(job, "RuntimeError: the toy fails on purpose")


def _scores(structure: Structure) -> tuple[FloatArray, ...]:
    """Return scores that fall within every group and differ between groups."""
    return tuple(
        np.linspace(1.0, 0.0, group.width, endpoint=False) * (1 + i % 3) for i, group in enumerate(structure.groups)
    )
