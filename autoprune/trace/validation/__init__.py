"""Numeric validation: a cut model must compute what the dense one computes without the removed channels.

On a float64 copy with new weights, at several random genomes of unequal widths and at the minimum, the cut model is
compared with the dense one whose removed channels are noise where they are produced and zero where they are consumed:
at the output and at every layer on the way, in evaluation and in training mode. Groups that do not agree are found by
bisection. A group whose index map could be shuffled without anybody noticing is unverifiable. What the check decides,
`trace` pins. The counted costs are compared with what cut models run, too.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from torch import nn

from autoprune.core.groups import BoolArray, Pin, Structure
from autoprune.core.space import SearchSpace
from autoprune.core.terms import cost_terms
from autoprune.cost.samples import Samples, count_sample, find_samples
from autoprune.errors import InvalidArgumentError, TraceError
from autoprune.surgery.cut import cut
from autoprune.surgery.forward import tensors_in
from autoprune.trace._restrict import without_groups
from autoprune.trace.given_model import copy_model, undisturbed, unwrap
from autoprune.trace.validation.examiner import Examiner
from autoprune.trace.validation.units import N_RANDOM


@dataclass(frozen=True)
class ValidationReport:
    """The result of a validation.

    Attributes:
        checked: names of the groups that were compared.
        offenders: groups that must not be cut, with the reason and the source line where there is one.
        genomes: number of genomes that were compared.
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


def validate(
    model: nn.Module, structure: Structure, example_input: Any, *, seed: int = 0, space: SearchSpace | None = None
) -> ValidationReport:
    """Compare cut models with the dense one.

    Args:
        model: the model that was traced; it stays as it is.
        structure: the traced structure of the model.
        example_input: the input that the model is run on.
        seed: seed for weights, noise and genomes.
        space: the search space whose widths are compared; by default every width from 1 on.

    Returns:
        A report; its ``offenders`` must not be cut.

    Raises:
        TraceError: the dense model itself does not run, or gives values that are not finite.
    """
    with undisturbed():
        model = unwrap(model)
        examiner = Examiner(model, structure, find_samples(copy_model(model), example_input), seed, space)
        problems = examiner.problems()
    offenders = tuple(Pin(structure.groups[g].name, *problem) for g, problem in sorted(problems.items()))
    names = tuple(group.name for group in structure.groups)
    return ValidationReport(
        names, offenders, N_RANDOM + 1, str(examiner.dtype).removeprefix("torch."), examiner.tolerance
    )


def validator(model: nn.Module, space: SearchSpace, example_input: Any, seed: int) -> Callable[[], ValidationReport]:
    """Return what `SearchSpace.validate` calls; it does not keep the model alive."""
    held = weakref.ref(model)

    def run() -> ValidationReport:
        alive = held()
        if alive is None:
            msg = "the model that was traced is gone; trace it again"
            raise InvalidArgumentError(msg)
        return validate(alive, space.structure, example_input, seed=seed, space=space)

    return run


def pin_offenders(
    model: nn.Module, structure: Structure, samples: Samples, *, seed: int = 0, space: SearchSpace | None = None
) -> Structure:
    """Return ``structure`` without the groups that a validation rejects, and the branches that it does.

    Args:
        model: the model that was traced.
        structure: the traced structure of the model.
        samples: the samples that the model is run on.
        seed: seed for weights, noise and genomes.
        space: the search space whose widths are compared; by default every width from 1 on.
    """
    if not structure.groups:
        return structure
    examiner = Examiner(model, structure, samples, seed, space)
    problems = examiner.problems()
    branches = examiner.branches() if structure.branches else ()
    found = structure if branches == structure.branches else replace(structure, branches=branches)
    return without_groups(found, problems) if problems else found


WHOLE = (
    "costs are of the whole example input, taken as one sample: it cannot be divided into samples on which the model "
    "runs and whose MACs add up"
)


def cost_notes(model: nn.Module, structure: Structure, samples: Samples, genomes: Iterable[BoolArray]) -> list[str]:
    """Return sentences for `Structure.notes`.

    Args:
        model: the traced model.
        structure: the traced structure of the model.
        samples: the samples of the example input.
        genomes: kept genes at which the closed form is compared with what is counted on the model cut to them.
    """
    notes = [WHOLE] if samples.form == "whole" else []
    if samples.left_out:
        notes.append(f"MACs leave out what these operators compute: {', '.join(samples.left_out)}")
    terms = cost_terms(structure)["macs"]
    for i, kept in enumerate(genomes):
        widths = np.array([[kept[group.genes].sum() for group in structure.groups]], dtype=np.int64)
        expected = sum(int(term.at(widths)[0]) for term in terms)
        counted = _counted(cut(model, structure, kept), samples, turn=i if samples.large else None)
        found = chain([samples.macs] if kept.all() else [], counted)
        other = next((macs for macs in found if macs != expected), None)
        if other is not None:
            notes.append(
                "MACs are of the operators that ran on the example input; what runs depends on the data or on the "
                f"widths (one model ran {other:,} MACs on one input where {expected:,} are counted)"
            )
            break
    return notes


def _counted(model: nn.Module, samples: Samples, turn: int | None) -> Iterator[int]:
    """Count the MACs of one sample and of its opposite; what cannot run, validation has rejected or data forbid.

    Args:
        model: a cut model.
        samples: the samples.
        turn: number of the model, where each of several is run once: the opposite first; None to run both.
    """
    inputs: list[Callable[[], Any]] = [samples.negated, partial(samples.take, 1)]
    if any(tensor.device.type != "cpu" for tensor in tensors_in(samples.example)):
        inputs = inputs[1:]  # numbers that end up as indices could end the process
    elif turn is not None:
        inputs = [inputs[turn % 2]]
    for sample in inputs:
        try:
            yield count_sample(model, sample()).macs
        except TraceError:
            continue
