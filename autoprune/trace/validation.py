"""Numeric validation: a cut model must compute what the dense one computes without the removed channels.

On a float64 copy with new weights, at several random genomes of unequal widths and at the minimum, the cut model is
compared with the dense one whose removed channels are noise where they are produced and zero where they are consumed.
Groups that do not agree are found by bisection. A group whose index map could be shuffled without anybody noticing is
unverifiable. What the check decides, `trace` pins.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.core.groups import Axis, BoolArray, Pin, Structure
from autoprune.cost.samples import Samples, find_samples
from autoprune.errors import SurgeryError, TraceError
from autoprune.surgery.cut import cut
from autoprune.surgery.forward import forward
from autoprune.trace._copying import copy_model, undisturbed
from autoprune.trace._example import enlarged
from autoprune.trace._first_order import FirstOrder
from autoprune.trace._reference import Reference, agree, as_floats, outputs, redraw
from autoprune.trace._restrict import without_groups
from autoprune.trace.unwrap import unwrap

_RANDOM_GENOMES = 3
_SHUFFLE_ATTEMPTS = 3
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
_NOTICEABLE = 1e-5  # first-order effect of a shuffled map, relative to the output, that needs no second look
_NOT_USER_CODE = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parent.parent))

Problem = tuple[str, str]  # reason, source
Check = Callable[[Sequence[int]], Problem | None]


@dataclass(frozen=True)
class ValidationReport:
    """What a validation found.

    Attributes:
        checked: names of the groups that were compared.
        offenders: groups that must not be cut, with the reason and the source line where there is one.
        genomes: how many genomes were compared.
        dtype: the precision of the comparison.
        tolerance: largest accepted difference, relative to the largest value of the output.
    """

    checked: tuple[str, ...]
    offenders: tuple[Pin, ...]
    genomes: int
    dtype: str
    tolerance: float

    @property
    def agreed(self) -> bool:
        """Whether every group may be cut."""
        return not self.offenders


def validate(model: nn.Module, structure: Structure, example_input: Any, *, seed: int = 0) -> ValidationReport:
    """Compare cut models with the dense one.

    Args:
        model: the model that was traced; it stays as it is.
        structure: what the trace found.
        example_input: what the model is run on.
        seed: of weights, noise and genomes.

    Returns:
        A report; its ``offenders`` must not be cut.

    Raises:
        TraceError: the dense model itself does not run, or gives values that are not finite.
    """
    with undisturbed():
        model = unwrap(model)
        examiner = _Examiner(model, structure, find_samples(copy_model(model), example_input), seed)
        problems = examiner.problems()
    offenders = tuple(Pin(structure.groups[g].name, *problem) for g, problem in sorted(problems.items()))
    names = tuple(group.name for group in structure.groups)
    return ValidationReport(
        names, offenders, _RANDOM_GENOMES + 1, str(examiner.dtype).removeprefix("torch."), examiner.tolerance
    )


def pin_offenders(model: nn.Module, structure: Structure, samples: Samples, *, seed: int = 0) -> Structure:
    """Return ``structure`` without the groups that a validation rejects.

    Args:
        model: the model that was traced.
        structure: what the trace found.
        samples: what the model is run on.
        seed: of weights, noise and genomes.
    """
    if not structure.groups:
        return structure
    problems = _Examiner(model, structure, samples, seed).problems()
    return without_groups(structure, problems) if problems else structure


class _Examiner:
    """Holds the float64 copy and the genomes of one validation."""

    def __init__(self, model: nn.Module, structure: Structure, samples: Samples, seed: int) -> None:
        self.structure = structure
        self._seed = seed
        self._model, self._example = _prepared(model, samples.example, seed)
        self._samples = replace(samples, example=self._example)
        self.dtype = next(
            (p.dtype for p in self._model.parameters() if p.is_floating_point()), torch.get_default_dtype()
        )
        self.tolerance = _TOLERANCE.get(self.dtype, 1e-2)
        self._reference = Reference(self._model, self._example)
        self._units = _units(structure)
        self._genomes = _genomes(structure, self._units, seed)

    def problems(self) -> dict[int, Problem]:
        """Return the groups that must not be cut."""
        bad: dict[int, Problem] = {}
        checks: list[Check] = [partial(self._differs, example=self._example, genomes=self._genomes)]
        other = self._other_example()
        if other is not None:
            checks.append(partial(self._differs, example=other, genomes=self._genomes[:1]))
        if self._trains(self._model):
            checks.append(self._cannot_train)
        units = list(range(len(self._units)))
        for check in checks:
            units, rejected = _bisect(units, check)
            bad |= {g: problem for unit, problem in rejected.items() for g in self._units[unit]}
        for unit in self._unverifiable(units):
            for g in self._units[unit]:
                bad[g] = ("has channels whose order does not influence the output, so that no check can tell them", "")
        return bad

    # ------------------------------------------------------------------ the checks

    def _kept(self, genome: BoolArray, units: Sequence[int]) -> BoolArray:
        """Return which genes stay when only ``units`` are cut."""
        kept = np.ones(self.structure.n_genes, dtype=np.bool_)
        for unit in units:
            for g in self._units[unit]:
                genes = self.structure.groups[g].genes
                kept[genes] = genome[genes]
        return kept

    def _differs(self, units: Sequence[int], example: Any, genomes: Sequence[BoolArray]) -> Problem | None:
        for i, genome in enumerate(genomes):
            kept = self._kept(genome, units)
            noise = torch.Generator().manual_seed(self._seed + 1 + i)
            try:
                small = outputs(cut(self._model, self.structure, kept), example)
            except Exception as error:  # noqa: BLE001  (a wrong size surfaces as whatever the user's code raises)
                return f"cannot be cut: {_sentence(error)}", _source(error)
            masked = self._reference(self.structure, kept, noise, example)
            difference = agree(masked, small, self.tolerance)
            again = self._reference(self.structure, kept, noise, example) if difference or i == 0 else masked
            if agree(masked, again, self.tolerance):
                return "reaches the output on ways other than the weights that consume it", ""
            if difference:
                return f"a cut model does not compute what the dense model computes without it: {difference}", ""
        return None

    def _cannot_train(self, units: Sequence[int]) -> Problem | None:
        for genome in (self._genomes[0], self._genomes[-1]):
            try:
                small = cut(self._model, self.structure, self._kept(genome, units)).train()
                with torch.no_grad():
                    forward(small, self._samples.take(2))
            except Exception as error:  # noqa: BLE001  (as above)
                return f"cannot be cut: in training mode {_sentence(error)}", _source(error)
        return None

    def _trains(self, model: nn.Module) -> bool:
        try:
            with torch.no_grad():
                forward(copy_model(model).train(), self._samples.take(2))
        except Exception:  # noqa: BLE001  (whatever it is, the dense model has it, too)
            return False
        return True

    def _other_example(self) -> Any:
        """Return a larger input of twice the batch, or the same input twice, that the dense model accepts."""
        twice = self._samples.take(2)
        for example in (enlarged(twice), twice):
            if example is self._example:
                continue
            try:
                outputs(self._model, example)
            except Exception:  # noqa: BLE001  (models are free to insist on their input size)
                continue
            return example
        return None

    # ------------------------------------------------------------------ shuffled index maps

    def _unverifiable(self, units: Sequence[int]) -> list[int]:
        """Return the units one of whose groups could have a shuffled index map unnoticed."""
        open_units = list(units)
        # few channels removed, so that the signal survives; another set of them where nothing was noticed
        for attempt in range(_SHUFFLE_ATTEMPTS):
            if open_units:
                kept = self._kept(_gentle_genome(self.structure, self._units, self._seed + attempt), units)
                effects = FirstOrder(self._model, self.structure, kept, self._example, self._seed)
                open_units = [u for u in open_units if not all(self._noticed(g, kept, effects) for g in self._units[u])]
        return open_units

    def _noticed(self, g: int, kept: BoolArray, effects: FirstOrder) -> bool:
        """Say whether a shuffled index map of a group changes the output."""
        axes = sorted(self._axes_of(g), key=lambda axis: axis.key not in effects.gradients)
        if any(effects.of(axis, self._shuffled(axis, g)) > _NOTICEABLE for axis in axes):
            return True
        return any(self._notices(kept, axis, self._shuffled(axis, g)) for axis in axes[:2])

    def _axes_of(self, g: int) -> list[Axis]:
        """Return a group's axes, consumers first."""
        roles = {(tensor, dim): role for tensor, dim, role, _ in self.structure.groups[g].axes}
        own = [axis for axis in self.structure.axes if axis.key in roles]
        return sorted(own, key=lambda axis: ("in", "out", "thru").index(roles[axis.key]))

    def _shuffled(self, axis: Axis, g: int) -> Axis:
        """Return an axis in which every channel of a group is mistaken for the next one."""
        group = self.structure.groups[g]
        inside = (axis.genes >= group.start) & (axis.genes < group.start + group.width)
        rolled = group.start + (axis.genes - group.start + 1) % group.width
        return Axis(axis.tensor, axis.dim, np.where(inside, rolled, axis.genes))

    def _notices(self, kept: BoolArray, axis: Axis, shuffled: Axis) -> bool:
        axes = tuple(shuffled if a.key == axis.key else a for a in self.structure.axes)
        right = outputs(cut(self._model, self.structure, kept), self._example)
        wrong = outputs(cut(self._model, replace(self.structure, axes=axes), kept), self._example)
        return bool(agree(right, wrong, self.tolerance))


