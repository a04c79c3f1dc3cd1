"""PruningNet: generators that make the weights of every layer from the widths, trained at random structures.

Liu et al., "MetaPruning: Meta Learning for Automatic Neural Network Channel Pruning", ICCV 2019, section 3.1, after the
released code: one structure per iteration, one gradient step, all generators trained from scratch with SGD. What is
ours: structures spread evenly over cost instead of uniform genes, the start from trained weights, learning from the
dense model's answers, and the low-rank generators; see `autoprune.train.generators`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.core import check
from autoprune.core.groups import IntArray
from autoprune.prepare.width_learner import WidthTrainingSettings
from autoprune.prepare.width_training import WidthTraining
from autoprune.train.generators import KINDS, generator_macs, make_generators

SCRATCH_SPREAD = 0.5
"""From scratch: how much new generators vary a tensor with the widths, in standard deviations of its elements."""


@dataclass(frozen=True)
class PruningNetSettings(WidthTrainingSettings):
    """Settings of the recipe ``pruningnet``.

    Attributes:
        generator: ``"fc"`` as in the paper, about ``hidden + 1`` times the model's weights, or ``"low_rank"``.
        hidden: outputs of the generators' first layers (32 or 64 in the paper).
        rank: rank of the low-rank generators.

    Raises:
        InvalidArgumentError: a value cannot be used; UnknownNameError: there is no such generator.
    """

    generator: str = "low_rank"
    hidden: int = 32
    rank: int = 8

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check.one_of(self, "generator", KINDS)
        check.at_least(self, 1, "hidden", "rank")


class PruningNetRecipe(WidthTraining):
    """Trains a PruningNet; the evaluator ``generated`` scores candidates with the weights it makes."""

    Settings = PruningNetSettings
    evaluator = "generated"

    def structures(self, settings: PruningNetSettings, n_steps: int) -> IntArray:
        """Return one random structure per step."""
        return self.sampled(settings, n_steps)[:, None]

    def generation_macs(self, settings: PruningNetSettings) -> int:
        """Return the multiply-adds of all generators, once."""
        structure = self.setup.structure
        return generator_macs(structure, settings.generator, hidden=settings.hidden, rank=settings.rank)

    def generators(self, settings: PruningNetSettings, weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
        """Return new generators around ``weights``."""
        return make_generators(
            self.setup.structure,
            weights,
            settings.generator,
            hidden=settings.hidden,
            rank=settings.rank,
            spread=0.0 if settings.start == "trained" else SCRATCH_SPREAD,
            generator=torch.Generator().manual_seed(seed),
        )
