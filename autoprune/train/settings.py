"""Settings of the training loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from autoprune.core import check
from autoprune.errors import InvalidArgumentError
from autoprune.train.devices import autocast
from autoprune.train.distill import Distillation

OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True)
class FitSettings:
    """Settings of one training run. Equal settings, data and seed give equal weights.

    Attributes:
        epochs: passes over the training items; may be a fraction.
        steps: optimizer steps, instead of ``epochs``.
        batch_size: items per step; an incomplete last batch of an epoch is left out.
        optimizer: ``"sgd"`` or ``"adamw"``; by default SGD at a learning rate that is given, AdamW where none is.
        learning_rate: largest learning rate, after the warm-up. None: the largest of some that does little harm in a
            few steps each, which are taken from the others (`autoprune.train.rates`).
        momentum: momentum of SGD.
        nesterov: Nesterov momentum in SGD.
        betas: betas of AdamW.
        weight_decay: weight decay, coupled in SGD, decoupled in AdamW.
        warmup: share of all steps in which the learning rate grows linearly from nearly 0.
        final_learning_rate: share of ``learning_rate`` at the end of the cosine (Loshchilov and Hutter, "SGDR", 2017).
        clip_norm: largest norm of all gradients together.
        mixed_precision: bfloat16 on GPUs.
        cpu_bfloat16: bfloat16 on CPUs, too: for processors that compute in it (AVX512-BF16, AMX), slow on others.
        channels_last: memory format; None picks it for models with 2-d convolutions.
        distillation: settings of distillation, if there is a teacher: how much its outputs count.
        device: ``"cpu"``, ``"cuda"``, ... or ``"auto"``.
        threads: CPU threads that one operator may use.

    Raises:
        InvalidArgumentError: a value cannot be used; UnknownNameError: there is no such optimizer.
    """

    epochs: float = 1.0
    steps: int | None = None
    batch_size: int = 128
    optimizer: str = ""
    learning_rate: float | None = None
    momentum: float = 0.9
    nesterov: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 5e-4
    warmup: float = 0.0
    final_learning_rate: float = 0.0
    clip_norm: float | None = None
    mixed_precision: bool = True
    cpu_bfloat16: bool = False
    channels_last: bool | None = None
    distillation: Distillation | None = None
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        """Check the values; the usual optimizer is written down."""
        if not self.optimizer:
            object.__setattr__(self, "optimizer", OPTIMIZERS[self.learning_rate is None])
        check.one_of(self, "optimizer", OPTIMIZERS)
        check.positive(self, "epochs", "batch_size", "learning_rate", "threads", "steps", "clip_norm", finite=True)
        check.not_negative(self, "momentum", "weight_decay")
        check.share(self, "warmup", "final_learning_rate")

    def autocast(self, device: torch.device) -> Any:
        """Return the context that losses are computed in."""
        return autocast(device, enabled=self.mixed_precision, on_cpu=self.cpu_bfloat16)

    def n_steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps, at least one."""
        return self.steps if self.steps is not None else max(1, round(self.epochs * steps_per_epoch))

    def learning_rate_at(self, step: int, n_steps: int) -> float:
        """Return the learning rate of ``step``, counted from 0: linear warm-up, then a cosine to the final one."""
        if self.learning_rate is None:
            msg = "expected settings with a learning rate; where there is none, a training finds one first"
            raise InvalidArgumentError(msg)
        warm = round(self.warmup * n_steps)
        if step < warm:
            return self.learning_rate * (step + 1) / (warm + 1)
        progress = (step - warm) / max(1, n_steps - warm)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.learning_rate * (self.final_learning_rate + (1 - self.final_learning_rate) * cosine)


IMITATION = FitSettings(weight_decay=0.0, distillation=Distillation(weight=1.0))
"""Settings to learn a dense model's outputs alone, without labels.

AdamW, whose steps do not depend on the unit of the outputs: SGD at a rate that suits one network stands still on
another, or diverges (docs/reconstruction.md).
"""
