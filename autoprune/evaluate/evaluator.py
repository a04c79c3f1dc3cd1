"""The protocol of evaluators, their common settings, and the items that all of them measure on."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.core import check
from autoprune.core.groups import BoolArray, Structure
from autoprune.core.jobs import Prepare, WeightSet
from autoprune.core.settings import identifying
from autoprune.errors import MetricError
from autoprune.evaluate.distance import DISTANCE, DenseAnswers, check_outputs
from autoprune.evaluate.measure import Batches, MeasureSettings, metrics_of, resident
from autoprune.prepare.statistics import PROBE_ITEMS, unpack_norms
from autoprune.reconstruct.norms import DenseNorms, MovedNorms
from autoprune.surgery.cut import cut
from autoprune.surgery.forward import forward
from autoprune.train.devices import reproducible, resolve_device
from autoprune.train.job_setup import Genome, JobSetup
from autoprune.train.randomness import preserved_random_state
from autoprune.train.recalibrate import batch_norms, move_by_difference, recalibrate
from autoprune.train.source import Batch
from autoprune.train.split import Loader, Split
from autoprune.train.task_traits import is_ours
from autoprune.train.tasks import Task
from autoprune.weight_sets import Inherited

SETTLED = 100
"""Training steps after which the running statistics of a BatchNorm may be taken for those of its training items."""

FEWEST_JUDGED, JUDGED = 40, 200
"""Calibration items on which BatchNorm statistics are compared with those that a model came with: at least, at most."""

FEWEST_AT_ONCE = 16
"""Items of a batch on which BatchNorm statistics may be moved by what a cut changes on that batch alone.

Of fewer the difference would hide much of the damage that it is to make good on average.
"""

FEWEST_BATCHES = 4
"""Batches that a polish sees at least, where there are items for it: what one half teaches is tried on the other."""

WAYS = ("auto", "moved", "difference", "afresh")
"""How BatchNorm statistics of candidates are found, see `ProxySettings`."""

N_LOOKED_AT = 4
"""Search-validation items that a dense model's outputs are looked at on before anything is measured."""


class Evaluator(Protocol):
    """Turns a candidate into metrics, and into the model that has them."""

    @property
    def name(self) -> str:
        """Its name in the registry."""
        ...

    @property
    def setup(self) -> JobSetup:
        """The setup that it was built from."""
        ...

    @property
    def device(self) -> torch.device:
        """The device that it needs the inherited weights on."""
        ...

    @property
    def proxy(self) -> Proxy:
        """The items that it measures on."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything but data, space, weights, genome and seed that a figure depends on."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether the seed changes nothing."""
        ...

    @property
    def keeps_the_whole_model(self) -> bool:
        """Whether the candidate of full widths is the model whose weights it inherits, bit for bit."""
        ...

    def preparation(self, parent: WeightSet, id: int = 0) -> Prepare | None:
        """Return the job that puts beside a set of weights what every evaluation with them needs; None for nothing."""
        ...

    def evaluation_macs(self, macs: int) -> int:
        """Return the multiply-adds of evaluating a candidate that takes ``macs`` per item, known before it starts."""
        ...

    def evaluate(self, genome: Genome, inherited: Inherited, seed: int = 0) -> dict[str, float]:
        """Return the task's metrics for one candidate."""
        ...

    @property
    def probes(self) -> bool:
        """Whether it has `probe` and `probe_macs`, and they say something about `evaluate`."""
        ...

    def probe(self, genome: Genome, inherited: Inherited) -> dict[str, float]:
        """Return the metrics and the distance of one candidate on few items."""
        ...

    def probe_macs(self, macs: int) -> int:
        """Return the multiply-adds of probing a candidate that takes ``macs`` per item, known before it starts."""
        ...

    def build(self, genome: Genome, inherited: Inherited, seed: int = 0) -> nn.Module:
        """Return an independent model with the exact weights and BatchNorm statistics that `evaluate` scores."""
        ...

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Return the task's metrics of any model, measured as `evaluate` does: equal to it for a built candidate."""
        ...


