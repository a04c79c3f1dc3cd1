"""What a recipe is, what it works with, and how a Prepare job becomes an outcome."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from autoprune.core.budget import Spending
from autoprune.core.groups import IntArray
from autoprune.core.jobs import Outcome, Prepare, Status
from autoprune.core.limits import within_limits
from autoprune.core.settings import settings_of
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.devices import resolve_device
from autoprune.train.job_setup import Genome, JobSetup
from autoprune.weight_sets import Blobs, Inherited, WeightReader, put_weight_set

Checkpoints = Callable[[str], CheckpointSlot]
"""Gives the place for the checkpoints of one training run, by the run's name."""


@dataclass(frozen=True, eq=False)
class Workbench:
    """Everything that recipes share.

    Attributes:
        setup: model, space, costs, data and task.
        blobs: where weights and orders are, and where those that are made go.
        limits: hard upper limits, absolute, by cost name: a genome that is found respects them.
        checkpoints: where training runs are saved; None where nothing is.
        device: ``"cpu"``, ``"cuda"``, ... or ``"auto"``.
        threads: of one operator on the CPU.
    """

    setup: JobSetup
    blobs: Blobs
    limits: Mapping[str, int] = field(default_factory=dict)
    checkpoints: Checkpoints | None = None
    device: str = "cpu"
    threads: int = 1

    @property
    def torch_device(self) -> torch.device:
        """Where to train."""
        return resolve_device(self.device)


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a recipe made.

    Attributes:
        weights: dense tensors by name; whatever else the evaluator of these weights needs may be among them.
        orders: per group, (w,) integer permutation of its channels, best first.
        macs: executed multiply-adds, forward passes once and backward passes twice, those before a resumption included.
        genome: one level index per width variable, where the recipe found a genome.
        metrics: finite figures for the record, such as the cost that training ended with.
    """

    weights: Mapping[str, Tensor]
    orders: tuple[IntArray, ...]
    macs: int
    genome: Genome | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Recipe(ABC):
    """Makes weights, and often finds a genome. Subclasses say what it costs, and do it.

    Equal settings, parents and seeds give equal weights, also when the job was killed and resumed in between.

    Args:
        bench: what it works with.
    """

    Settings: ClassVar[type[Any]]
    """The frozen dataclass of JSON types whose fields are the settings of a job; every field has a default."""

    version: ClassVar[int] = 1
    """Raised whenever equal settings begin to give other weights."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.setup = bench.setup

    @final
    def estimate(self, job: Prepare) -> Spending:
        """Return what ``job`` will be charged, seconds excepted.

        Raises:
            InvalidArgumentError: the job's settings are not those of the recipe.
        """
        return Spending(macs=self.estimate_macs(self._settings(job)))

    @final
    def __call__(self, job: Prepare) -> Outcome:
        """Run ``job``, or go on where its checkpoint ends; may raise."""
        inherited = WeightReader(self.bench.blobs, self.setup.structure, self.bench.torch_device)(job.parent)
        key = self.key(job)
        slot = None if self.bench.checkpoints is None else self.bench.checkpoints(key)
        made = self.prepare(self._settings(job), inherited, job.seed, identity=key, slot=slot)
        weight_set = put_weight_set(self.bench.blobs.put, self.setup.structure, made.weights, made.orders)
        spent = Spending(macs=made.macs)
        return Outcome(job, Status.OK, made.metrics, spent=spent, weight_set=weight_set, genome=made.genome)

    @final
    def key(self, job: Prepare) -> str:
        """Return the SHA-256 over everything but the data and the machine that decides what ``job`` makes."""
        parts = [job.recipe, self.version, dataclasses.asdict(self._settings(job)), *dataclasses.astuple(job.parent)]
        return hashlib.sha256(json.dumps([*parts, job.seed], sort_keys=True).encode()).hexdigest()

    @abstractmethod
    def estimate_macs(self, settings: Any) -> int:
        """Return the multiply-adds that `prepare` will spend, within 5 %, known before it starts."""

    @abstractmethod
    def prepare(
        self, settings: Any, parent: Inherited, seed: int, *, identity: str, slot: CheckpointSlot | None
    ) -> Prepared:
        """Make weights.

        Args:
            settings: an instance of ``Settings``.
            parent: weights and orders to start from, on the bench's device; never written to.
            seed: of every random choice.
            identity: names the training run, for its checkpoint.
            slot: where to save and resume; None where nothing is saved.
        """

    def repaired(self, genome: IntArray) -> Genome:
        """Return a (d,) genome within the hard limits, as an outcome wants it."""
        fits = within_limits(self.setup.costs(genome[None, :]), self.bench.limits)[0] if self.bench.limits else True
        if not fits:
            genome = self.setup.space.repair(genome[None, :], self.setup.costs, self.bench.limits)[0]
        return tuple(np.asarray(genome, dtype=np.int64).tolist())

    def _settings(self, job: Prepare) -> Any:
        return settings_of(self.Settings, job.settings, f"the recipe {job.recipe!r}")
