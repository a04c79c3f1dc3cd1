"""The only training loop: batches in an order of their own, one step each, saved now and then."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from autoprune.errors import MetricError
from autoprune.train.checkpoint import CheckpointSlot, load_state, save_state
from autoprune.train.devices import reproducible
from autoprune.train.randomness import derive_seed, preserved_random_state, seed_libraries
from autoprune.train.source import Batch
from autoprune.train.split import Split

PROGRESS_STEPS = 50
"""Steps between two reports, and between two looks at the loss on an accelerator."""


class Trainee(Protocol):
    """A module that learns: one batch in, one loss out. Its whole state can be saved."""

    def step(self, batch: Batch, step: int, n_steps: int) -> Tensor:
        """Learn from one batch, on the device.

        Args:
            batch: inputs and targets.
            step: steps done before.
            n_steps: steps in all.

        Returns:
            The loss before the step, a detached tensor without dimensions.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """Return everything that later steps depend on, by name."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where `state` was taken."""
        ...


@dataclass(frozen=True)
class StepPlan:
    """The plan of a training: how many steps, on which data.

    Attributes:
        n_steps: steps in all.
        batch_size: items per step; an incomplete last batch of an epoch is left out.
        device: device of the batches.
        channels_last: memory format of (n, c, h, w) inputs.
        threads: CPU threads that one operator may use.
        augment: whether training transforms are applied.
    """

    n_steps: int
    batch_size: int
    device: torch.device
    channels_last: bool = False
    threads: int = 1
    augment: bool = True


def train_steps(
    trainee: Trainee,
    split: Split,
    plan: StepPlan,
    *,
    identity: str,
    checkpoint: CheckpointSlot | None = None,
    report: Callable[[int, float], None] | None = None,
    seed: int = 0,
) -> tuple[tuple[int, float], ...]:
    """Let ``trainee`` take its steps.

    Every step draws from generators seeded by its own number, so a run that was killed at any moment and started again
    with the same checkpoint ends in the very state of an undisturbed one (on the same device and thread setting).

    Args:
        trainee: the module that learns; it is changed in place.
        split: items to learn from.
        plan: plan of the training: how many steps, on which data.
        identity: name of the run, made of all that decides its end; only such a run may resume from the checkpoint.
        checkpoint: slot to save to and resume from.
        report: called every `PROGRESS_STEPS` steps, after every save and at the end, with the steps done and the mean
            loss since the last report.
        seed: seed for order, transforms and whatever a step draws.

    Returns:
        ``(steps done, mean loss)`` of the reports of this process.

    Raises:
        MetricError: the loss is not one finite number.
        StoreError: the checkpoint is of another run; of a damaged one there is a warning, and the training starts over.
    """
    history: list[tuple[int, float]] = []
    with reproducible(plan.threads), preserved_random_state(plan.device):
        first = 0
        saved = None if checkpoint is None else load_state(checkpoint, identity)
        if saved is not None:
            first, state = saved
            trainee.restore(state)
        meter = _Meter(plan.device)
        for step, batch in batches(split, plan, range(first, plan.n_steps), seed):
            seed_libraries(derive_seed(seed, "step", step), plan.device)
            meter.add(trainee.step(batch, step, plan.n_steps))
            done = step + 1
            saves = checkpoint is not None and (done % checkpoint.every == 0 or done == plan.n_steps)
            if not saves and done % PROGRESS_STEPS and done < plan.n_steps:
                continue
            history.append((done, meter.read(done)))
            if checkpoint is not None and saves:
                save_state(checkpoint, done, identity, trainee.state())
            if report is not None:
                report(*history[-1])
    return tuple(history)


def steps_per_epoch(n_items: int, batch_size: int) -> int:
    """Return the number of complete batches, at least one."""
    return max(1, n_items // batch_size)


class _Meter:
    """The mean loss since the last reading, added up on the device: only a reading waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._total = torch.zeros((), device=device)
        self._count = 0

    def add(self, loss: Tensor) -> None:
        self._total = self._total + loss
        self._count += 1

    def read(self, step: int) -> float:
        """Return the mean and start afresh; a loss that is not finite is never reported or saved."""
        mean = self._total.item() / self._count
        self._total, self._count = torch.zeros_like(self._total), 0
        if not math.isfinite(mean):
            msg = f"the training loss became {mean} by step {step}; lower the learning rate or clip gradients"
            raise MetricError(msg)
        return mean


def batches(split: Split, plan: StepPlan, steps: range, seed: int) -> Iterator[tuple[int, Batch]]:
    """Yield the steps of ``steps`` with their batches: epoch after epoch, each in an order of its own.

    Args:
        split: items to learn from.
        plan: the plan of the training, which says what a batch is.
        steps: the range of steps; a later start gives the batches that the run would have had there.
        seed: seed for order and transforms.
    """
    per_epoch = steps_per_epoch(len(split), plan.batch_size)
    step = steps.start
    while step < steps.stop:
        epoch, skip = divmod(step, per_epoch)
        loader = split.loader(
            plan.batch_size,
            device=plan.device,
            channels_last=plan.channels_last,
            augment=plan.augment,
            shuffle=True,
            drop_last=True,
            seed=derive_seed(seed, "epoch", epoch),
            skip=skip,
        )
        for batch in itertools.islice(loader, steps.stop - step):
            yield step, batch
            step += 1
