"""Recipe ``statistics``: the second moments that closed-form reconstruction needs, put beside the weights they are of.

One pass of the dense model over augmented training items. What comes out is the same weights and orders with the
moments among the tensors: stored and shipped like weights, once, whoever evaluates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import InvalidArgumentError
from autoprune.prepare.recipe import Prepared, Recipe
from autoprune.reconstruct import MAX_BYTES, Moments, collect, pack_moments, survey
from autoprune.surgery.cut import cut
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.devices import prefers_channels_last, reproducible
from autoprune.train.job_setup import JobSetup
from autoprune.train.split import Loader
from autoprune.weight_sets import Inherited


@dataclass(frozen=True)
class StatisticsSettings:
    """Settings of the recipe ``statistics``.

    Attributes:
        n_items: training items, augmented once.
        batch_size: items per forward pass.
        channels_last: memory format of (n, c, h, w) inputs; None picks it for models with 2-d convolutions.
        max_bytes: memory for all second moments together; what does not fit is coarser, or left out.
    """

    n_items: int = 1000
    batch_size: int = 100
    channels_last: bool | None = None
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        """Check the values."""
        if min(self.n_items, self.batch_size, self.max_bytes) < 1:
            msg = f"expected positive n_items, batch_size and max_bytes, got {self}"
            raise InvalidArgumentError(msg)


class Statistics(Recipe):
    """Collects second moments; the seed decides which items, and how they are augmented."""

    Settings = StatisticsSettings
    trains = False

    def estimate_macs(self, settings: StatisticsSettings) -> int:
        """Return the multiply-adds of the dense model over the items."""
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
        """Return the parent's weights and orders, and the moments beside them."""
        with reproducible(self.bench.threads):
            moments = collect_statistics(self.setup, parent.weights, settings, seed, self.bench.torch_device)
        weights = {**parent.weights, **pack_moments(moments)}
        return Prepared(weights, parent.orders, statistics_macs(self.setup, settings))


def statistics_macs(setup: JobSetup, settings: StatisticsSettings) -> int:
    """Return what `collect_statistics` spends."""
    return setup.dense_macs * _items(setup, settings, 0, torch.device("cpu")).n_items


def collect_statistics(
    setup: JobSetup, weights: Mapping[str, Tensor], settings: StatisticsSettings, seed: int, device: torch.device
) -> dict[str, Moments]:
    """Return the second moments of every consumer's input under ``weights``, by weight name.

    Args:
        setup: model and data.
        weights: dense tensors by name.
        settings: which items.
        seed: decides which items, and how they are augmented.
        device: where to run.
    """
    consumers = survey(setup.model, setup.structure, max_bytes=settings.max_bytes).consumers
    inputs = (batch[0] for batch in _items(setup, settings, seed, device))
    return collect(dense_model(setup, weights, device), consumers, inputs, seed=seed)


def dense_model(setup: JobSetup, weights: Mapping[str, Tensor], device: torch.device) -> nn.Module:
    """Return the dense model with ``weights``, in evaluation mode."""
    everything = np.ones(setup.structure.n_genes, dtype=bool)
    return cut(setup.model, setup.structure, everything, weights).to(device).eval()


def _items(setup: JobSetup, settings: StatisticsSettings, seed: int, device: torch.device) -> Loader:
    layout = prefers_channels_last(setup.model) if settings.channels_last is None else settings.channels_last
    return setup.data.train.subset(settings.n_items, seed).loader(
        settings.batch_size,
        device=device,
        channels_last=layout,
        augment=True,
        shuffle=True,
        drop_last=True,
        seed=seed,
    )
