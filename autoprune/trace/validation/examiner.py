"""The checks of a validation: cut models against masked ones, layer by layer, and what would go unnoticed."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.core.groups import BoolArray, Structure
from autoprune.core.space import SearchSpace
from autoprune.core.variables import WidthRules
from autoprune.cost.samples import Samples
from autoprune.errors import SurgeryError, TraceError
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights
from autoprune.surgery.precision import is_inexact, model_precision, single, to_precision
from autoprune.surgery.skeleton import Skeleton
from autoprune.trace.given_model import NOT_USER_CODE, copy_model
from autoprune.trace.validation.probes import ProbedRun, observe
from autoprune.trace.validation.reference import Reference, agree, agree_on_the_way, as_floats, redraw
from autoprune.trace.validation.shuffles import Key, ShuffleEffects, needed, shuffled

N_RANDOM = 3
"""Random genomes that are compared, beside the smallest one."""

_SMALLEST = N_RANDOM
_ATTEMPTS = 6
# per precision: the tolerance; the relative change of every weight that stands for rounding (more than rounding does);
# and the difference beyond which no rounding is blamed
_PRECISION = {
    torch.float64: (1e-8, 1e-13, 1e-4),
    torch.float32: (1e-3, 1e-6, 1e-2),
    torch.float16: (1e-2, 1e-3, 1e-1),
    torch.bfloat16: (3e-2, 8e-3, 1e-1),
}

_UNVERIFIABLE = "has channels whose order does not influence the output, so that no check can tell them"
_RANDOM = "cannot be compared: the forward draws random numbers for its channels outside of training; switch that off"
_ELSEWHERE = "reaches the output on ways other than the weights that consume it"
_WAYS_OUT: tuple[tuple[Callable[[int], bool], str], ...] = (
    (
        lambda width: width > 1,
        "only width 1 is the trouble: where a `squeeze()` drops it write `flatten(1)` instead, or pass `min_width=2`",
    ),
    (lambda width: width % 2 == 0, "it can be cut to even widths: pass `divisor=2`"),
    (lambda width: width % 4 == 0, "it can be cut to multiples of 4: pass `divisor=4`"),
    (lambda width: width % 8 == 0, "it can be cut to multiples of 8: pass `divisor=8`"),
)

Problem = tuple[str, str]  # reason, source
Check = Callable[[Sequence[int]], Problem | None]


@dataclass(frozen=True)
class _Unit:
    """Groups that can only be cut together, and to which widths below the dense one."""

    groups: tuple[int, ...]
    widths: tuple[int, ...]


class Examiner:
    """Holds the float64 copy and the genomes of one validation.

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
        self._model, self._example = _prepared(model, samples.example, seed)
        self._samples = replace(samples, example=self._example)
        self.dtype = model_precision(self._model, torch.get_default_dtype())
        self.tolerance, self._jitter, self._beyond_rounding = _PRECISION.get(self.dtype, _PRECISION[torch.bfloat16])
        self._reference = Reference(self._model)
        self._weights = model_weights(self._model, structure)
        self._skeleton = Skeleton(self._model, structure)
        self._units = _units(structure, space)
        self._everything = np.ones(structure.n_genes, dtype=np.bool_)
        self._hopeless: set[Problem] = set()
        self._observe = partial(observe, outputs=structure.outputs)

    def problems(self) -> dict[int, Problem]:
        """Return the groups that must not be cut."""
        twice = self._samples.take(2)
        checks: list[Check] = [partial(self._differs, example=self._example), self._differs_when_copied]
        other = self._other_example()
        if other is not None:
            checks.append(partial(self._differs, example=other, genomes=(0,)))
        runs = [(self._example, False)]
        if self._runs(twice, training=True):
            check: Check = partial(self._differs, example=twice, genomes=(0, _SMALLEST), training=True)
            if self._is_random(twice, training=True) and check(range(len(self._units))):
                check = partial(self._cannot_train, example=twice)
            else:
                runs.append((twice, True))
            checks.append(check)
        bad: dict[int, Problem] = {}
        units = [unit for unit, found in enumerate(self._units) if found.widths]
        for check in checks:
            units, rejected = _bisect(units, check)
            for unit, problem in rejected.items():
                way_out = self._way_out(unit, check, problem)
                bad |= dict.fromkeys(self._units[unit].groups, (problem[0] + way_out, problem[1]))
        for unit in self._unverifiable(units, runs):
            bad |= dict.fromkeys(self._units[unit].groups, (_UNVERIFIABLE, ""))
        return bad

    # ------------------------------------------------------------------ genomes

    def _genome(self, number: int) -> BoolArray:
        return _genome(self.structure, self._units, self._seed, number)

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
        genomes: Sequence[int] = (*range(N_RANDOM), _SMALLEST),
        *,
        training: bool = False,
    ) -> Problem | None:
        for number in genomes:
            problem = self._differs_at(number, units, example, training=training)
            if problem:
                return problem
        return None

    def _differs_at(self, number: int, units: Sequence[int], example: Any, *, training: bool) -> Problem | None:
        kept = self._kept(self._genome(number), units)
        noise = torch.Generator().manual_seed(self._seed + 1 + number)
        run = partial(self._reference, self.structure, kept, noise, example, training=training)
        try:
            masked = run()
            small = self._observe(self._skeleton.build(self._weights, kept), example, masked.factors, training=training)
        except Exception as error:  # noqa: BLE001  (a wrong size surfaces as whatever the user's code raises)
            return f"cannot be cut: {_sentence(error, training=training)}", _source(error)
        shared = masked.shared_with(small)
        masked, small = masked.only(shared), small.only(shared)
        factors = masked.factors
        clause = self._disagreement(masked, small, kept, lambda: run(factors, jitter=self._jitter).only(shared))
        if clause or number == 0:
            again = run(factors).only(shared)
            elsewhere = self._distance(masked, again, kept, cut_too=False)[0] > self.tolerance
            if (clause or elsewhere) and self._is_random(example, training=training):
                return _RANDOM, ""
            if elsewhere:
                return _ELSEWHERE, ""
        if clause:
            return f"a cut model does not compute what the dense model computes without it: {clause}", ""
        return None

    def _disagreement(
        self, masked: ProbedRun, small: ProbedRun, kept: BoolArray, rounded: Callable[[], ProbedRun]
    ) -> str:
        """Return what differs by more than rounding makes, "" for nothing."""
        found, clause = self._distance(masked, small, kept)
        if found <= self.tolerance:
            return ""
        if found <= self._beyond_rounding:  # some models blow it up: see how much
            blown_up, _ = self._distance(masked, rounded(), kept, cut_too=False)
            if found <= blown_up:
                return ""
        return clause

    def _distance(
        self, ours: ProbedRun, theirs: ProbedRun, kept: BoolArray, *, cut_too: bool = True
    ) -> tuple[float, str]:
        on_the_way = agree_on_the_way(ours, theirs, self.structure, kept, cut_too=cut_too)
        return max(agree(ours.outputs, theirs.outputs), on_the_way, key=lambda found: found[0])

    def _differs_when_copied(self, units: Sequence[int]) -> Problem | None:
        """Candidates are swapped into a skeleton; what users get is a cut copy."""
        kept = self._kept(self._genome(0), units)
        right = self._observe(self._skeleton.build(self._weights, kept), self._example)
        try:
            copied = self._observe(cut(self._model, self.structure, kept), self._example, right.factors)
        except Exception as error:  # noqa: BLE001  (as above)
            return f"cannot be cut: {_sentence(error)}", _source(error)
        distance, clause = agree(right.outputs, copied.outputs)
        return (
            (f"a copy does not compute what a candidate computes: {clause}", "") if distance > self.tolerance else None
        )

    def _cannot_train(self, units: Sequence[int], example: Any) -> Problem | None:
        for number in (0, _SMALLEST):
            try:
                small = self._skeleton.build(self._weights, self._kept(self._genome(number), units))
                self._observe(small, example, training=True)
            except Exception as error:  # noqa: BLE001  (as above)
                return f"cannot be cut: {_sentence(error, training=True)}", _source(error)
        return None

    def _runs(self, example: Any, *, training: bool) -> bool:
        """Say whether the dense model accepts an input."""
        try:
            self._dense(example, training=training)
        except Exception:  # noqa: BLE001  (whatever it is, the dense model has it, too)
            return False
        return True

    def _is_random(self, example: Any, *, training: bool) -> bool:
        """Say whether the dense model's forward draws random numbers."""
        one, other = (self._dense(example, training=training, seed=seed) for seed in (0, 1))
        return self._distance(one, other, self._everything, cut_too=False)[0] > self.tolerance

    def _dense(self, example: Any, *, training: bool, seed: int = 0) -> ProbedRun:
        generator = torch.Generator()
        return self._reference(self.structure, self._everything, generator, example, training=training, seed=seed)

    def _other_example(self) -> Any:
        """Return a larger input of twice the batch, or the same input twice, that the dense model accepts."""
        twice = self._samples.take(2)
        for example in (_enlarged(twice), twice):
            if example is not self._example and self._runs(example, training=False):
                return example
        return None

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
        return ""

    @contextmanager
    def _restricted(self, unit: int, widths: tuple[int, ...]) -> Iterator[None]:
        given = self._units[unit]
        self._units[unit] = _Unit(given.groups, widths)
        try:
            yield
        finally:
            self._units[unit] = given

    # ------------------------------------------------------------------ shuffled index maps

    def _unverifiable(self, units: Sequence[int], runs: Sequence[tuple[Any, bool]]) -> list[int]:
        """Return the units one of whose groups could have a shuffled index map unnoticed."""
        noticed: dict[int, set[Key]] = {g: set() for unit in units for g in self._units[unit].groups}
        ran: set[str] = set()
        effects: list[ShuffleEffects] = []

        def open_groups() -> list[int]:
            groups = self.structure.groups
            return [g for g, found in noticed.items() if not found or not needed(groups[g], ran) <= found]

        # few channels removed, so that the signal survives; another set of them where nothing was noticed
        for attempt in range(_ATTEMPTS):
            if not open_groups():
                return []
            kept = self._kept(_gentle_genome(self.structure, self._units, self._seed, attempt), units)
            effects = [
                ShuffleEffects(self._skeleton, self._weights, self.structure, kept, example, training=training)
                for example, training in runs
            ]
            ran.update(*(effect.ran for effect in effects))
            for g in open_groups():
                self._look(g, noticed[g], needed(self.structure.groups[g], ran), effects)
        for g in open_groups():  # no gradient says so: shuffle for real
            self._look(g, noticed[g], needed(self.structure.groups[g], ran), effects, in_truth=True)
        still = set(open_groups())
        return [unit for unit in units if still & set(self._units[unit].groups)]

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
                if changes(axis, wrong) > self._beyond_rounding:
                    noticed.add(axis.key)
                    break
            if noticed and not keys:
                return

    def _axes_of(self, g: int) -> list[Any]:
        """Return a group's axes, consumers first."""
        roles = {(tensor, dim): role for tensor, dim, role, _ in self.structure.groups[g].axes}
        own = [axis for tensor in dict.fromkeys(t for t, _ in roles) for axis in self.structure.axes_of[tensor]]
        return sorted((a for a in own if a.key in roles), key=lambda a: ("in", "out", "thru").index(roles[a.key]))


