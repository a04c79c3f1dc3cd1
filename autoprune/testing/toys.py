"""A tiny search problem with a known answer: a chain of convolutions whose accuracy is a formula. Numpy only.

The error is a sum over the width variables, ``sum_v s_v (1 - r_v)^2`` with keep ratios ``r`` and sensitivities ``s``
that differ by two orders of magnitude: what random search spends everywhere, a method that learns spends where it
pays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from autoprune.core.budget import Spending
from autoprune.core.groups import Axis, ChannelGroup, Count, IntArray, Operator, Structure, TensorInfo
from autoprune.core.jobs import Evaluate, Job, Outcome, Status, WeightSet
from autoprune.core.limits import resolve_limits
from autoprune.core.objectives import Objectives
from autoprune.core.protocols import Ranking, SearchSetup
from autoprune.core.space import SearchSpace
from autoprune.core.variables import WidthVariable
from autoprune.cost.model import CostModel

TOY_WIDTHS = (8, 16, 16, 32, 32, 64)
_PIXELS = 64
_INPUT_CHANNELS, _CLASSES = 3, 10


def toy_structure(widths: Sequence[int] = TOY_WIDTHS) -> Structure:
    """Return a chain of 3 x 3 convolutions with these widths, and a linear classifier behind it."""
    names = [f"conv{i}" for i in range(len(widths))] + ["classifier"]
    starts = np.cumsum([0, *widths]).tolist()
    groups = tuple(
        ChannelGroup(
            names[i],
            starts[i],
            width,
            ((f"{names[i]}.weight", 0, "out", 1), (f"{names[i + 1]}.weight", 1, "in", 1)),
        )
        for i, width in enumerate(widths)
    )
    axes = tuple(Axis(tensor, dim, group.genes) for group in groups for tensor, dim, _, _ in group.axes)
    sizes = [_INPUT_CHANNELS, *widths, _CLASSES]
    shapes = [(sizes[i + 1], sizes[i], 3, 3) for i in range(len(widths))] + [(_CLASSES, widths[-1])]
    tensors = tuple(
        TensorInfo(f"{name}.weight", shape, "parameter", (f"{name}.weight",))
        for name, shape in zip(names, shapes, strict=True)
    )
    counts = [Count(_INPUT_CHANNELS), *(Count(0, ((i, 1),)) for i in range(len(widths))), Count(_CLASSES)]
    operators = tuple(
        Operator(name, "linear", 1, tuple(counts[i : i + 2]))
        if name == "classifier"
        else Operator(name, "conv", 9 * _PIXELS, tuple(counts[i : i + 2]))
        for i, name in enumerate(names)
    )
    layers = tuple(zip(names, (*widths, _CLASSES), strict=True))
    return Structure(groups, axes, tensors, operators=operators, layers=layers)


def toy_space(widths: Sequence[int] = TOY_WIDTHS, levels: int = 8) -> SearchSpace:
    """Return the space of `toy_structure` with ``levels`` widths per variable."""
    return SearchSpace.build(toy_structure(widths), levels=levels)


def single_genome_space() -> SearchSpace:
    """Return a space in which nothing can be chosen."""
    return SearchSpace(toy_structure((8,)), (WidthVariable("conv0", (0,), (8,)),))


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
    costs = CostModel(space.structure, space)
    return SearchSetup(
        space=space,
        objectives=Objectives.parse(objectives),
        costs=costs,
        limits=resolve_limits(limits or {}, space, costs),
        weight_set=WeightSet("weights", "order"),
        seed=np.random.SeedSequence(seed),
        rankings={"toy": Ranking(_scores(space.structure), WeightSet("weights", "toy-order"))},
        evaluations=evaluations,
    )


def toy_accuracy(space: SearchSpace, genomes: IntArray) -> npt.NDArray[np.float64]:
    """Return the (n,) accuracies of (n, d) ``genomes``: 0.95 for the dense model, 0.10 when nothing is kept."""
    sensitivities = np.array([10.0 ** ((7 * v) % 5 / 2) for v in range(space.n_variables)])
    errors = (1 - space.keep_ratios(genomes)) ** 2 @ (sensitivities / sensitivities.sum())
    return 0.95 - 0.85 * errors


def toy_outcome(setup: SearchSetup, job: Job) -> Outcome:
    """Run an Evaluate job on the formula."""
    if not isinstance(job, Evaluate):
        msg = f"the toy problem can only evaluate, got {job}"
        raise TypeError(msg)
    genomes = np.array([job.candidate.genome], dtype=np.int64)
    costs = {name: int(values[0]) for name, values in setup.costs(genomes).items()}
    accuracy = float(toy_accuracy(setup.space, genomes)[0])
    spent = Spending(macs=costs["macs"], evaluations=1)
    return Outcome(job, Status.OK, {"accuracy": accuracy}, costs, spent=spent)


def failed_outcome(job: Job) -> Outcome:
    """Return the outcome of ``job`` when its worker fails."""
    return Outcome(job, Status.FAILED, message="RuntimeError: the toy fails on purpose")


def _scores(structure: Structure) -> tuple[npt.NDArray[np.float64], ...]:
    """Return scores that fall within every group and differ between groups."""
    return tuple(
        np.linspace(1.0, 0.0, group.width, endpoint=False) * (1 + i % 3) for i, group in enumerate(structure.groups)
    )
