"""Peak activation bytes in closed form: which storages live when, and how each of them grows with the widths.

The model is run at several random widths under the recorder that also defines the figure. Which operators run, and
which storages live when, must be the same each time. Every dimension of a storage that differs between the runs is
matched with a count that the trace found (the channels of some layer or of several in a row, the heads of an
attention, ...), of which it may be a multiple, plus a constant. Small groups make counts hard to tell apart, so there
are as many runs as it takes; and the finished profile must give the recorded peak at further random widths, to the
byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch import nn

from autoprune.core.groups import Axis, BoolArray, Count, IntArray, Structure
from autoprune.core.space import SearchSpace
from autoprune.core.streams import stream
from autoprune.core.terms import Term
from autoprune.cost.model import PeakProfile
from autoprune.cost.observation import ActivationStorage, StorageRecorder, observe
from autoprune.cost.samples import find_samples
from autoprune.errors import TraceError
from autoprune.surgery.matching import model_weights
from autoprune.surgery.skeleton import Skeleton

MIN_RUNS = 4
MAX_RUNS = 16
"""Random widths to fit at; more than the minimum only where small groups make counts hard to tell apart."""

CHECKS = 2
"""Further random widths at which the finished profile is compared with the recorder."""


def profile_peak(
    model: nn.Module, structure: Structure, example_input: Any, *, space: SearchSpace | None = None, seed: int = 0
) -> PeakProfile:
    """Profile the activation storages of ``model``.

    Runs the model about seven times on one sample; for the definition of the figure see `cost.counter`.

    Args:
        model: the traced model; not changed.
        structure: the traced structure of the model.
        example_input: the example input that was traced; only its first sample is used.
        space: the widths that will be asked about; all widths by default. Attention cut to one head, for instance,
            runs other operators than attention with several, and has a closed form only without that width.
        seed: seed for the random widths.

    Raises:
        TraceError: the storages do not follow the widths (an operator allocates by other rules, or the model runs
            other operators at other widths), so that peak bytes cannot be an objective or a limit.
        NothingPrunableError: there is no width to vary.
    """
    rng = stream(seed, "cost.peak")
    space = space or SearchSpace.build(structure, levels=None, min_keep_ratio=0)
    counts = _counts(structure)
    widths = _telling_widths(space, counts, rng)
    checked = rng.integers(0, space.n_levels, size=(CHECKS, space.n_variables))
    checked[0] = np.maximum(checked[0], space.least_levels)
    checked[-1] = np.where(space.least_levels, 0, checked[-1])
    checks = space.widths(checked)

    skeleton = Skeleton(model, structure)
    weights = model_weights(model, structure)
    dense = skeleton.build(weights, np.ones(structure.n_genes, dtype=np.bool_))
    sample = find_samples(dense, example_input).take(1)
    orders = [np.arange(group.width) for group in structure.groups]

    def record(row: IntArray) -> StorageRecorder:
        recorder = StorageRecorder([sample])
        observe(skeleton.build(weights, structure.kept_genes(orders, row)), sample, recorder)
        return recorder

    runs = [record(row) for row in widths]
    live = _common_life(runs)
    profile = PeakProfile(_fit(runs, counts, widths), live)
    recorded = [_peak(record(row)) for row in checks]
    if profile.at(checks).tolist() != recorded:
        msg = f"expected {recorded} peak bytes at random widths, the profile gives {profile.at(checks).tolist()}"
        raise TraceError(_advice(msg))
    return profile


def _counts(structure: Structure) -> list[Count]:
    """Return everything that the trace found to depend on widths, simplest first."""
    found = [Count(0, ((i, 1),)) for i in range(len(structure.groups))]
    found += [structure.count(axis) for axis in structure.axes]
    found += [factor for operator in structure.operators for factor in operator.factors]
    found += [count for attribute in structure.attributes for count in attribute.value]
    found += [part for axis in structure.axes for part in _parts(structure, axis)]
    return [count for count in dict.fromkeys(found) if count.terms]


def _parts(structure: Structure, axis: Axis) -> Iterator[Count]:
    """Yield what concatenations of neighbors along ``axis`` add up to, where it consists of whole groups in a row.

    A concatenation of concatenations allocates inner ones that no layer consumes as they are.
    """
    genes = axis.genes[axis.genes >= 0]
    owners = structure.group_of[genes]
    edges = np.flatnonzero(np.diff(owners, prepend=-1, append=-1))
    runs = [(int(owners[start]), int(stop - start)) for start, stop in pairwise(edges)]
    if any(length % structure.groups[group].width for group, length in runs):
        return
    for first in range(len(runs)):
        terms: dict[int, int] = {}
        for group, length in runs[first:]:
            terms[group] = terms.get(group, 0) + length // structure.groups[group].width
            yield Count(0, tuple(sorted(terms.items())))


def _telling_widths(space: SearchSpace, counts: Sequence[Count], rng: np.random.Generator) -> IntArray:
    """Return (runs, g) widths, the dense ones first, at which different counts change differently if possible."""
    genomes = rng.integers(space.least_levels, space.n_levels, size=(MAX_RUNS, space.n_variables))
    widths = space.widths(np.vstack([space.full_genome[None, :], genomes]))
    n_distinct = len({_direction(count.at(widths)) for count in counts})
    for n in range(MIN_RUNS, MAX_RUNS):
        if len({_direction(count.at(widths[: n + 1])) for count in counts}) == n_distinct:
            return widths[: n + 1]
    return widths


def _direction(values: IntArray) -> tuple[int, ...]:
    """Return how ``values`` change from the first one, up to a common factor; all zero when they do not."""
    change = values - values[0]
    return tuple((change // max(1, int(np.gcd.reduce(change)))).tolist())


def _fit(runs: Sequence[StorageRecorder], counts: Iterable[Count], widths: IntArray) -> tuple[Term, ...]:
    """Return the size of every storage as a product of counts."""
    known: dict[tuple[int, ...], Count] = {}
    # of counts that change in proportion (a stream and its heads), the finest: the others are multiples of it
    for known_count in sorted(counts, key=lambda count: int(np.ptp(count.at(widths)))):
        known.setdefault(_direction(known_count.at(widths)), known_count)
    sizes = []
    for same in zip(*(run.storages for run in runs), strict=True):
        weight = same[0].itemsize
        factors: list[Count] = []
        for dimension in _dimensions(same):
            count = _match(dimension, known, widths)
            if count is None:
                sizes_seen = ", ".join(str(size) for size in dimension)
                msg = f"a dimension of what {same[0].operator} allocates took sizes {sizes_seen}, unlike any layer's"
                raise TraceError(_advice(msg))
            if count.terms:
                factors.append(count)
            else:
                weight *= count.constant
        sizes.append(Term(same[0].operator, weight, tuple(factors)))
    return tuple(sizes)


def _dimensions(same: Sequence[ActivationStorage]) -> IntArray:
    """Return the (dims, runs) sizes of one storage; its elements as the only dimension where the shape is not it."""
    shapes = [storage.shape for storage in same]
    elements = [storage.nbytes // storage.itemsize for storage in same]
    if [int(np.prod(shape)) for shape in shapes] == elements and len({len(shape) for shape in shapes}) == 1:
        return np.array(shapes, dtype=np.int64).T
    return np.array([elements], dtype=np.int64)


def _match(sizes: IntArray, known: dict[tuple[int, ...], Count], widths: IntArray) -> Count | None:
    """Return the count that gives ``sizes`` at ``widths``: a multiple of a known one plus a constant."""
    change = sizes - sizes[0]
    if not change.any():
        return Count(int(sizes[0]))
    count = known.get(_direction(sizes))
    if count is None:
        return None
    moved = int(np.flatnonzero(change)[0])
    values = count.at(widths)
    numerator, denominator = int(change[moved]), int(values[moved] - values[0])
    terms = []
    for group, coefficient in count.terms:
        scaled, rest = divmod(coefficient * numerator, denominator)
        if rest:
            return None
        terms.append((group, scaled))
    constant = int(sizes[0] - Count(0, tuple(terms)).at(widths[:1])[0])
    return Count(constant, tuple(terms)) if constant >= 0 else None


def _common_life(runs: Sequence[StorageRecorder]) -> BoolArray:
    """Return which storages live when, which must be the same in all runs."""
    lives = [
        [(storage.operator, storage.itemsize, storage.born, storage.died) for storage in run.storages] for run in runs
    ]
    if any(life != lives[0] or run.n_boundaries != runs[0].n_boundaries for life, run in zip(lives, runs, strict=True)):
        msg = "the model runs other operators, or keeps storages for another time, at other widths"
        raise TraceError(_advice(msg))
    return runs[0].live()


def _peak(run: StorageRecorder) -> int:
    return int((run.live() @ np.array([storage.nbytes for storage in run.storages], dtype=np.int64)).max(initial=0))


def _advice(problem: str) -> str:
    return (
        f"peak bytes of this model have no closed form: {problem}; "
        "leave peak_bytes out of objectives and limits, or raise min_width"
    )