@dataclass(frozen=True)
class ProxySettings(MeasureSettings):
    """Settings: the items that a candidate is recalibrated and measured on, and how it is run.

    Attributes:
        n_calibration: training items, augmented once, that BatchNorm statistics are recomputed on; 0 leaves them.
        n_validation: search-validation items to measure on, of those that score (`Data.score`); None for all of them.
        proxy_seed: seed for the choice of items and the augmentation of the calibration items.
        batchnorm: how BatchNorm statistics are found. ``"moved"`` and ``"difference"`` move those that the dense model
            came with by what the cut changes on the calibration items, so that the uncut model stays itself whatever
            these items are: ``"moved"`` with either model as it answers, layer by layer, ``"difference"`` with either
            normalised by every batch. ``"auto"`` takes the one that brings a candidate of middle widths nearer to the
            dense model on few items. ``"afresh"`` replaces them by those of the calibration items.
    """

    n_calibration: int = 1000
    n_validation: int | None = None
    proxy_seed: int = 0
    batchnorm: str = "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check.at_least(self, 0, "n_calibration", "proxy_seed")
        check.at_least(self, 1, "n_validation")
        check.one_of(self, "batchnorm", WAYS, "way of BatchNorm")


@dataclass(frozen=True, eq=False)
class NormReference:
    """BatchNorm statistics of the dense model, cut to the channels of a candidate, by the names of the buffers.

    Attributes:
        dense: recalibrated on the calibration items.
        stored: statistics that came with the weights.
    """

    dense: Mapping[str, Tensor]
    stored: Mapping[str, Tensor]

    @classmethod
    def of(
        cls, structure: Structure, kept: BoolArray, weights: Mapping[str, Tensor], *, few: bool = False
    ) -> NormReference | None:
        """Return those of a candidate that keeps ``kept``; None where the weights hold no fresh statistics."""
        fresh = unpack_norms(weights, few=few)
        if not fresh:
            return None
        positions = {
            name: torch.from_numpy(kept_of[-1])
            for name, kept_of in structure.positions_of(fresh, kept).items()
            if kept_of
        }

        def cut_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: tensors[name][positions[name].to(tensors[name].device)] if name in positions else tensors[name]
                for name in fresh
            }

        return cls(cut_of(fresh), cut_of(weights))


