"""PruningNet and the slimmable supernet: one set of tensors learns to serve many widths.

Every step trains the model at one or more sampled structures, cut out of the shared tensors, so that a step costs the
multiply-adds of the small models. Batch norms see the batch they are given; `Recipe` recomputes the statistics of the
whole model in the end, evaluators those of every candidate.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core import check
from autoprune.core.groups import IntArray
from autoprune.core.streams import stream
from autoprune.errors import InvalidArgumentError
from autoprune.prepare.recipe import Prepared, Recipe, Workbench
from autoprune.prepare.width_learner import WidthLearner, WidthTrainingSettings
from autoprune.surgery.copying import copy_model
from autoprune.surgery.matching import dense_tensors, model_weights
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.devices import prefers_channels_last
from autoprune.train.generators import KINDS, generator_macs, make_generators
from autoprune.train.randomness import derive_seed, preserved_random_state, seed_libraries
from autoprune.train.stepping import StepPlan, train_steps
from autoprune.weight_sets import Inherited

_BLOCK = 256
"""Structures drawn at a time: a longer training begins with those of a shorter one."""


class WidthTraining(Recipe):
    """Trains shared tensors at sampled structures; subclasses say at which ones, and what the tensors are.

    Without BatchNorm in the model nothing changes: the crops are trained as they are, and scored as they are.
    """

    Settings: ClassVar[type[Any]] = WidthTrainingSettings
    version = 2
    keeps_order = True

    def __init__(self, bench: Workbench) -> None:
        super().__init__(bench)
        self._block = lru_cache(maxsize=64)(self._draw_block)

    @abstractmethod
    def structures(self, settings: Any, n_steps: int) -> IntArray:
        """Return the (n_steps, k, d) genomes that the steps train."""

    def generators(self, settings: Any, weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the tensors that are trained beside the model's own ``weights``; none unless a subclass has some."""
        return {}

    def generation_macs(self, settings: Any) -> int:  # noqa: ARG002  of a subclass with generators
        """Return the multiply-adds of making the weights of one structure."""
        return 0

    def teaches_in_place(self, settings: Any) -> bool:  # noqa: ARG002  of a subclass that has the choice
        """Say whether the first structure of every step teaches the others; the dense model teaches otherwise."""
        return False

    def estimate_macs(self, settings: Any) -> int:
        """Return what is spent, exactly: the structures are known."""
        n_items = len(self.setup.data.train)
        genomes = self.structures(settings, settings.n_steps(n_items))
        n_steps, n_each, n_variables = genomes.shape
        n_batch = min(settings.batch_size, n_items)
        trained = n_batch * int(self.setup.costs(genomes.reshape(-1, n_variables))["macs"].sum())
        made = n_steps * n_each * self.generation_macs(settings)
        asks = settings.distillation > 0 and not self.teaches_in_place(settings)
        return 3 * (trained + made) + (n_steps * n_batch * self.setup.dense_macs if asks else 0)

    def prepare(
        self, settings: Any, parent: Inherited, seed: int, *, identity: str, slot: CheckpointSlot | None
    ) -> Prepared:
        """Train and return the shared tensors."""
        train, model, device = self.setup.data.train, self.setup.model, self.bench.torch_device
        n_steps = settings.n_steps(len(train))
        weights, orders = self._start(settings, parent, seed)
        asks = settings.distillation > 0 and not self.teaches_in_place(settings)
        learner = WidthLearner(
            self.setup,
            weights | self.generators(settings, weights, derive_seed(seed, "generators")),
            orders,
            self.structures(settings, n_steps),
            settings,
            device=device,
            teacher=copy_model(model).to(device).eval() if asks else None,
            in_place=self.teaches_in_place(settings),
        )
        plan = StepPlan(n_steps, settings.batch_size, device, prefers_channels_last(model), self.bench.threads)
        train_steps(learner, train, plan, identity=identity, checkpoint=slot, seed=seed)
        made = {name: tensor.detach() for name, tensor in learner.tensors.items()}
        return Prepared(made, orders, self.estimate_macs(settings))

    def sampled(self, settings: Any, n: int) -> IntArray:
        """Return (n, d) random genomes within the limits, spread over cost; more of them begin with the same ones."""
        blocks = [self._block(settings.structures_seed, i) for i in range(-(-n // _BLOCK))]
        return np.concatenate(blocks)[:n]

    def _draw_block(self, seed: int, index: int) -> IntArray:
        rng = stream(seed, "structures", index)
        return self.setup.space.sample(_BLOCK, rng, self.setup.costs, self.bench.limits)

    def _start(self, settings: Any, parent: Inherited, seed: int) -> tuple[dict[str, Tensor], tuple[IntArray, ...]]:
        """Return the model's tensors that the training starts from, and the orders of its channels."""
        structure, device = self.setup.structure, self.bench.torch_device
        own = model_weights(self.setup.model, structure)
        if settings.start == "trained":
            trained = dense_tensors({**own, **parent.weights}, structure, "parent's weights")
            return {name: tensor.to(device) for name, tensor in trained.items()}, parent.orders
        model = copy_model(self.setup.model)
        with preserved_random_state():
            seed_libraries(derive_seed(seed, "start"))
            reset_parameters(model)
        fresh = {name: tensor.to(device) for name, tensor in model_weights(model, structure).items()}
        return fresh, tuple(np.arange(group.width) for group in structure.groups)


def reset_parameters(model: nn.Module) -> None:
    """Give every module that knows how (``reset_parameters``) new random weights; others keep theirs."""
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()


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
    """Trains a slimmable supernet, dense weights that serve all widths; any evaluator scores candidates with slices.

    Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019: the sandwich rule (in
    every step the largest, the smallest and some random structures, gradients added up) and in-place distillation (the
    largest learns from the labels, all others from its answers alone). A step of the sandwich costs as much as several
    of a single structure; where the multiply-adds are few and the weights are trained already, one random structure per
    step that learns from the dense model goes further, which is our default.
    """

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
    """Trains a PruningNet, generators that make every layer's weights from the widths, at random structures.

    The evaluator ``generated`` scores candidates with the weights it makes. Liu et al., "MetaPruning: Meta Learning for
    Automatic Neural Network Channel Pruning", ICCV 2019, section 3.1, after the released code: one structure per
    iteration, one gradient step, all generators trained from scratch with SGD. What is ours: structures spread evenly
    over cost instead of uniform genes, the start from trained weights, learning from the dense model's answers, and the
    low-rank generators; see `autoprune.train.generators`.
    """

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
