"""Preparations that really train, on workers that die while they do."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.core.jobs import WeightSet
from autoprune.evaluate.evaluator import ProxySettings
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.evaluate.runner import Runner
from autoprune.prepare.recipe import Checkpoints, Prepared, Recipe, Workbench
from autoprune.prepare.registry import RECIPES
from autoprune.testing.digits_network import digits_inherited, digits_network, digits_setup
from autoprune.train.checkpoint import CheckpointSlot, restore_training, training_state
from autoprune.train.source import Batch
from autoprune.train.stepping import StepPlan, train_steps
from autoprune.weight_sets import Blobs, Inherited, put_weight_set

BATCH_SIZE = 32

LOG, FUSE = "saves.txt", "fuse.json"
"""Notes: one process per save; the number of a save, and seconds."""


class Learner:
    """The digits network under gradient descent; a `Trainee`."""

    def __init__(self, inherited: Inherited) -> None:
        self.model = digits_network().train()
        self.model.load_state_dict(dict(inherited.weights))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.02, momentum=0.9)

    def step(self, batch: Batch, step: int, n_steps: int) -> Tensor:  # noqa: ARG002  every step is alike
        """Take one step."""
        inputs, targets = batch
        loss = F.cross_entropy(self.model(inputs), targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state(self) -> dict[str, Tensor]:
        """Return weights, statistics and momentum."""
        return training_state(self.model, self.optimizer)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state`."""
        restore_training(self.model, self.optimizer, state)


class TrainDigits(Recipe):
    """Trains the digits network a little further."""

    @dataclass(frozen=True)
    class Settings:
        """Settings of the training.

        Attributes:
            n_steps: batches to learn from.
        """

        n_steps: int = 60

    def estimate_macs(self, settings: Settings) -> int:
        """Return the multiply-adds of all steps."""
        return 3 * settings.n_steps * BATCH_SIZE * self.setup.dense_macs

    def prepare(
        self, settings: Settings, parent: Inherited, seed: int, *, identity: str, slot: CheckpointSlot | None
    ) -> Prepared:
        """Train."""
        learner = Learner(parent)
        plan = StepPlan(settings.n_steps, BATCH_SIZE, self.bench.torch_device)
        train_steps(learner, self.setup.data.train, plan, identity=identity, checkpoint=slot, seed=seed)
        return Prepared(learner.model.state_dict(), parent.orders, self.estimate_macs(settings))


@dataclass(frozen=True)
class Fuse:
    """A slot that notes who writes, and may end its process some time after a write.

    Attributes:
        slot: checkpoint slot that the bytes are written to.
        folder: folder that notes are left in.
        every: steps between two saves.
    """

    slot: CheckpointSlot
    folder: Path
    every: int

    def read(self) -> bytes | None:
        """Return what was written last."""
        return self.slot.read()

    def write(self, data: bytes) -> None:
        """Replace it; light the fuse at the write that the note names."""
        self.slot.write(data)
        with (self.folder / LOG).open("a", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
        note = self.folder / FUSE
        if note.exists():
            at, delay = json.loads(note.read_text("ascii"))
            if len(saves(self.folder)) == at:
                note.unlink()
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()


@dataclass(frozen=True)
class Interrupted:
    """Makes runners of one recipe on the digits whose process ends in the middle of a training when a note says so.

    Attributes:
        recipe: a registered one, or ``"digits"`` for `TrainDigits`.
        folder: folder that notes are left in.
        every: steps between two saves.
    """

    recipe: str
    folder: Path
    every: int = 2

    def start(self, blobs: Blobs, checkpoints: Checkpoints | None = None) -> Runner:
        """Return a runner."""
        setup = digits_setup()
        bench = Workbench(setup, blobs)
        if checkpoints is not None:
            bench = replace(bench, checkpoints=lambda key: Fuse(checkpoints(key), self.folder, self.every))
        recipe = TrainDigits if self.recipe == "digits" else RECIPES[self.recipe].load()
        measuring = InheritedWeights(setup, ProxySettings(n_calibration=0))
        return Runner(measuring, blobs, recipes={self.recipe: recipe(bench)})

    def lay_fuse(self, at: int, delay: float) -> None:
        """Begin a new log; the process that makes this save, counted from 1, ends so many seconds later."""
        (self.folder / LOG).unlink(missing_ok=True)
        (self.folder / FUSE).write_text(json.dumps([at, delay]), "ascii")


def saves(folder: Path) -> list[int]:
    """Return the processes that saved, in order."""
    return [int(line) for line in (folder / LOG).read_text("ascii").splitlines()]


def digits_weights(blobs: Blobs) -> WeightSet:
    """Put the untrained network's weights, with channels in a random order."""
    setup = digits_setup()
    inherited = digits_inherited(setup)
    return put_weight_set(blobs.put, setup.structure, inherited.weights, inherited.orders)
