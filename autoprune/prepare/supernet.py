"""A slimmable supernet: dense weights that serve all widths, as the modern alternative to generated ones.

Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019: the sandwich rule (in every
step the largest, the smallest and some random structures, gradients added up) and in-place distillation (the largest
learns from the labels, all others from its answers alone). A step of the sandwich costs as much as several of a single
structure; where the multiply-adds are few and the weights are trained already, one random structure per step that
learns from the dense model goes further, which is our default.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoprune.core import check
from autoprune.core.groups import IntArray
from autoprune.errors import InvalidArgumentError
from autoprune.prepare.width_learner import WidthTrainingSettings
from autoprune.prepare.width_training import WidthTraining


@dataclass(frozen=True)
class SupernetSettings(WidthTrainingSettings):
    """Settings of the recipe ``supernet``.

    Attributes:
        n_random: random structures per step.
        sandwich: also train the largest and the smallest structure in every step; the largest is the teacher then (the
            paper has ``n_random=2``, ``distillation=1.0`` and ``temperature=1.0``), and the dense model otherwise.

    Raises:
        InvalidArgumentError: a value cannot be used.
    """

    n_random: int = 1
    sandwich: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check.at_least(self, 0, "n_random")
        if self.n_random == 0 and not self.sandwich:
            msg = f"expected n_random to be positive, or 0 with sandwich, got {self.n_random}"
            raise InvalidArgumentError(msg)


class SupernetRecipe(WidthTraining):
    """Trains a slimmable supernet; any evaluator scores candidates with slices of its weights."""

    Settings = SupernetSettings

    def structures(self, settings: SupernetSettings, n_steps: int) -> IntArray:
        """Return random structures for every step, in a sandwich after the largest and smallest within the limits."""
        space = self.setup.space
        random = self.sampled(settings, n_steps * settings.n_random).reshape(n_steps, -1, space.n_variables)
        if not settings.sandwich:
            return random
        largest = space.repair(space.full_genome[None, :], self.setup.costs, self.bench.limits)
        ends = np.concatenate([largest, space.min_genome[None, :]])
        return np.concatenate([np.broadcast_to(ends, (n_steps, *ends.shape)), random], axis=1)

    def teaches_in_place(self, settings: SupernetSettings) -> bool:
        """Return whether the largest structure is there to teach."""
        return settings.sandwich
