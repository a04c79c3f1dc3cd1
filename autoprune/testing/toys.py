"""A tiny search problem with a known answer: a chain of layers whose accuracy is a formula. Numpy only.

Its structure is written by hand, small enough to check on paper, and its costs need no cost model.

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
from itertools import pairwise

import numpy as np

from autoprune.core.budget import Spending
from autoprune.core.groups import Axis, ChannelGroup, Count, FloatArray, IntArray, Operator, Pin, Structure, TensorInfo
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
from autoprune.core.terms import cost_terms
from autoprune.core.variables import WidthVariable


def chain(widths: Sequence[int] = (8, 16, 8), *, positions: int = 10, inputs: int = 3, classes: int = 5) -> Structure:
    """Linear layers ``fc0 .. fcN`` over ``positions`` positions: every hidden width is a group, the last is pinned."""
    sizes = [inputs, *widths, classes]
    starts = np.cumsum([0, *widths])
    axes: list[Axis] = []
    tensors: list[TensorInfo] = []
    operators: list[Operator] = []
    members: list[list[tuple[str, int, str, int]]] = [[] for _ in widths]
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        weight, bias = f"fc{i}.weight", f"fc{i}.bias"
        tensors += [
            TensorInfo(weight, (n_out, n_in), "parameter", (weight,)),
            TensorInfo(bias, (n_out,), "parameter", (bias,)),
        ]
        factors = []
        constant = positions
        if i < len(widths):
            genes = np.arange(starts[i], starts[i + 1])
            axes += [Axis(weight, 0, genes), Axis(bias, 0, genes)]
            members[i] += [(weight, 0, "out", 1), (bias, 0, "out", 1)]
            factors.append(Count(0, ((i, 1),)))
        else:
            constant *= n_out
        if i > 0:
            axes.append(Axis(weight, 1, np.arange(starts[i - 1], starts[i])))
            members[i - 1].append((weight, 1, "in", 1))
            factors.append(Count(0, ((i - 1, 1),)))
        else:
            constant *= n_in
        operators.append(Operator(f"fc{i}", "linear", constant, tuple(factors)))
    groups = tuple(ChannelGroup(f"fc{i}", int(starts[i]), width, tuple(members[i])) for i, width in enumerate(widths))
    return Structure(
        groups=groups,
        axes=tuple(axes),
        tensors=tuple(tensors),
        operators=tuple(operators),
        pins=(Pin(f"fc{len(widths)}", "it makes the output of the model", "net.py:12"),),
        layers=tuple((f"fc{i}", size) for i, size in enumerate(sizes[1:])),
        example="(10, 3)",
    )


class TermCosts:
    """MACs and parameters summed term by term: slow, plain, independent of the cost model."""

    names = ("macs", "params")

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._terms = cost_terms(space.structure)

    def __call__(self, genomes: IntArray) -> dict[str, IntArray]:
        """Return (n,) int64 per cost of (n, d) ``genomes``."""
        widths = self._space.widths(genomes)
        return {name: np.sum([term.at(widths) for term in terms], axis=0) for name, terms in self._terms.items()}


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