# ---------------------------------------------------------------------------- preparation


def _prepared(model: nn.Module, example: Any, seed: int) -> tuple[nn.Module, Any]:
    """Return a copy with new weights, in float64 where the model's code allows, and an example to match."""
    failure = ""
    own = model_precision(model, torch.float32)
    for dtype in dict.fromkeys((torch.float64, torch.float32, own)):
        for renew in (redraw, _without_zeros):
            generator = torch.Generator().manual_seed(seed)
            copied = to_precision(copy_model(model), dtype).eval()
            renew(copied, generator)
            inputs = as_floats(example, dtype, generator)
            try:
                seen = observe(copied, inputs)
            except Exception as error:  # noqa: BLE001  (code that insists on its precision raises all kinds of errors)
                failure = _sentence(error)
                break
            if not any(bool(torch.isnan(t).any()) for t in seen.outputs):
                return copied, inputs
            failure = "its output is not a number"
    msg = (
        f"the model cannot be validated on a copy with random weights: {failure}; "
        "give an example input, such as a real one, on which the forward works whatever the weights are"
    )
    raise TraceError(msg)


def _without_zeros(model: nn.Module, generator: torch.Generator) -> None:
    """Keep a model's own weights but replace zeros, which hide what they multiply."""
    with torch.no_grad():
        for parameter in model.parameters():
            if is_inexact(parameter):
                noise = torch.rand(parameter.shape, generator=generator).to(parameter) * 0.1 + 0.01
                parameter.copy_(torch.where(parameter == 0, noise, parameter))


