"""Sparsity training: the dense network trains on with a penalty that pushes channels to zero.

What comes out are dense weights in the order that went in; a search ranks the channels again. How channels are pushed
is the regularizer's business (`autoprune.regularizers`); the training loop is that of every other training.

In *rounds*, as in OICSR (CVPR 2019), channels die while it trains (`autoprune.regularizers.rounds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from autoprune.core import check
from autoprune.prepare.recipe import Prepared, Recipe
from autoprune.prepare.statistics import dense_model
from autoprune.regularizers.base import Channels
from autoprune.regularizers.registry import REGULARIZERS, make_regularizer
from autoprune.regularizers.rounds import PruningRounds
from autoprune.surgery.copying import copy_model
from autoprune.surgery.forward import forward
from autoprune.surgery.matching import model_weights
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.distill import Distillation
from autoprune.train.job_setup import JobSetup
from autoprune.train.loop import fit, training_macs
from autoprune.train.settings import FitSettings
from autoprune.train.source import to_device
from autoprune.weight_sets import Inherited


@dataclass(frozen=True)
class SparsifySettings:
    """Settings of the recipe ``sparsify``.

    Attributes:
        regularizer: a name of ``autoprune list regularizers``; ``"none"`` is plain training of equal length, the
            control.
        regularization: settings of the regularizer, by name.
        epochs: passes over the training items; may be a fraction.
        batch_size: items per step.
        learning_rate: the largest one; a cosine leads down from it (SGD). None: 0.02, or less where the network does
            not stand that, see `FitSettings`.
        warmup: share of the training in which the learning rate grows.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD, beside the penalty.
        distillation: share of the loss that is learned from the dense model's answers; at 1 no label is looked at.
        temperature: see `Distillation`.
        rounds: times at which the weakest channels are set to zero for good; 0 for none.
        target: multiply-adds that would be left after the last round, as a share of the dense model's.
        round_cap: largest share of a group's channels that dies in one round.

    Raises:
        UnknownNameError: there is no such regularizer.
        InvalidArgumentError: a value cannot be used.
    """

    regularizer: str = "group_lasso"
    regularization: Mapping[str, Any] = field(default_factory=dict)
    epochs: float = 10.0
    batch_size: int = 64
    learning_rate: float | None = None
    warmup: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    distillation: float = 0.0
    temperature: float = 4.0
    rounds: int = 0
    target: float = 0.5
    round_cap: float = 0.5

    def __post_init__(self) -> None:
        """Check the values; settings of the regularizer that were left out are written down."""
        chosen = REGULARIZERS.settings(self.regularizer, self.regularization)
        object.__setattr__(self, "regularization", asdict(chosen))
        check.not_negative(self, "momentum", "weight_decay")
        check.share(self, "distillation")
        check.positive(self, "temperature")
        check.at_least(self, 0, "rounds")
        check.share(self, "target", "round_cap", but=(0,))
        self.fit()

    def fit(self, device: str = "cpu", threads: int = 1) -> FitSettings:
        """Return how the network trains."""
        return FitSettings(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer="sgd",
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            distillation=Distillation(self.distillation, self.temperature) if self.distillation else None,
            device=device,
            threads=threads,
        )


class Sparsify(Recipe):
    """Trains the dense network with a sparsity regularizer."""

    Settings = SparsifySettings
    version = 2

    @classmethod
    def check(cls, settings: SparsifySettings, setup: JobSetup) -> None:
        """Refuse a regularizer that finds nothing to push in this model.

        Raises:
            InvalidArgumentError: it does not.
        """
        orders = tuple(np.arange(group.width) for group in setup.structure.groups)
        model = copy_model(setup.model).eval()
        regularizer = make_regularizer(
            settings.regularizer, Channels(model, setup.structure, orders), settings.regularization
        )
        try:  # some look for what they push in a forward pass
            forward(model, to_device(setup.data.example_batch()[0], next(model.parameters()).device))
            regularizer.penalty(0, 1)
        finally:
            regularizer.close()

    def estimate_macs(self, settings: SparsifySettings) -> int:
        """Return the multiply-adds of the training; a penalty on weights has none."""
        dense = self.setup.dense_macs
        teacher = dense if settings.distillation else 0
        return training_macs(settings.fit(), len(self.setup.data.train), macs=dense, teacher_macs=teacher)

    def prepare(
        self,
        settings: SparsifySettings,
        parent: Inherited,
        seed: int,
        *,
        identity: str,  # noqa: ARG002  the training loop names its run itself
        slot: CheckpointSlot | None,
    ) -> Prepared:
        """Train a copy of the network from the parent's weights.

        Raises:
            InvalidArgumentError: there is nothing that the regularizer could push.
            MetricError: the loss is not one finite number.
        """
        setup = self.setup
        model = dense_model(setup, parent.weights, self.bench.torch_device)
        channels = Channels(model, setup.structure, parent.orders)
        regularizer = make_regularizer(settings.regularizer, channels, settings.regularization)
        if settings.rounds:
            regularizer = PruningRounds(regularizer, settings.rounds, settings.target, settings.round_cap)
        fit(
            model,
            setup.data,
            setup.task,
            settings.fit(str(self.bench.torch_device), self.bench.threads),
            teacher=copy_model(setup.model) if settings.distillation else None,
            regularizer=regularizer,
            outputs=setup.structure.outputs,
            checkpoint=slot,
            seed=seed,
        )
        return Prepared(model_weights(model, setup.structure), parent.orders, self.estimate_macs(settings))
