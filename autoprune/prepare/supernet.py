"""A slimmable supernet: dense weights that serve all widths, as the modern alternative to generated ones.

Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019: the sandwich rule (in every
step the largest, the smallest and some random structures, gradients added up) and in-place distillation (the largest
learns from the labels, all others from its answers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from autoprune.core.groups import IntArray
from autoprune.errors import InvalidArgumentError
from autoprune.prepare.width_learner import WidthLearner, WidthTrainingSettings
from autoprune.prepare.width_training import WidthTraining
from autoprune.train.distill import Distillation


@dataclass(frozen=True)
class SupernetSettings(WidthTrainingSettings):
    """Settings of the recipe ``supernet``.

    Attributes:
        n_random: random structures per step, beside the largest and the smallest.
        distillation: share of the largest structure's answers in the loss of the others; 0 for labels only.
        temperature: of the distillation.

    Raises:
        InvalidArgumentError: a value cannot be used.
    """

    n_random: int = 2
    distillation: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.n_random < 0:
            msg = f"expected n_random not to be negative, got {self.n_random}"
            raise InvalidArgumentError(msg)
        Distillation(self.distillation, self.temperature)


class SupernetRecipe(WidthTraining):
    """Trains a slimmable supernet; any evaluator scores candidates with slices of its weights."""

    Settings = SupernetSettings

    def structures(self, settings: SupernetSettings, n_steps: int) -> IntArray:
        """Return the largest and the smallest structure within the limits, and random ones between, for every step."""
        space = self.setup.space
        full = space.repair(space.full_genome[None, :], self.setup.costs, self.bench.limits)
        ends = np.concatenate([full, space.min_genome[None, :]])
        between = self.sampled(settings, n_steps * settings.n_random).reshape(n_steps, -1, space.n_variables)
        return np.concatenate([np.broadcast_to(ends, (n_steps, *ends.shape)), between], axis=1)

    def macs_beside(self, settings: SupernetSettings, n_items: int) -> int:  # noqa: ARG002  nothing else is run
        """Return 0: the largest structure teaches with the answers it was trained by."""
        return 0

    def learner(
        self,
        settings: SupernetSettings,
        weights: Mapping[str, Tensor],
        orders: tuple[IntArray, ...],
        structures: IntArray,
        seed: int,  # noqa: ARG002  nothing is drawn
    ) -> WidthLearner:
        """Return the shared weights themselves."""
        return WidthLearner(
            self.setup,
            weights,
            orders,
            structures,
            settings,
            device=self.bench.torch_device,
            distillation=Distillation(settings.distillation, settings.temperature) if settings.distillation else None,
            in_place=True,
        )