class Proxy:
    """The calibration and validation items of a setup, transformed once and resident on the device.

    Args:
        setup: model, data and task.
        settings: settings that say which items are used and how the model runs.

    Attributes:
        settings: settings that say which items are used and how the model runs.
        calibrates: whether BatchNorm statistics are recomputed.
    """

    def __init__(self, setup: JobSetup, settings: ProxySettings) -> None:
        self._setup = setup
        self.settings = settings
        self.device = resolve_device(settings.device)
        self._channels_last = settings.layout(setup.model)
        validation = setup.data.score
        if settings.n_validation is not None:
            validation = validation.subset(settings.n_validation, settings.proxy_seed)
        self._validation = validation.loader(settings.batch_size, device=self.device, channels_last=self._channels_last)
        self.calibrates = settings.n_calibration > 0 and bool(batch_norms(setup.model))
        self._calibration = self._augmented(self._training(settings.n_calibration))

    def fewer(self, n: int = PROBE_ITEMS) -> Proxy:
        """Return ``n`` of these items of either role; by default the few that a probe is measured on."""
        found = copy.copy(self)
        for name in ("validation", "calibration", "n_items", "_answers"):
            found.__dict__.pop(name, None)
        seed, size = self.settings.proxy_seed, self.settings.batch_size
        found._validation = self._validation.split.subset(n, seed).loader(
            size, device=self.device, channels_last=self._channels_last
        )
        found._calibration = self._augmented(self._calibration.split.subset(n, seed))
        return found

    @cached_property
    def n_items(self) -> int:
        """Items that one candidate is run on: calibration, where it has BatchNorm, and validation."""
        return self._validation.n_items + (self._calibration.n_items if self.calibrates else 0)

    @cached_property
    def validation(self) -> Batches:
        """Search-validation batches."""
        return resident(self._validation, self._setup.data.memory_limit)

    @cached_property
    def calibration(self) -> Batches:
        """Training batches, augmented once."""
        return resident(self._calibration, self._setup.data.memory_limit)

    def training_items(self, n: int) -> Batches:
        """Return batches of ``n`` training items, all that there are at most, augmented once.

        Of few items batches are smaller, so that there are several, and fewer are left over that fill none.
        """
        split = self._training(n)
        size = min(self.settings.batch_size, max(FEWEST_AT_ONCE, len(split) // FEWEST_BATCHES))
        return resident(self._augmented(split, size), self._setup.data.memory_limit)

    @property
    def by_difference(self) -> bool:
        """Whether BatchNorm statistics are moved, not replaced."""
        return self.calibrates and self.settings.batchnorm != "afresh"

    @cached_property
    def moves_along(self) -> bool:
        """Whether statistics can be moved layer by layer: batches are large enough, and norms are torch's own."""
        norms = batch_norms(self._setup.model)
        is_large = min(self.settings.batch_size, self._calibration.n_items) >= FEWEST_AT_ONCE
        return self.by_difference and is_large and all(isinstance(norm, _BatchNorm) for norm in norms)

    def recalibrate(self, model: nn.Module, norms: NormReference | None = None) -> None:
        """Recompute the BatchNorm statistics of a model on the device, where it has any.

        Args:
            model: changed in place.
            norms: statistics to move by the difference; None keeps those found on the calibration items.
        """
        if not self.calibrates:
            return
        with torch.inference_mode(), self.settings.autocast(self.device):
            recalibrate(model, self.calibration)
        if norms is not None:
            move_by_difference(model, norms.dense, norms.stored)

    def measure(self, model: nn.Module, batches: Iterable[Batch] | None = None) -> dict[str, float]:
        """Return the task's metrics of a model that is on the device and in evaluation mode, and its distance.

        Args:
            model: the model to measure.
            batches: the search-validation batches, or what yields them; by default themselves.
        """
        batches = self.validation if batches is None else batches
        if not self._answers.exist:
            return self.task_metrics(model, batches)
        # A user's metric may do anything to the model that it is given: only ours are watched while they run it.
        metrics = {} if is_ours(self._setup.task) else self.task_metrics(model, batches)
        with self._answers.compared(model, batches) as watched:
            metrics = metrics or self.task_metrics(model, watched)
            with torch.inference_mode(), self.settings.autocast(self.device):
                return {**metrics, DISTANCE: watched.distance()}

    def distance(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Run a model over batches and return its distance alone; nothing where outputs cannot be compared."""
        with torch.inference_mode(), self.settings.autocast(self.device):
            if not self._answers.exist:
                for inputs, _ in batches:
                    forward(model, inputs)
                return {}
            with self._answers.compared(model, batches) as watched:
                return {DISTANCE: watched.distance()}

    def move(self, model: nn.Module, moved: MovedNorms) -> None:
        """Move the BatchNorm statistics of a cut model by what it changes on the calibration batches, layer by layer.

        Args:
            model: on the device and in evaluation mode; its statistics are changed in place.
            moved: statistics of the dense model on the same batches.
        """
        with (
            torch.inference_mode(),
            self.settings.autocast(self.device),
            moved.normalising(model, self.calibration) as batches,
        ):
            for inputs, _ in batches:
                forward(model, inputs)
        moved.settle(model)

    def norms_of(self, dense: nn.Module, batches: Batches) -> DenseNorms:
        """Return what the batch norms of a dense model see on batches of items."""
        norms = DenseNorms(dense)
        with torch.inference_mode(), self.settings.autocast(self.device), norms:
            for inputs, _ in batches:
                norms.next_batch()
                forward(dense, inputs)
        return norms

    def task_metrics(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the task's metrics alone, on any batches."""
        return metrics_of(model, batches, self._setup.task, self.device, self.settings)

    @cached_property
    def _answers(self) -> DenseAnswers:
        """The dense model's outputs on the search-validation items."""
        with torch.inference_mode(), self.settings.autocast(self.device):
            return DenseAnswers(self._dense(), self.validation, counted=self._setup.structure.outputs)

    def _dense(self) -> nn.Module:
        """Return a copy of the dense model, in evaluation mode."""
        everything = np.ones(self._setup.structure.n_genes, dtype=np.bool_)
        return cut(self._setup.model, self._setup.structure, everything).to(self.device).eval()

    def check_outputs(self) -> None:
        """Look at what the dense model answers to a few items, see `autoprune.evaluate.distance.check_outputs`.

        Raises:
            InvalidArgumentError: a distance from it cannot be measured.
        """
        inputs = next(iter(self.few(N_LOOKED_AT, "validation")))[0]
        with (
            reproducible(self.settings.threads),
            preserved_random_state(self.device),
            torch.inference_mode(),
            self.settings.autocast(self.device),
        ):
            check_outputs(self._dense(), inputs, self._setup.structure.outputs)

    @cached_property
    def distance_of_fresh_norms(self) -> float | None:
        """The distance of the dense model with BatchNorm statistics of the calibration items instead of its own.

        Measured on few items; None for a model without such statistics, or with those that layers are
        made with or has hardly trained, or without outputs to compare; and where there are so few items that
        theirs would be far from any.
        """
        norms = batch_norms(self._setup.model)
        collected = any(bool(norm.running_mean.any()) for norm in norms if norm.running_mean is not None)
        steps = max((int(norm.num_batches_tracked or 0) for norm in norms), default=0)  # 0 where weights do not say
        if 0 < steps < SETTLED:
            return None
        few = self.fewer(JUDGED)
        if not self.calibrates or not collected or few._calibration.n_items < FEWEST_JUDGED or not few._answers.exist:
            return None
        with reproducible(self.settings.threads):
            model = self._dense()
            few.recalibrate(model)
            with (
                torch.inference_mode(),
                self.settings.autocast(self.device),
                few._answers.compared(model, few.validation) as watched,
            ):
                try:
                    return watched.distance()
                except MetricError:  # not finite
                    return math.inf

    @property
    def n_validation(self) -> int:
        """Search-validation items."""
        return self._validation.n_items

    def few(self, n: int, role: Literal["validation", "train"]) -> Loader:
        """Return the same few items every time: of search-validation, or of training with its random transforms."""
        split = self._validation.split if role == "validation" else self._setup.data.train
        return split.subset(n, self.settings.proxy_seed).loader(
            max(2, min(n, self.settings.batch_size)),
            device=self.device,
            channels_last=self._channels_last,
            augment=role == "train",
            seed=self.settings.proxy_seed,
        )

    def _training(self, n: int) -> Split:
        return self._setup.data.train.subset(max(1, n), self.settings.proxy_seed)

    def _augmented(self, split: Split, batch_size: int | None = None) -> Loader:
        return split.loader(
            batch_size or self.settings.batch_size,
            device=self.device,
            channels_last=self._channels_last,
            augment=True,
            shuffle=True,
            drop_last=True,
            seed=self.settings.proxy_seed,
        )


def fingerprint_of(name: str, settings: MeasureSettings, task: Task) -> str:
    """Return the SHA-256 of an evaluator's name, settings, task and machine."""
    text = json.dumps([name, identifying(settings), settings.identity(), task.fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
