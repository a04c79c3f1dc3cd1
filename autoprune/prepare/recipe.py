"""The base class of recipes, everything they work with, and how a Prepare job becomes an outcome."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from autoprune.core.budget import Spending
from autoprune.core.groups import IntArray
from autoprune.core.jobs import Preparation, Prepare, Status
from autoprune.core.limits import within_limits
from autoprune.core.settings import settings_of
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import named_tensors
from autoprune.surgery.reading import closed
from autoprune.surgery.slicing import written_back
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.devices import placed, prefers_channels_last, reproducible, resolve_device
from autoprune.train.job_setup import Genome, JobSetup
from autoprune.train.randomness import derive_seed
from autoprune.train.recalibrate import batch_norms, recalibrate
from autoprune.train.split import Loader
from autoprune.weight_sets import Blobs, Inherited, WeightReader, put_weight_set

N_CALIBRATION = 1000
"""Training items that BatchNorm statistics of trained weights are recomputed on, as evaluators do."""

CALIBRATION_BATCH = 100

Checkpoints = Callable[[str], CheckpointSlot]
"""Gives the place for the checkpoints of one training run, by the run's name."""


@dataclass(frozen=True, eq=False)
class Workbench:
    """Everything that a recipe works with: model, space, costs, data, task, limits and checkpoints.

    Attributes:
        setup: model, space, costs, data and task.
        blobs: blobs that weights and orders are read from and written to.
        limits: hard upper limits, absolute, by cost name: a genome that is found respects them.
        checkpoints: gives each training run its checkpoint slot; None saves nothing.
        device: ``"cpu"``, ``"cuda"``, ... or ``"auto"``.
        threads: CPU threads that one operator may use.
    """

    setup: JobSetup
    blobs: Blobs
    limits: Mapping[str, int] = field(default_factory=dict)
    checkpoints: Checkpoints | None = None
    device: str = "cpu"
    threads: int = 1

    @property
    def torch_device(self) -> torch.device:
        """The device to train on."""
        return resolve_device(self.device)