# ---------------------------------------------------------------------------- preparation


def _prepared(model: nn.Module, example: Any, seed: int) -> tuple[nn.Module, Any]:
    """Return a copy with new weights, in float64 where the model's code allows, and an example to match."""
    failure = ""
    for dtype in (torch.float64, torch.float32):
        for renew in (redraw, _without_zeros):
            generator = torch.Generator().manual_seed(seed)
            copied = copy_model(model).to(dtype).eval()
            renew(copied, generator)
            inputs = as_floats(example, dtype, generator)
            try:
                result = outputs(copied, inputs)
            except Exception as error:  # noqa: BLE001  (code that insists on float32 raises all kinds of errors)
                failure = _sentence(error)
                break
            if all(bool(torch.isfinite(t).all()) for t in result if t.is_floating_point()):
                return copied, inputs
            failure = "its output is not finite"
    msg = f"the model cannot be validated: {failure}; trace(..., validate=False) skips the validation"
    raise TraceError(msg)


def _without_zeros(model: nn.Module, generator: torch.Generator) -> None:
    """Keep a model's own weights but replace zeros, which hide what they multiply."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                noise = torch.rand(parameter.shape, generator=generator).to(parameter) * 0.1 + 0.01
                parameter.copy_(torch.where(parameter == 0, noise, parameter))


def _units(structure: Structure) -> list[tuple[int, ...]]:
    """Return sets of groups that can only be cut together: tied ones, and every other group alone."""
    tied = {g for tie in structure.ties for g in tie}
    return sorted([*structure.ties, *((g,) for g in range(len(structure.groups)) if g not in tied)])


def _genomes(structure: Structure, units: Sequence[tuple[int, ...]], seed: int) -> list[BoolArray]:
    """Return kept genes of random genomes of unequal widths, then of the minimum."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(_RANDOM_GENOMES + 1):
        widths = structure.full_widths.copy()
        for unit in units:
            width = structure.groups[unit[0]].width
            widths[list(unit)] = 1 if i == _RANDOM_GENOMES else rng.integers(1, width)
        orders = [rng.permutation(group.width) for group in structure.groups]
        found.append(structure.kept_genes(orders, widths))
    return found


def sample_genomes(structure: Structure, seed: int) -> list[BoolArray]:
    """Return kept genes of the dense model, of one that keeps about half and of one that keeps three quarters."""
    units = _units(structure)
    full = np.ones(structure.n_genes, dtype=np.bool_)
    return [full, _genomes(structure, units, seed)[0], _gentle_genome(structure, units, seed)]


def _gentle_genome(structure: Structure, units: Sequence[tuple[int, ...]], seed: int) -> BoolArray:
    """Return kept genes of a genome that removes a quarter of every group, at random."""
    rng = np.random.default_rng([seed, _RANDOM_GENOMES])
    widths = structure.full_widths - np.maximum(structure.full_widths // 4, 1)
    for unit in units:
        widths[list(unit)] = widths[unit[0]]
    return structure.kept_genes([rng.permutation(group.width) for group in structure.groups], widths)


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


def _sentence(error: BaseException) -> str:
    if isinstance(error, SurgeryError):
        return str(error)
    text = str(error).strip().partition("\n")[0]
    return f"the forward fails with {type(error).__name__}: {text}"


def _source(error: BaseException) -> str:
    """Return the last line of user (or library) code in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(_NOT_USER_CODE)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""
