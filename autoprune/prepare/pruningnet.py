"""PruningNet: generators that make the weights of every layer from the widths, trained at random structures.

Liu et al., "MetaPruning: Meta Learning for Automatic Neural Network Channel Pruning", ICCV 2019, section 3.1, after the
released code: one structure per iteration, one gradient step, all generators trained from scratch with SGD. What is
ours: structures spread evenly over cost instead of uniform genes, the start from trained weights, learning from the
dense model's answers, and the low-rank generators; see `autoprune.train.generators`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.core.groups import IntArray
from autoprune.errors import InvalidArgumentError, unknown_name
from autoprune.prepare.width_learner import WidthLearner, WidthTrainingSettings
from autoprune.prepare.width_training import WidthTraining
from autoprune.train.distill import Distillation
from autoprune.train.generators import KINDS, generator_macs, make_generators
from autoprune.train.randomness import derive_seed

SCRATCH_SPREAD = 0.5
"""From scratch: how much new generators vary a tensor with the widths, in standard deviations of its elements."""


@dataclass(frozen=True)
class PruningNetSettings(WidthTrainingSettings):
    """Settings of the recipe ``pruningnet``.

    Attributes:
        generator: ``"fc"`` as in the paper, about ``hidden + 1`` times the model's weights, or ``"low_rank"``.
        hidden: outputs of the generators' first layers (32 or 64 in the paper).
        rank: of the low-rank generators.
        distillation: share of the loss that is the divergence from the dense model's answers; 0 for labels only, which
            is what the paper does. The dense model's forward passes are counted.

    Raises:
        InvalidArgumentError: a value cannot be used; UnknownNameError: there is no such generator.
    """

    generator: str = "low_rank"
    hidden: int = 32
    rank: int = 8
    distillation: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.generator not in KINDS:
            raise unknown_name("generator", self.generator, KINDS)
        if self.hidden < 1 or self.rank < 1:
            msg = f"expected hidden and rank to be positive, got {self.hidden} and {self.rank}"
            raise InvalidArgumentError(msg)
        if not 0 <= self.distillation <= 1:
            msg = f"expected distillation to be a share in 0..1, got {self.distillation}"
            raise InvalidArgumentError(msg)


class PruningNetRecipe(WidthTraining):
    """Trains a PruningNet; the evaluator ``generated`` scores candidates with the weights it makes."""

    Settings = PruningNetSettings

    def structures(self, settings: PruningNetSettings, n_steps: int) -> IntArray:
        """Return one random structure per step."""
        return self.sampled(settings, n_steps)[:, None]

    def macs_beside(self, settings: PruningNetSettings, n_items: int) -> int:
        """Return what the generators spend forward and backward, and the dense model forward where it teaches."""
        teaching = n_items * self.setup.dense_macs if settings.distillation else 0
        structure = self.setup.structure
        making = generator_macs(structure, settings.generator, hidden=settings.hidden, rank=settings.rank)
        return 3 * making + teaching

    def learner(
        self,
        settings: PruningNetSettings,
        weights: Mapping[str, Tensor],
        orders: tuple[IntArray, ...],
        structures: IntArray,
        seed: int,
    ) -> WidthLearner:
        """Return generators around ``weights``."""
        generators = make_generators(
            self.setup.structure,
            weights,
            settings.generator,
            hidden=settings.hidden,
            rank=settings.rank,
            spread=0.0 if settings.start == "trained" else SCRATCH_SPREAD,
            generator=torch.Generator().manual_seed(derive_seed(seed, "generators")),
        )
        return WidthLearner(
            self.setup,
            {**weights, **generators},
            orders,
            structures,
            settings,
            device=self.bench.torch_device,
            teacher=self._dense() if settings.distillation else None,
            distillation=Distillation(settings.distillation) if settings.distillation else None,
        )

    def _dense(self) -> nn.Module:
        """Return a copy of the dense model on the device, to ask."""
        return copy.deepcopy(self.setup.model).to(self.bench.torch_device).eval()
