"""Recipe ``rotate``: the same function in another basis, of which the first channels carry most; nothing is trained.

Where nothing non-linear stands between the layers that make channels and those that read them, as in the bottlenecks
of MobileNetV2 and its descendants, keeping k channels of the best basis loses less than keeping any k of the channels
that are there (`autoprune.reconstruct.streams`). The network stays of its class and shape; only its numbers change, and
what it computes does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from autoprune.core import check
from autoprune.errors import warn
from autoprune.prepare.recipe import Prepared, Recipe
from autoprune.prepare.statistics import StatisticsSettings, dense_model, statistics_items
from autoprune.reconstruct.streams import Stream, StreamMoments, best_basis, find_streams, turn
from autoprune.surgery.forward import forward
from autoprune.surgery.matching import named_tensors
from autoprune.surgery.slicing import written_back
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.devices import reproducible
from autoprune.train.job_setup import JobSetup
from autoprune.weight_sets import Inherited

N_TRIED = 4
"""Items that streams are recognised on."""


@dataclass(frozen=True)
class RotateSettings:
    """Settings of the recipe ``rotate``.

    Attributes:
        n_items: training items that second moments are taken on, augmented once.
        batch_size: items per forward pass.
    """

    n_items: int = 200
    batch_size: int = 20

    def __post_init__(self) -> None:
        """Check the values."""
        check.at_least(self, 1, "n_items", "batch_size")


class Rotate(Recipe):
    """Turns every stream into its best basis; the seed decides which items, and how they are augmented."""

    Settings = RotateSettings
    recalibrates = False

    def estimate_macs(self, settings: RotateSettings) -> int:
        """Return the multiply-adds of the dense model over the items."""
        items = statistics_items(self.setup, _items(settings), 0, torch.device("cpu"))
        return self.setup.dense_macs * items.n_items

    def prepare(
        self,
        settings: RotateSettings,
        parent: Inherited,
        seed: int,
        *,
        identity: str,  # noqa: ARG002  seconds of work: nothing is saved on the way
        slot: CheckpointSlot | None,  # noqa: ARG002
    ) -> Prepared:
        """Return the parent's weights in the other basis, and the parent's orders."""
        structure, device = self.setup.structure, self.bench.torch_device
        items = statistics_items(self.setup, _items(settings), seed, device)
        with reproducible(self.bench.threads):
            model = dense_model(self.setup, parent.weights, device)
            streams = streams_of(self.setup, model, seed)
            if streams:
                moments = StreamMoments(model, streams)
                with torch.inference_mode(), moments.watching():
                    for inputs, _ in items:
                        forward(model, inputs)
                for stream in streams:
                    if (basis := best_basis(model, stream, moments)) is not None:
                        turn(model, stream, basis, moments)
            else:
                warn("the recipe 'rotate' changes nothing: something that is not linear stands behind every layer")
        own = named_tensors(model)
        weights = {name: tensor for name, tensor in parent.weights.items() if name in own}  # no statistics of others
        everything = np.ones(structure.n_genes, dtype=np.bool_)
        found = written_back(weights, own, structure, everything)
        return Prepared(found, parent.orders, self.setup.dense_macs * items.n_items, metrics={"streams": len(streams)})


def streams_of(setup: JobSetup, model: nn.Module, seed: int) -> tuple[Stream, ...]:
    """Return the streams of a model that the search may cut, recognised on a few training items.

    Args:
        setup: structure, space and data.
        model: the dense model with the weights in question; its own device is used.
        seed: seed for the choice of items.
    """
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    tried = setup.data.train.subset(N_TRIED, seed).loader(N_TRIED, device=device)
    groups = np.flatnonzero(setup.space.variable_of >= 0).tolist()
    return find_streams(model, setup.structure, next(iter(tried))[0], groups)


def _items(settings: RotateSettings) -> StatisticsSettings:
    return StatisticsSettings(settings.n_items, settings.batch_size)
