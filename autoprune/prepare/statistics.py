"""Recipe ``statistics``: what evaluators need to know of the dense model, put beside the weights it is of.

The second moments that closed-form reconstruction needs, and the BatchNorm statistics of the whole model on the
calibration items, from which those of a candidate differ by what was cut: one pass of the dense model over augmented
training items for each. What comes out is the same weights and orders with these among the tensors: stored and shipped
like weights, once, whoever evaluates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core import check
from autoprune.prepare.recipe import Prepared, Recipe
from autoprune.reconstruct import MAX_BYTES, Moments, collect, pack_moments, survey
from autoprune.surgery.cut import cut
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.devices import prefers_channels_last, reproducible
from autoprune.train.job_setup import JobSetup
from autoprune.train.recalibrate import norm_statistics, recalibrate
from autoprune.train.split import Loader
from autoprune.weight_sets import Inherited

NORMS = "norms on calibration items: "
"""Of the names of tensors that hold such statistics; no parameter has a name like that."""

PROBE_ITEMS = 100
"""Calibration items, and search-validation items, of a probe: enough for a distance, which is paired."""


@dataclass(frozen=True)
class StatisticsSettings:
    """Settings of the recipe ``statistics``.

    Attributes:
        n_items: training items, augmented once.
        batch_size: items per forward pass.
        channels_last: memory format of (n, c, h, w) inputs; None picks it for models with 2-d convolutions.
        max_bytes: memory for all second moments together; what does not fit is coarser, or left out.
        moments: collect second moments.
        norms: collect BatchNorm statistics, on all of the items and on the few of a probe.
    """

    n_items: int = 1000
    batch_size: int = 100
    channels_last: bool | None = None
    max_bytes: int = MAX_BYTES
    moments: bool = True
    norms: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        check.at_least(self, 1, "n_items", "batch_size", "max_bytes")


class Statistics(Recipe):
    """Looks at the dense model; the seed decides which items, and how they are augmented."""

    Settings = StatisticsSettings
    trains = False

    def estimate_macs(self, settings: StatisticsSettings) -> int:
        """Return the multiply-adds of the dense model over the items, once for moments and once for norms."""
        return statistics_macs(self.setup, settings)

    def prepare(
        self,
        settings: StatisticsSettings,
        parent: Inherited,
        seed: int,
        *,
        identity: str,  # noqa: ARG002  seconds of work: nothing is saved on the way
        slot: CheckpointSlot | None,  # noqa: ARG002
    ) -> Prepared:
        """Return the parent's weights and orders, and what was asked for beside them."""
        weights = dict(parent.weights)
        device = self.bench.torch_device
        with reproducible(self.bench.threads):
            if settings.moments:
                weights |= pack_moments(collect_statistics(self.setup, parent.weights, settings, seed, device))
            if settings.norms:
                weights |= collect_norms(self.setup, parent.weights, settings, seed, device)
        return Prepared(weights, parent.orders, statistics_macs(self.setup, settings))


def statistics_macs(setup: JobSetup, settings: StatisticsSettings) -> int:
    """Return what `collect_statistics` and `collect_norms` spend, where the settings ask for them."""
    cpu = torch.device("cpu")
    n_items, n_few = (statistics_items(setup, settings, 0, cpu, few=few).n_items for few in (False, True))
    return setup.dense_macs * (n_items * (settings.moments + settings.norms) + n_few * settings.norms)


def collect_statistics(
    setup: JobSetup, weights: Mapping[str, Tensor], settings: StatisticsSettings, seed: int, device: torch.device
) -> dict[str, Moments]:
    """Return the second moments of every consumer's input under ``weights``, by weight name.

    Args:
        setup: model and data.
        weights: dense tensors by name.
        settings: settings that say which items are used.
        seed: seed for the choice of items and their augmentation.
        device: device to run on.
    """
    consumers = survey(setup.model, setup.structure, max_bytes=settings.max_bytes).consumers
    inputs = (batch[0] for batch in statistics_items(setup, settings, seed, device))
    return collect(dense_model(setup, weights, device), consumers, inputs, seed=seed)


def collect_norms(
    setup: JobSetup, weights: Mapping[str, Tensor], settings: StatisticsSettings, seed: int, device: torch.device
) -> dict[str, Tensor]:
    """Return the BatchNorm statistics of the dense model on the items, packed to stand among its weights.

    Args:
        setup: model and data.
        weights: dense tensors by name.
        settings: settings that say which items are used.
        seed: seed for the choice of items and their augmentation.
        device: device to run on.
    """
    model = dense_model(setup, weights, device)
    found: dict[str, Tensor] = {}
    for few in (False, True):
        recalibrate(model, statistics_items(setup, settings, seed, device, few=few))
        found |= {f"{_norms(few=few)}{name}": tensor for name, tensor in norm_statistics(model).items()}
    return found


def unpack_norms(tensors: Mapping[str, Tensor], *, few: bool = False) -> dict[str, Tensor]:
    """Return the BatchNorm statistics among ``tensors`` by the names of the buffers; none when there are none.

    Args:
        tensors: weights by name.
        few: those on the few items of a probe.
    """
    prefix = _norms(few=few)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _norms(*, few: bool) -> str:
    return f"{NORMS}{'few' if few else 'all'}: "


def dense_model(setup: JobSetup, weights: Mapping[str, Tensor], device: torch.device) -> nn.Module:
    """Return the dense model with ``weights``, in evaluation mode."""
    everything = np.ones(setup.structure.n_genes, dtype=bool)
    return cut(setup.model, setup.structure, everything, weights).to(device).eval()


def statistics_items(
    setup: JobSetup, settings: StatisticsSettings, seed: int, device: torch.device, *, few: bool = False
) -> Loader:
    """Return the training items that statistics are collected on, augmented once.

    Args:
        setup: model and data.
        settings: settings that say how many items, in which batches.
        seed: seed for their choice and augmentation.
        device: device to put them on.
        few: only as many of them as a probe takes.
    """
    layout = prefers_channels_last(setup.model) if settings.channels_last is None else settings.channels_last
    split = setup.data.train.subset(settings.n_items, seed)
    return (split.subset(PROBE_ITEMS, seed) if few else split).loader(
        settings.batch_size,
        device=device,
        channels_last=layout,
        augment=True,
        shuffle=True,
        drop_last=True,
        seed=seed,
    )