@dataclass(frozen=True, eq=False)
class Prepared:
    """The result of a recipe.

    Attributes:
        weights: dense tensors by name; whatever else the evaluator of these weights needs may be among them.
        orders: per group, (w,) integer permutation of its channels, best first.
        macs: executed multiply-adds, forward passes once and backward passes twice, those before a resumption included.
        genome: one level index per width variable, where the recipe found a genome. Weights that were trained are then
            those of this network: nothing is stored that reads the channels it removes.
        metrics: finite figures for the record, such as the cost that training ended with.
    """

    weights: Mapping[str, Tensor]
    orders: tuple[IntArray, ...]
    macs: int
    genome: Genome | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Recipe(ABC):
    """Base class of recipes: makes weights, and often finds a genome. Subclasses implement the estimate and the work.

    Equal settings, parents and seeds give equal weights, also when the job was killed and resumed in between.

    Weights that were trained are stored as one model that can be looked at as a whole, such as by what takes second
    moments or polishes: a genome that was found is closed around (`autoprune.surgery.reading.closed`), and the
    BatchNorm statistics are recomputed, whatever the training left behind.

    Args:
        bench: everything that the recipe works with.
    """

    Settings: ClassVar[type[Any]]
    """The frozen dataclass of JSON types whose fields are the settings of a job; every field has a default."""

    version: ClassVar[int] = 1
    """Raised whenever equal settings begin to give other weights."""

    trains: ClassVar[bool] = True
    """Whether weights are changed; False where those of the parent come out, which keep all their channels."""

    recalibrates: ClassVar[bool] = True
    """Whether BatchNorm statistics of changed weights are recomputed; False where the function is the same."""

    keeps_order: ClassVar[bool] = False
    """Whether the order of channels is part of what is made, such as that of nested widths, and is not ranked again."""

    finds_network: ClassVar[bool] = False
    """Whether the weights are those of one network that it finds: what that lacks is gone from them."""

    evaluator: ClassVar[str] = ""
    """The evaluator that reads everything that is made; "" where any does."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.setup = bench.setup

    @classmethod
    def check(cls, settings: Any, setup: JobSetup) -> None:  # noqa: ARG003 - most refuse nothing
        """Refuse what could not be prepared, before a run begins; nothing is refused unless a recipe says so.

        Args:
            settings: settings of the recipe.
            setup: model, space, costs, data and task.

        Raises:
            InvalidArgumentError: there is nothing in the model that the recipe could work on.
        """
        return

    @final
    def estimate(self, job: Prepare) -> Spending:
        """Return what ``job`` will be charged, seconds excepted.

        Raises:
            InvalidArgumentError: the job's settings are not those of the recipe.
        """
        return Spending(macs=self.estimate_macs(self._settings(job)) + self._calibration_macs)

    @final
    def __call__(self, job: Prepare) -> Preparation:
        """Run ``job``, or go on where its checkpoint ends; may raise."""
        inherited = WeightReader(self.bench.blobs, self.setup.structure, self.bench.torch_device)(job.parent)
        key = self.key(job)
        slot = None if self.bench.checkpoints is None else self.bench.checkpoints(key)
        made = self.prepare(self._settings(job), inherited, job.seed, identity=key, slot=slot)
        weights = made.weights
        if self.trains and self.recalibrates:
            weights = self._as_one_model(made, derive_seed(job.seed, "calibration"))
        weight_set = put_weight_set(self.bench.blobs.put, self.setup.structure, weights, made.orders)
        spent = Spending(macs=made.macs + self._calibration_macs)
        return Preparation(job, Status.OK, made.metrics, spent=spent, weight_set=weight_set, found_genome=made.genome)

    @final
    def mark(self, job: Prepare) -> str:
        """Name how far earlier attempts at ``job`` have got: a hash of their checkpoint, "" without one."""
        data = None if self.bench.checkpoints is None else self.bench.checkpoints(self.key(job)).read()
        return "" if data is None else hashlib.sha256(data).hexdigest()

    @final
    def key(self, job: Prepare) -> str:
        """Return the SHA-256 over everything but the data and the machine that decides what ``job`` makes."""
        parts = [job.recipe, self.version, dataclasses.asdict(self._settings(job)), *dataclasses.astuple(job.parent)]
        return hashlib.sha256(json.dumps([*parts, job.seed], sort_keys=True).encode()).hexdigest()

    @abstractmethod
    def estimate_macs(self, settings: Any) -> int:
        """Return the multiply-adds that `prepare` will spend, within 5 %, known before it starts."""

    @cached_property
    def _calibration_macs(self) -> int:
        """The multiply-adds of new BatchNorm statistics, where there are any."""
        is_needed = self.trains and self.recalibrates and bool(batch_norms(self.setup.model))
        return self.setup.dense_macs * self._calibration(0).n_items if is_needed else 0

    def _calibration(self, seed: int) -> Loader:
        return self.setup.data.train.subset(N_CALIBRATION, seed).loader(
            CALIBRATION_BATCH,
            device=self.bench.torch_device,
            channels_last=prefers_channels_last(self.setup.model),
            augment=True,
            shuffle=True,
            drop_last=True,
            seed=seed,
        )

    def _as_one_model(self, made: Prepared, seed: int) -> dict[str, Tensor]:
        """Return what was made as the weights of a model: closed around the genome, BatchNorm statistics its own."""
        structure = self.setup.structure
        weights = dict(made.weights)
        if made.genome is not None:
            widths = self.setup.space.widths(np.array([made.genome], dtype=np.int64))[0]
            weights = closed(weights, structure, structure.kept_genes(made.orders, widths))
        everything = np.ones(structure.n_genes, dtype=np.bool_)
        if not batch_norms(self.setup.model):
            return weights
        model = cut(self.setup.model, structure, everything, weights)
        device, channels_last = self.bench.torch_device, prefers_channels_last(model)
        with (
            reproducible(self.bench.threads),
            placed(model, device, training=False, channels_last=channels_last),
        ):
            recalibrate(model, self._calibration(seed))
        return written_back(weights, named_tensors(model), structure, everything)

    @abstractmethod
    def prepare(
        self, settings: Any, parent: Inherited, seed: int, *, identity: str, slot: CheckpointSlot | None
    ) -> Prepared:
        """Make weights.

        Args:
            settings: an instance of ``Settings``.
            parent: weights and orders to start from, on the bench's device; never written to.
            seed: seed for every random choice.
            identity: name of the training run, for its checkpoint.
            slot: slot to save to and resume from; None saves nothing.
        """

    def repaired(self, genome: IntArray) -> Genome:
        """Return a (d,) genome within the hard limits, as an outcome wants it."""
        fits = within_limits(self.setup.costs(genome[None, :]), self.bench.limits)[0] if self.bench.limits else True
        if not fits:
            genome = self.setup.space.repair(genome[None, :], self.setup.costs, self.bench.limits)[0]
        return tuple(np.asarray(genome, dtype=np.int64).tolist())

    def _settings(self, job: Prepare) -> Any:
        return settings_of(self.Settings, job.settings, f"the recipe {job.recipe!r}")
