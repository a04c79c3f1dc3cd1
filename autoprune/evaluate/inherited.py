"""A candidate as it is: slice the inherited weights or generate them, recalibrate BatchNorm, measure; no training."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.groups import BoolArray, Structure
from autoprune.core.jobs import Prepare, WeightSet
from autoprune.core.settings import settings_of
from autoprune.errors import MetricError
from autoprune.evaluate.distance import DISTANCE
from autoprune.evaluate.evaluator import FEWEST_AT_ONCE, NormReference, Proxy, ProxySettings, fingerprint_of
from autoprune.evaluate.measure import Batches
from autoprune.evaluate.prefix import SharedPrefix
from autoprune.prepare.statistics import StatisticsSettings, collect_norms, dense_model, unpack_norms
from autoprune.reconstruct.norms import DenseNorms, MovedNorms
from autoprune.surgery.copying import copy_model
from autoprune.surgery.cut import cut
from autoprune.surgery.skeleton import Skeleton
from autoprune.surgery.slicing import check_kept
from autoprune.train.devices import placed, reproducible
from autoprune.train.generators import PruningNet
from autoprune.train.job_setup import Genome, JobSetup
from autoprune.train.recalibrate import KINDS
from autoprune.train.task_traits import is_ours
from autoprune.weight_sets import Inherited

N_TRIED = 2
"""Items of either role that what probes share is tried on."""


class InheritedWeights:
    """Scores candidates with the weights they inherit.

    One persistent skeleton becomes every candidate in turn, so that a candidate costs its forward passes and little
    else. The same candidate gets the same figures whatever ran before.

    Args:
        setup: model, space, costs, data and task.
        settings: settings that say which items are used and how the model runs.

    Raises:
        InvalidArgumentError: the settings are of another class.
    """

    name = "inherited"
    deterministic = True

    Settings: ClassVar[type[ProxySettings]] = ProxySettings
    """The frozen dataclass of its settings; every field has a default."""

    @property
    def keeps_the_whole_model(self) -> bool:
        """Whether BatchNorm statistics stay where nothing is cut."""
        return self._moves_norms or not self._proxy.calibrates

    def __init__(self, setup: JobSetup, settings: ProxySettings | None = None) -> None:
        self.settings = settings_of(self.Settings, settings, f"the evaluator {self.name!r}")
        self.setup = setup
        self._proxy = Proxy(setup, self.settings)
        self.device = self._proxy.device
        self._norms: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None
        self._shared: tuple[Mapping[str, Tensor], SharedPrefix | None] | None = None
        self._seen: dict[str, tuple[Mapping[str, Tensor], DenseNorms]] = {}  # by the items that it was seen on
        self._along: tuple[Mapping[str, Tensor], bool] | None = None

    @property
    def proxy(self) -> Proxy:
        """The items that it measures on."""
        return self._proxy

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over settings, task and machine."""
        return fingerprint_of(self.name, self.settings, self.setup.task)

    def evaluation_macs(self, macs: int) -> int:
        """Return the multiply-adds of one evaluation: recalibration and measurement."""
        return macs * self._proxy.n_items

    def preparation(self, parent: WeightSet, id: int = 0) -> Prepare | None:
        """Return the job that sees which BatchNorm statistics the whole model has on the calibration items."""
        if not self._moves_norms:
            return None
        return Prepare(id, "statistics", asdict(self._statistics), parent, self.settings.proxy_seed)

    @property
    def _moves_norms(self) -> bool:
        """Whether the statistics that the weights came with are moved by the difference."""
        return self._proxy.by_difference

    @property
    def _statistics(self) -> StatisticsSettings:
        """The settings of the statistics that a preparation collects."""
        settings = self.settings
        return StatisticsSettings(
            max(1, settings.n_calibration),
            settings.batch_size,
            settings.channels_last,
            moments=False,
            norms=self._moves_norms,
        )

    def evaluate(self, genome: Genome, inherited: Inherited, seed: int = 0) -> dict[str, float]:  # noqa: ARG002  nothing is random
        """Return the metrics of a candidate on the search-validation items.

        Raises:
            InvalidArgumentError: the genome is not of this space.
            MetricError: a figure is not one finite number.
        """
        self._shared = None  # its memory is for others now that the probes are over
        with reproducible(self.settings.threads):
            return self._proxy.measure(self._scored(genome, inherited, self._proxy))

    @property
    def probes(self) -> bool:
        """Whether `probe` says something about `evaluate`: not so where training comes in between."""
        return True

    def probe(self, genome: Genome, inherited: Inherited) -> dict[str, float]:
        """Return the metrics and the distance of a candidate on few items: enough to predict by.

        Its BatchNorm statistics are moved by the difference on these items, batch by batch, so that one pass measures
        it, not one to recalibrate and another. Only where batches are too small for that, or statistics are taken
        afresh, it is recalibrated on as many calibration items first.

        Raises:
            InvalidArgumentError: the genome is not of this space.
            MetricError: a figure is not one finite number.
        """
        with reproducible(self.settings.threads):
            kept = self.setup.kept(genome, inherited)
            weights = self._weights(kept, inherited)
            model = self._skeleton.build(weights, kept).eval()
            prefix, unchanged = self._prefix(model, inherited.weights), list[str]()
            if prefix is not None:
                with self.settings.autocast(self.device):
                    unchanged = prefix.advance(*_changes(self.setup.structure, kept, weights, inherited.weights))
            with nullcontext() if prefix is None else prefix.skipping():
                if self._moves_norms_at_once:
                    return self._measured_at_once(model, kept, inherited.weights, unchanged)
                self._recalibrate(model, kept, weights, inherited, self._few)
                for name in (f"{norm}.{kind}" for norm in unchanged for kind in KINDS):
                    model.get_buffer(name).copy_(inherited.weights[name])
                return self._few.measure(model)

    def probe_macs(self, macs: int) -> int:
        """Return the multiply-adds of one probe, those that it shares with others included."""
        return macs * (self._few.n_validation if self._moves_norms_at_once else self._few.n_items)

    @property
    def _moves_norms_at_once(self) -> bool:
        """Whether probes need no recalibration of their own: batches have enough items to say what a cut moves."""
        return self._moves_norms and min(self.settings.batch_size, self._few.n_validation) >= FEWEST_AT_ONCE

    def _measured_at_once(
        self, model: nn.Module, kept: BoolArray, weights: Mapping[str, Tensor], unchanged: Collection[str]
    ) -> dict[str, float]:
        """Return the figures of a cut model on few items, with BatchNorm statistics moved by the difference on them."""
        few = self._few
        moved = MovedNorms(self._norms_seen("probes", few, few.validation, weights), self.setup.structure, kept)
        with moved.normalising(model, few.validation, unchanged) as batches:
            if is_ours(self.setup.task):
                return few.measure(model, batches)
            distance = few.distance(model, batches)  # a user's metric may run the model as often as it likes
        moved.settle(model)
        return {**few.task_metrics(model, few.validation), **distance}

    @cached_property
    def _few(self) -> Proxy:
        return self._proxy.fewer()

    def _prefix(self, model: nn.Module, weights: Mapping[str, Tensor]) -> SharedPrefix | None:
        """Return what remembers the beginning of the dense model; None where probes have to run as a whole."""
        if self._shared is None or self._shared[0] is not weights:
            few, found = self._few, None
            needs_more = few.calibrates and not self._moves_norms_at_once
            batches = [few.validation, *([few.calibration] if needs_more else [])]
            keeps_norms = self._moves_norms or not few.calibrates
            if keeps_norms and is_ours(self.setup.task) and all(isinstance(part, Sequence) for part in batches):
                tried = [next(iter(few.few(N_TRIED, role)))[0] for role in ("validation", "train")]
                with self.settings.autocast(self.device):
                    found = SharedPrefix(model, [inputs for part in batches for inputs, _ in part], tried)
            self._shared = (weights, found)
        return self._shared[1]

    def build(self, genome: Genome, inherited: Inherited, seed: int = 0) -> nn.Module:  # noqa: ARG002  nothing is random
        """Return the smaller model that `evaluate` measures: weights and BatchNorm statistics bit for bit."""
        with reproducible(self.settings.threads):
            scored = self._scored(genome, inherited, self._proxy)
            state = {name: tensor.clone() for name, tensor in scored.state_dict().items()}
        model = cut(self.setup.model, self.setup.structure, self.setup.kept(genome, inherited), inherited.weights)
        model.load_state_dict(state)
        return model.eval()

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics of any model on the same items, run in the same way."""
        with (
            reproducible(self.settings.threads),
            placed(model, self.device, training=False, channels_last=False),
        ):
            return self._proxy.measure(model)

    @cached_property
    def _skeleton(self) -> Skeleton:
        model = copy_model(self.setup.model).to(self.device)
        return Skeleton(model.eval(), self.setup.structure)

    def _scored(self, genome: Genome, inherited: Inherited, proxy: Proxy) -> nn.Module:
        """Return the skeleton as the candidate, recalibrated; valid until the next one."""
        kept = self.setup.kept(genome, inherited)
        weights = self._weights(kept, inherited)
        model = self._skeleton.build(weights, kept).eval()
        self._recalibrate(model, kept, weights, inherited, proxy)
        return model

    def _recalibrate(
        self,
        model: nn.Module,
        kept: BoolArray,
        weights: Mapping[str, Tensor],
        inherited: Inherited,
        proxy: Proxy | None = None,
    ) -> None:
        """Give a cut model its BatchNorm statistics; the whole model keeps those that it came with, bit for bit.

        Args:
            model: cut and on the device.
            kept: (n_genes,) boolean array, what it still has.
            weights: the dense tensors that it was cut from; left out where it was trained or solved since.
            inherited: weights and order that the candidate inherits.
            proxy: on which items; by default on all of them.
        """
        proxy = proxy or self._proxy
        if not self._moves_norms:
            proxy.recalibrate(model)
            return
        structure = self.setup.structure
        names = (info.name for info in structure.tensors)
        if kept.all() and all(weights.get(name) is inherited.weights[name] for name in names):
            return
        if self._moves_along(inherited):
            self._move(model, kept, inherited.weights, proxy)
        else:
            self._move_afterwards(model, kept, inherited, proxy)

    def _move(self, model: nn.Module, kept: BoolArray, weights: Mapping[str, Tensor], proxy: Proxy) -> None:
        """Move statistics layer by layer, with either model as it answers."""
        where = "calibration" if proxy is self._proxy else "few"
        seen = self._norms_seen(where, proxy, proxy.calibration, weights)
        proxy.move(model, MovedNorms(seen, self.setup.structure, kept))

    def _move_afterwards(self, model: nn.Module, kept: BoolArray, inherited: Inherited, proxy: Proxy) -> None:
        """Move statistics by the difference of those that either model has when every batch normalises it."""
        few = proxy is not self._proxy
        proxy.recalibrate(model, NormReference.of(self.setup.structure, kept, self._with_norms(inherited), few=few))

    def _norms_seen(self, where: str, proxy: Proxy, batches: Batches, weights: Mapping[str, Tensor]) -> DenseNorms:
        """Return what the norms of the whole model see on batches; the latest weights are remembered."""
        known = self._seen.get(where)
        if known is None or known[0] is not weights:
            known = (weights, proxy.norms_of(dense_model(self.setup, weights, self.device), batches))
            self._seen[where] = known
        return known[1]

    def _moves_along(self, inherited: Inherited) -> bool:
        """Say whether statistics are moved layer by layer, or afterwards: which is nearer to the whole model.

        On calibration items like those that the network is measured on the former is right, and the better the less
        these are like what it was trained on; on calibration items unlike the measured ones the latter is.
        """
        way, weights = self.settings.batchnorm, inherited.weights
        if way != "auto" or not self._proxy.moves_along:
            return way == "moved" and self._proxy.moves_along
        if self._along is None or self._along[0] is not weights:
            along, afterwards = self._distances_of_ways(inherited)
            self._along = (weights, along <= afterwards)
        return self._along[1]

    def _distances_of_ways(self, inherited: Inherited) -> tuple[float, float]:
        """Return the distances of a candidate of middle widths on few items, moved layer by layer and afterwards."""
        space = self.setup.space
        genome = tuple(((space.min_genome + space.full_genome) // 2).tolist())
        kept = self.setup.kept(genome, inherited)
        weights, found = self._weights(kept, inherited), list[float]()
        for move in (
            lambda model: self._move(model, kept, inherited.weights, self._few),
            lambda model: self._move_afterwards(model, kept, inherited, self._few),
        ):
            model = cut(self.setup.model, self.setup.structure, kept, weights).to(self.device).eval()
            move(model)  # not the skeleton, which is another candidate now
            try:
                found.append(self._few.distance(model, self._few.validation).get(DISTANCE, 0.0))
            except MetricError:  # not finite
                found.append(math.inf)
        return found[0], found[1]

    def _with_norms(self, inherited: Inherited) -> Mapping[str, Tensor]:
        """Return the weights with the statistics of a preparation, which are collected here where there was none."""
        weights = inherited.weights
        if unpack_norms(weights):
            return weights
        if self._norms is None or self._norms[0] is not weights:
            found = collect_norms(self.setup, weights, self._statistics, self.settings.proxy_seed, self.device)
            self._norms = (weights, {**weights, **found})
        return self._norms[1]

    def _weights(self, kept: BoolArray, inherited: Inherited) -> Mapping[str, Tensor]:  # noqa: ARG002  a subclass needs it
        """Return the dense tensors that are sliced to ``kept``."""
        return inherited.weights


def _changes(
    structure: Structure, kept: BoolArray, weights: Mapping[str, Tensor], dense: Mapping[str, Tensor]
) -> tuple[list[str], list[str]]:
    """Return the names of the tensors that are not the dense ones after a cut, and of modules with other attributes.

    Args:
        structure: the traced structure of the model.
        kept: (n_genes,) boolean array.
        weights: dense tensors by name that are cut.
        dense: those of the dense model.
    """
    tensors = [info.name for info in structure.tensors if weights.get(info.name) is not dense.get(info.name)]
    tensors += [axis.tensor for axis in structure.axes if not ((axis.genes < 0) | kept[axis.genes]).all()]
    cut_groups = set(np.unique(structure.group_of[~kept]).tolist())
    modules = [
        attribute.module
        for attribute in structure.attributes
        if any(group in cut_groups for count in attribute.value for group, _ in count.terms)
    ]
    return tensors, modules


class Generated(InheritedWeights):
    """Scores candidates with generated weights, cropped to the channels that stay, BatchNorm recalibrated.

    A WeightSet without generators (a slimmable supernet, the trained model) is scored as it is. Making the weights of a
    candidate takes about ``hidden + 1`` multiply-adds per weight once, where one image through a convolutional network
    takes hundreds to thousands; they are counted while generators are trained, and not here.

    Args:
        setup: model, space, costs, data and task.
        settings: settings that say which items are used and how the model runs.
    """

    name = "generated"

    keeps_the_whole_model = False

    @property
    def _moves_norms(self) -> bool:
        """False: generated weights are not those that the stored statistics are of."""
        return False

    @torch.no_grad()
    def _weights(self, kept: BoolArray, inherited: Inherited) -> Mapping[str, Tensor]:
        return PruningNet(self.setup.structure, inherited.weights)(check_kept(self.setup.structure, kept))
