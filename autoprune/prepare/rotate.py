"""Recipe ``rotate``: the same function in another basis, of which the first channels carry most; nothing is trained.

Where nothing non-linear stands between the layers that make channels and those that read them, as in the bottlenecks
of MobileNetV2 and its descendants, and within the heads of an attention, keeping k channels of the best basis loses
less than keeping any k of the channels that are there (`autoprune.reconstruct.streams`). The network stays of its class
and shape; only its numbers change, and what it computes does not: a stream whose new numbers change the answers to a
few items stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.core import check
from autoprune.errors import warn
from autoprune.prepare.recipe import Prepared, Recipe
from autoprune.prepare.statistics import StatisticsSettings, dense_model, statistics_items
from autoprune.reconstruct.finding import find_streams, same
from autoprune.reconstruct.streams import Stream, StreamMoments, best_basis, turn
from autoprune.surgery.forward import counted_outputs, forward
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
    version = 3  # heads of attention are turned as well; streams keep their size
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
            streams = streams_of(self.setup, model, seed, settings.batch_size)
            turned = 0
            if streams:
                moments = StreamMoments(model, streams)
                with torch.inference_mode(), moments.watching():
                    for inputs, _ in items:
                        forward(model, inputs)
                turned = self._turn(model, streams, moments, _tried(self.setup, model, seed, settings.batch_size))
            else:
                warn("the recipe 'rotate' changes nothing: something that is not linear stands behind every layer")
        own = named_tensors(model)
        weights = {name: tensor for name, tensor in parent.weights.items() if name in own}  # no statistics of others
        everything = np.ones(structure.n_genes, dtype=np.bool_)
        found = written_back(weights, own, structure, everything)
        return Prepared(found, parent.orders, self.setup.dense_macs * items.n_items, metrics={"streams": turned})

    @torch.no_grad()
    def _turn(self, model: nn.Module, streams: tuple[Stream, ...], moments: StreamMoments, inputs: Any) -> int:
        """Turn streams in place; one after which the model answers otherwise stays as it was. Returns how many did."""
        names = self.setup.structure.outputs
        wanted = counted_outputs(forward(model, inputs), names)
        turned = 0
        for stream in streams:
            basis = best_basis(model, stream, moments)
            if basis is None:
                continue
            places = (*stream.writers, *stream.readers, *stream.keys, *stream.norms.values())
            layers = [model.get_submodule(place.module) for place in places]
            before = [{name: tensor.clone() for name, tensor in named_tensors(layer).items()} for layer in layers]
            turn(model, stream, basis, moments)
            if same(counted_outputs(forward(model, inputs), names), wanted):
                turned += 1
                continue
            for layer, tensors in zip(layers, before, strict=True):
                for name, tensor in named_tensors(layer).items():
                    tensor.copy_(tensors[name])
        return turned


def streams_of(setup: JobSetup, model: nn.Module, seed: int, batch_size: int) -> tuple[Stream, ...]:
    """Return the streams of a model that the search may cut, recognised on a few training items.

    Args:
        setup: structure, space and data.
        model: the dense model with the weights in question, in evaluation mode; its own device is used.
        seed: seed for the choice of items.
        batch_size: most items that may run at once.
    """
    groups = np.flatnonzero(setup.space.variable_of >= 0).tolist()
    return find_streams(model, setup.structure, _tried(setup, model, seed, batch_size), groups)


def _tried(setup: JobSetup, model: nn.Module, seed: int, batch_size: int) -> Any:
    """Return the inputs of a few training items, where the model is."""
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    loader = setup.data.train.subset(N_TRIED, seed).loader(min(N_TRIED, batch_size), device=device)
    return next(iter(loader))[0]


def _items(settings: RotateSettings) -> StatisticsSettings:
    return StatisticsSettings(settings.n_items, settings.batch_size)
