"""Numeric validation: a cut model must compute what the dense one computes without the removed channels.

On a float64 copy with new weights, at several random genomes of unequal widths and at the minimum, the cut model is
compared with the dense one whose removed channels are noise where they are produced and zero where they are consumed:
at the output and at every layer on the way, in evaluation and in training mode. Groups that do not agree are found by
bisection. A group whose index map could be shuffled without anybody noticing is unverifiable. What the check decides,
`trace` pins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from autoprune.core.groups import Pin, Structure
from autoprune.core.space import SearchSpace
from autoprune.cost.samples import Samples, find_samples
from autoprune.trace._copying import copy_model, undisturbed
from autoprune.trace._examiner import N_RANDOM, Examiner
from autoprune.trace._restrict import without_groups
from autoprune.trace.unwrap import unwrap


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


def validate(
    model: nn.Module, structure: Structure, example_input: Any, *, seed: int = 0, space: SearchSpace | None = None
) -> ValidationReport:
    """Compare cut models with the dense one.

    Args:
        model: the model that was traced; it stays as it is.
        structure: what the trace found.
        example_input: what the model is run on.
        seed: of weights, noise and genomes.
        space: whose widths are compared; by default every width from 1 on.

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


def pin_offenders(
    model: nn.Module, structure: Structure, samples: Samples, *, seed: int = 0, space: SearchSpace | None = None
) -> Structure:
    """Return ``structure`` without the groups that a validation rejects.

    Args:
        model: the model that was traced.
        structure: what the trace found.
        samples: what the model is run on.
        seed: of weights, noise and genomes.
        space: whose widths are compared; by default every width from 1 on.
    """
    if not structure.groups:
        return structure
    problems = Examiner(model, structure, samples, seed, space).problems()
    return without_groups(structure, problems) if problems else structure
