"""The checks of a validation: cut models against masked ones, layer by layer, and what would go unnoticed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.core.groups import BoolArray, Structure
from autoprune.core.space import SearchSpace
from autoprune.cost.samples import Samples
from autoprune.surgery.forward import tensors_in
from autoprune.surgery.precision import is_inexact, single
from autoprune.trace.idle import idle_layers, redraw_input
from autoprune.trace.validation.bench import FAILS, Bench, cast
from autoprune.trace.validation.probes import ProbedRun
from autoprune.trace.validation.shuffles import Key, ShuffleEffects, needed, shuffled
from autoprune.trace.validation.units import (
    N_RANDOM,
    SMALLEST,
    Check,
    Problem,
    Unit,
    bisect,
    gentle_genome,
    random_genome,
    units_of,
)

_DROPPED = N_RANDOM + 1
_EXACT = 0  # number of the genome that is always compared in double precision
_ATTEMPTS = 6

_LARGER = " (on larger images than the example's)"
_UNVERIFIABLE = "has channels whose order does not influence the output, so that no check can tell them"
_UNREACHED = "takes no part in what the model computes from the example input; give one that reaches it, to check a cut"
_WAYS_OUT: tuple[tuple[Callable[[int], bool], str], ...] = (
    (
        lambda width: width > 1,
        "only width 1 is the trouble: where a `squeeze()` drops it write `flatten(1)` instead, or pass `min_width=2`",
    ),
    (lambda width: width % 2 == 0, "it can be cut to even widths: pass `divisor=2`"),
    (lambda width: width % 4 == 0, "it can be cut to multiples of 4: pass `divisor=4`"),
    (lambda width: width % 8 == 0, "it can be cut to multiples of 8: pass `divisor=8`"),
)

_CheckOfKept = Callable[[BoolArray], Problem | None]


class Examiner:
    """Holds the copies of the model and the genomes of one validation.

    A model that computes much is compared in single precision first, on smaller images where it does the same on them;
    double precision decides whatever does not agree, and looks at one genome in any case.

    Args:
        model: the model that was traced.
        structure: the traced structure of the model.
        samples: the samples that the model is run on.
        seed: seed for weights, noise and genomes.
        space: the search space whose widths are compared; None for every width.

    Raises:
        TraceError: the dense model itself does not run, or gives values that are not finite.
    """

    def __init__(
        self, model: nn.Module, structure: Structure, samples: Samples, seed: int, space: SearchSpace | None
    ) -> None:
        self.structure = structure
        self._seed = seed
        self._units = units_of(structure, space)
        self._everything = np.ones(structure.n_genes, dtype=np.bool_)
        self._hopeless: set[Problem] = set()
        self._random: bool | None = None
        # the input as it was given, where a smaller one takes its place
        self._real = None if samples.small is None else samples.take(1)
        example = samples.take_small(1) if samples.large else samples.example
        self._exact = Bench(model, structure, example, seed)
        self._samples = replace(samples, example=self._exact.example)
        self.dtype, self.tolerance = self._exact.dtype, self._exact.tolerance
        self._benches = [self._exact]
        self._twice = self._samples.take(2)
        if samples.large and self.dtype == torch.float64:
            self._benches.insert(0, Bench(self._exact.model, structure, self._exact.example, seed, quick=True))

    @cached_property
    def _trained(self) -> ProbedRun | None:
        """What a run of the dense model in training mode shows, None where it refuses."""
        return self._benches[0].dense(self._twice, training=True)

    @cached_property
    def _other(self) -> Any:
        """A larger input of twice the batch, or the same input twice, that the dense model accepts, or None.

        Where smaller images stand for the given ones, these; where all is dear, nothing that training compares anyway.
        """
        if self._real is not None:
            return self._real
        twice = self._twice
        given = (_enlarged(twice), twice) if not self._samples.large else () if self._trained is not None else (twice,)
        for example in given:
            if example is not self._exact.example and self._benches[0].dense(example, training=False) is not None:
                return example
        return None

    def problems(self) -> dict[int, Problem]:
        """Return the groups that must not be cut."""
        own, twice = self._exact.example, self._twice
        checks: list[Check] = [partial(self._differs, example=own), self._differs_when_copied]
        evaluated, trained = self._benches[0].dense(own, training=False), self._trained
        other = self._other
        larger: Check | None = None
        if other is not None:
            checks.append(partial(self._differs, example=other, genomes=(1 if self._samples.large else 0,)))
            larger = checks[-1] if self._real is None and _has_other_sizes(other, twice) else None
        runs = [(own, False)]
        if trained is not None:
            checks.append(partial(self._differs_in_training, example=twice))
            runs.append((twice, True))
        bad: dict[int, Problem] = {}
        units = [unit for unit, found in enumerate(self._units) if found.widths]
        for check in checks:
            units, rejected = bisect(units, check)
            for unit, problem in rejected.items():
                reason = problem[0] + (_LARGER if check is larger else "") + self._way_out(unit, check, problem)
                bad |= dict.fromkeys(self._units[unit].groups, (reason, problem[1]))
        names = [{probe.weight for probe in run.probes} if run else set() for run in (evaluated, trained)]
        for unit, reason in self._unverifiable(units, runs, alike=names[1] <= names[0]).items():
            bad |= dict.fromkeys(self._units[unit].groups, (reason, ""))
        return bad

    def branches(self) -> tuple[tuple[int, ...], ...]:
        """Return the structure's branches without those that the model cannot do without, after all.

        What is cheap is asked first, the next of what it leaves: a dear input runs once where nothing is wrong.
        """
        found = {branch[0]: branch for branch in self.structure.branches}
        units = [unit for unit in self.structure.tied_sets if unit[0] in found]
        tried: dict[tuple[int, frozenset[int]], Problem | None] = {}

        def asked(number: int, check: _CheckOfKept, chosen: Sequence[int]) -> Problem | None:
            gone = frozenset(g for i in chosen for member in units[i] for g in found[member])
            if (number, gone) not in tried:
                tried[number, gone] = check(self._without(gone))
            return tried[number, gone]

        checks = [*enumerate(self._checks_of_branches())]
        passed: list[int] = [*range(len(units))]
        before: list[int] | None = None
        while passed != before:  # each must hold for what all of them leave
            before = passed
            for number, check in checks:
                passed, _ = bisect(passed, partial(asked, number, check))
        there = {g for i in passed for g in units[i]}
        return tuple(tuple(g for g in found[i] if g in there) for i in sorted(there))

    def _without(self, gone: Iterable[int]) -> BoolArray:
        """Return which genes stay when whole groups are gone."""
        kept = self._everything.copy()
        for g in gone:
            kept[self.structure.groups[g].genes] = False
        return kept

    def _checks_of_branches(self) -> Iterator[_CheckOfKept]:
        """Yield how a model without some groups is compared; whether it runs at all comes first."""
        yield partial(self._benches[0].fails, example=self._exact.example, training=False)
        yield partial(self._differs_without, example=self._exact.example, training=False)
        trained = self._trained
        if trained is not None and not self._benches[0].is_random(self._twice, training=True, first=trained):
            yield partial(self._differs_without, example=self._twice, training=True)
        yield self._copy_differs
        if self._other is not None:
            yield partial(self._differs_without, example=self._other, training=False)

    def _differs_without(self, kept: BoolArray, example: Any, *, training: bool) -> Problem | None:
        """Compare a model without some groups on one input.

        Fewer layers run, so that none can be compared one by one, or scaled by its turn: the example is compared in
        double precision alone.
        """
        benches = [self._exact] if example is self._exact.example else self._benches
        return _last_word(benches, lambda bench: bench.differs(kept, example, _DROPPED, (), training=training))

    # ------------------------------------------------------------------ genomes

    def _genome(self, number: int) -> BoolArray:
        return random_genome(self.structure, self._units, self._seed, number)

    def _kept(self, genome: BoolArray, units: Sequence[int]) -> BoolArray:
        """Return which genes stay when only ``units`` are cut."""
        kept = self._everything.copy()
        for unit in units:
            for g in self._units[unit].groups:
                genes = self.structure.groups[g].genes
                kept[genes] = genome[genes]
        return kept

    # ------------------------------------------------------------------ the checks

    def _differs(
        self,
        units: Sequence[int],
        example: Any,
        genomes: Sequence[int] = (*range(N_RANDOM), SMALLEST),
        *,
        training: bool = False,
    ) -> Problem | None:
        for number in genomes:
            kept = self._kept(self._genome(number), units)
            first = number == _EXACT and not training and example is self._exact.example
            benches = [self._exact] if first else self._benches
            differs = partial(
                Bench.differs, kept=kept, example=example, number=number, training=training, elsewhere=first
            )
            problem = _last_word(benches, differs)
            if problem is not None:
                return problem
        return None

    def _differs_when_copied(self, units: Sequence[int]) -> Problem | None:
        return self._copy_differs(self._kept(self._genome(0), units))

    def _copy_differs(self, kept: BoolArray) -> Problem | None:
        return _last_word(self._benches, lambda bench: bench.differs_when_copied(kept))

    def _differs_in_training(self, units: Sequence[int], example: Any) -> Problem | None:
        """Compare in training mode; where that draws random numbers, see at least that it runs."""
        genomes = (0,) if self._samples.large else (0, SMALLEST)
        problem = self._differs(units, example, genomes, training=True)
        if problem is None or not self._is_random(example):
            return problem
        found = (self._exact.fails(self._kept(self._genome(n), units), example, training=True) for n in genomes)
        return next((failure for failure in found if failure is not None), None)

    def _is_random(self, example: Any) -> bool:
        """Say whether the dense model draws random numbers in training mode."""
        if self._random is None:
            self._random = self._exact.is_random(example, training=True)
        return self._random

    # ------------------------------------------------------------------ ways out

    def _way_out(self, unit: int, check: Check, problem: Problem) -> str:
        """Return which restriction of the widths makes a rejected unit pass, as the end of a reason."""
        given = self._units[unit]
        if problem in self._hopeless:
            return ""
        for allows, advice in _WAYS_OUT:
            widths = tuple(filter(allows, given.widths))
            if widths and widths != given.widths:
                with self._restricted(unit, widths):
                    if check([unit]) is None:
                        return f"; {advice}"
        self._hopeless.add(problem)
        return self._about_idle() if FAILS in problem[0] else ""

    def _about_idle(self) -> str:
        """Name a layer that the trace did not see, which may be why the others cannot be cut."""
        idle = idle_layers(self._exact.model, dict(self.structure.layers))
        return f"; {idle[0]!r} did not run on the example input: give one on which every layer runs" if idle else ""

    @contextmanager
    def _restricted(self, unit: int, widths: tuple[int, ...]) -> Iterator[None]:
        given = self._units[unit]
        self._units[unit] = Unit(given.groups, widths)
        try:
            yield
        finally:
            self._units[unit] = given

    # ------------------------------------------------------------------ shuffled index maps

    def _unverifiable(self, units: Sequence[int], runs: Sequence[tuple[Any, bool]], *, alike: bool) -> dict[int, str]:
        """Return the units one of whose groups could have a shuffled index map unnoticed, with the reason.

        Args:
            units: the units to look at.
            runs: an input and a mode each.
            alike: whether no layer runs in training only: then evaluation is looked at first.
        """
        noticed: dict[int, set[Key]] = {g: set() for unit in units for g in self._units[unit].groups}
        ran: set[str] = set()
        bench = self._benches[0]
        runs = [(cast(example, bench.dtype), training) for example, training in runs]
        effects: list[ShuffleEffects] = []

        def open_groups() -> list[int]:
            groups = self.structure.groups
            return [g for g, found in noticed.items() if not found or not needed(groups[g], ran) <= found]

        # few channels removed, so that the signal survives; others, and other data, where nothing was noticed
        generator = torch.Generator().manual_seed(self._seed)
        n_ran: list[int] = []
        for attempt in range(2 * _ATTEMPTS):
            if not open_groups():
                return {}
            if attempt >= _ATTEMPTS and len(set(n_ran[1:])) < 2:
                break  # other data run no other layers
            kept = self._kept(gentle_genome(self.structure, self._units, self._seed, attempt), units)
            chosen = runs if attempt or not alike else runs[:1]
            if attempt % 2:
                chosen = [(redraw_input(example, generator), training) for example, training in chosen]
            effects = [
                ShuffleEffects(bench.skeleton, bench.weights, self.structure, kept, example, training=training)
                for example, training in chosen
                if not attempt % 2 or bench.dense(example, training=training) is not None
            ]
            ran.update(*(effect.ran for effect in effects))
            n_ran.append(len(ran))
            for g in open_groups():
                self._look(g, noticed[g], needed(self.structure.groups[g], ran), effects)
        for g in open_groups():  # no gradient says so: shuffle for real
            self._look(g, noticed[g], needed(self.structure.groups[g], ran), effects, in_truth=True)
        still = set(open_groups())
        silent = {g for g in still if not any(tensor in ran for tensor, *_ in self.structure.groups[g].axes)}
        return {
            unit: _UNREACHED if silent & groups else _UNVERIFIABLE
            for unit in units
            if (groups := still & set(self._units[unit].groups))
        }

    def _look(
        self,
        g: int,
        noticed: set[Key],
        keys: set[Key],
        effects: Sequence[ShuffleEffects],
        *,
        in_truth: bool = False,
    ) -> None:
        """Add the axes of a group whose shuffling is noticed: those that are needed, or any one."""
        group = self.structure.groups[g]
        for axis in self._axes_of(g):
            if axis.key in noticed or (keys and axis.key not in keys):
                continue
            wrong = shuffled(axis, group)
            for effect in effects:
                changes = effect.in_truth if in_truth else effect.at_first_order
                if changes(axis, wrong) > self._benches[0].beyond_rounding:
                    noticed.add(axis.key)
                    break
            if noticed and not keys:
                return

    def _axes_of(self, g: int) -> list[Any]:
        """Return a group's axes, consumers first."""
        roles = {(tensor, dim): role for tensor, dim, role, _ in self.structure.groups[g].axes}
        own = [axis for tensor in dict.fromkeys(t for t, _ in roles) for axis in self.structure.axes_of[tensor]]
        return sorted((a for a in own if a.key in roles), key=lambda a: ("in", "out", "thru").index(roles[a.key]))


def _last_word(benches: Sequence[Bench], differs: Callable[[Bench], Problem | None]) -> Problem | None:
    """Return what the last bench, the exact one, finds wrong, as far as none before it agrees."""
    problem: Problem | None = None
    for bench in benches:
        problem = differs(bench)
        if problem is None:
            break
    return problem


def _has_other_sizes(example: Any, given: Any) -> bool:
    """Say whether the tensors of one example have other shapes than those of another."""
    return any(a.shape != b.shape for a, b in zip(tensors_in(example), tensors_in(given), strict=False))


def _enlarged(example: Any, by: int = 32) -> Any:
    """Return random images ``by`` pixels larger for every floating (n, c, h, w) tensor of the example."""

    def larger(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() != 4 or not is_inexact(leaf):
            return leaf
        n, c, h, w = leaf.shape
        return torch.randn((n, c, h + by, w + by), dtype=single(leaf).dtype).to(leaf)

    return pytree.tree_map(larger, example)