def _units(structure: Structure, space: SearchSpace | None) -> list[_Unit]:
    """Return sets of groups that are cut together: the space's variables, or what is tied and every group alone."""
    if space is not None:
        return [_Unit(variable.groups, variable.widths[:-1]) for variable in space.variables]
    tied = {g for tie in structure.ties for g in tie}
    sets = sorted([*structure.ties, *((g,) for g in range(len(structure.groups)) if g not in tied)])
    return [_Unit(groups, WidthRules(None, min_keep_ratio=0).widths(*_full(structure, groups))[:-1]) for groups in sets]


def _full(structure: Structure, groups: Sequence[int]) -> tuple[int, list[int]]:
    """Return the dense width of the first of several groups and those of the others."""
    first, *others = (structure.groups[g].width for g in groups)
    return first, others


def _genome(structure: Structure, units: Sequence[_Unit], seed: int, number: int) -> BoolArray:
    """Return kept genes of a random genome of unequal widths, or of the smallest one."""
    rng = np.random.default_rng([seed, number])

    def width(allowed: tuple[int, ...], _: int) -> int:
        return allowed[0] if number == _SMALLEST else int(rng.choice(allowed))

    return _kept_genes(structure, units, rng, width)


def _gentle_genome(structure: Structure, units: Sequence[_Unit], seed: int, attempt: int = 0) -> BoolArray:
    """Return kept genes of a genome that removes about a quarter of every group, at random."""
    rng = np.random.default_rng([seed, N_RANDOM + 1, attempt])

    def width(allowed: tuple[int, ...], full: int) -> int:
        return min(allowed, key=lambda w: abs(w - full + full // 4))

    return _kept_genes(structure, units, rng, width)


def _kept_genes(
    structure: Structure,
    units: Sequence[_Unit],
    rng: np.random.Generator,
    choose: Callable[[tuple[int, ...], int], int],
) -> BoolArray:
    widths = structure.full_widths.copy()
    for unit in units:
        if unit.widths:
            groups, full = list(unit.groups), int(widths[unit.groups[0]])
            widths[groups] = widths[groups] * choose(unit.widths, full) // full
    return structure.kept_genes([rng.permutation(group.width) for group in structure.groups], widths)


def sample_genomes(structure: Structure, seed: int, space: SearchSpace | None = None) -> list[BoolArray]:
    """Return kept genes of the dense model, of one that keeps about half and of one that keeps three quarters."""
    units = _units(structure, space)
    full = np.ones(structure.n_genes, dtype=np.bool_)
    return [full, _genome(structure, units, seed, 0), _gentle_genome(structure, units, seed)]


def _bisect(units: Sequence[int], check: Check) -> tuple[list[int], dict[int, Problem]]:
    """Return the units that pass a check together, and those that break it with the reason."""
    passed: list[int] = []
    rejected: dict[int, Problem] = {}

    def add(chunk: Sequence[int]) -> None:
        problem = check([*passed, *chunk])
        if problem is None:
            passed.extend(chunk)
        elif len(chunk) == 1:
            rejected[chunk[0]] = problem
        else:
            half = len(chunk) // 2
            add(chunk[:half])
            add(chunk[half:])

    if units:
        add(units)
    return passed, rejected


def _sentence(error: BaseException, *, training: bool = False) -> str:
    if isinstance(error, SurgeryError):
        return str(error)
    text = str(error).strip().partition("\n")[0]
    return f"the forward fails {'in training mode ' if training else ''}with {type(error).__name__}: {text}"


def _source(error: BaseException) -> str:
    """Return the last line of user (or library) code in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(NOT_USER_CODE)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


def _enlarged(example: Any, by: int = 32) -> Any:
    """Return random images ``by`` pixels larger for every floating (n, c, h, w) tensor of the example."""

    def larger(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() != 4 or not is_inexact(leaf):
            return leaf
        n, c, h, w = leaf.shape
        return torch.randn((n, c, h + by, w + by), dtype=single(leaf).dtype).to(leaf)

    return pytree.tree_map(larger, example)
