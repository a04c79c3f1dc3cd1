"""Structures written by hand, small enough to check on paper, and a cost counter that needs no cost model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from autoprune.core.groups import Axis, ChannelGroup, Count, IntArray, Operator, Pin, Structure, TensorInfo
from autoprune.core.space import SearchSpace
from autoprune.core.terms import cost_terms


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
