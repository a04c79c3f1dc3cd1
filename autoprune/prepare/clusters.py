"""ACP's clusters (Chang et al. 2021, 2101.06407): how many channels of every group do different things, and which.

Calibration images, drawn from the training data and transformed as in training, run through the dense model once. The
channels of every group are clustered; the number of clusters (noise points count as one each) is the group's width,
and one channel of every cluster comes first in its order. Nothing is trained: the weights stay as they are.

The released code clusters the mean raw feature maps of 200 *test* images by DBSCAN with cosine distance, uses the
counts alone and keeps random channels. That clustering is ``method="dbscan"``, ``"correlation"`` cuts a dendrogram
of correlations over all images and positions. The default, ``"contribution"``, is ours: it clusters what the channels
contribute to their consumers. Raw maps do not show how strong a channel is. On ResNet-20 and CIFAR-10 networks of
equal cost from this clustering are more accurate than from the other two, and than those of uniform width
(docs/methods.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import nn

from autoprune.clustering.observation import Observed, Observer
from autoprune.clustering.partition import (
    average_linkage,
    contribution_distances,
    correlation_distances,
    cosine_distances,
    cut_tree,
    dbscan_labels,
    first_of_each,
    medoids,
    nested_order,
    representatives_first,
)
from autoprune.core import check
from autoprune.core.bisection import bisect
from autoprune.core.groups import FloatArray, IntArray
from autoprune.errors import DataError, InvalidArgumentError, unknown_name
from autoprune.prepare.recipe import Prepared, Recipe
from autoprune.surgery.copying import copy_with
from autoprune.surgery.matching import dense_tensors, model_tensors
from autoprune.train.checkpoint import CheckpointSlot, load_state, save_state
from autoprune.train.devices import prefers_channels_last, reproducible
from autoprune.weight_sets import Inherited

METHODS = ("contribution", "correlation", "dbscan")
"""What the channels are clustered by."""

REPRESENTATIVES = ("best", "medoid")
"""Which channel of a cluster comes first."""

MIN_IMAGES = 16
"""Calibration images below which nothing is said about channels."""

_BISECTIONS = 40

Cut = Callable[[float], IntArray]
"""Gives the (w,) cluster numbers of a group at an eps."""


@dataclass(frozen=True)
class ClusterSettings:
    """Settings of the recipe ``clusters``.

    Attributes:
        images: calibration images; all training images where there are fewer.
        method: ``"contribution"``, ``"correlation"`` or ``"dbscan"`` (as released).
        representative: the channel that stands for a cluster: the ``"best"`` in the parent's order, or the
            ``"medoid"``.
        nested: whether every width keeps one channel of each of as many clusters, not only the width that was found:
            the first ``k`` channels of the order are the ``"best"`` of the ``k`` clusters of the dendrogram. Not with
            ``"dbscan"``, which has none, and not with medoids, which are not nested.
        eps: distance up to which channels are alike. One that merges nothing gives the dense network, one that merges
            everything the smallest network of the space; hard limits apply in any case. None: bisected so that the
            network costs ``target``.
        target: cost of the network as a share of the dense one, where ``eps`` is None.
        cost: the cost that ``target`` is a share of.
        min_samples: channels that make a cluster, for ``"dbscan"``.
        batch_size: images per forward pass.

    Raises:
        InvalidArgumentError: a value cannot be used; UnknownNameError: there is no such method.
    """

    images: int = 500
    method: str = "contribution"
    representative: str = "best"
    nested: bool = False
    eps: float | None = None
    target: float = 0.5
    cost: str = "macs"
    min_samples: int = 5
    batch_size: int = 100

    def __post_init__(self) -> None:
        """Check the values."""
        check.one_of(self, "method", METHODS, "clustering method")
        check.one_of(self, "representative", REPRESENTATIVES)
        if self.nested and (self.method == "dbscan" or self.representative != "best"):
            msg = (
                "expected nested=True with a method that has a dendrogram ('contribution', 'correlation') and "
                f"representative='best', got method={self.method!r} and representative={self.representative!r}"
            )
            raise InvalidArgumentError(msg)
        check.at_least(self, MIN_IMAGES, "images")
        check.at_least(self, 1, "min_samples", "batch_size")
        check.at_least(self, 0, "eps")
        check.share(self, "target", but=(0,), of="the dense model's cost")


class ClusterRecipe(Recipe):
    """Finds a genome and an order by clustering channels; the weights are the parent's.

    Any network can be clustered, with or without BatchNorm. A group that only operators other than convolutions and
    linear layers produce (or, for ``"contribution"``, consume) cannot be looked at: each of its channels is its own
    cluster, in the parent's order.
    """

    Settings = ClusterSettings
    trains = False
    keeps_order = True

    def estimate_macs(self, settings: ClusterSettings) -> int:
        """Return the multiply-adds of one forward pass, exactly."""
        return self.setup.dense_macs * min(settings.images, len(self.setup.data.train))

    def prepare(
        self, settings: ClusterSettings, parent: Inherited, seed: int, *, identity: str, slot: CheckpointSlot | None
    ) -> Prepared:
        """Observe, cluster, count.

        Raises:
            DataError: there are too few training images, or an activation is not finite.
            UnknownNameError: there is no such cost.
        """
        if settings.cost not in self.setup.costs.names:
            raise unknown_name("cost", settings.cost, self.setup.costs.names)
        seen = self._observe(settings, parent, seed, identity, slot)
        distances = [_distances(group, settings.method) for group in seen]
        groups = self.setup.structure.groups
        cuts = [_cut(matrix, settings, group.width) for matrix, group in zip(distances, groups, strict=True)]
        eps = self._eps_for(settings, distances, cuts) if settings.eps is None else settings.eps
        labels = [cut(eps) for cut in cuts]
        orders = tuple(
            order if matrix is None else _order(matrix, found, order, settings)
            for matrix, found, order in zip(distances, labels, parent.orders, strict=True)
        )
        genome = self.repaired(self._genome(labels))
        metrics = {"eps": eps, "clusters": float(sum(len(np.unique(found)) for found in labels))}
        return Prepared(dict(parent.weights), orders, self.estimate_macs(settings), genome, metrics)

    def _observe(
        self, settings: ClusterSettings, parent: Inherited, seed: int, identity: str, slot: CheckpointSlot | None
    ) -> tuple[Observed, ...]:
        """Run the images through the dense model, from where the checkpoint ends."""
        train = self.setup.data.train
        if len(train) < MIN_IMAGES:
            msg = f"clustering channels needs at least {MIN_IMAGES} training images, got {len(train)}"
            raise DataError(msg)
        device = self.bench.torch_device
        model = self._dense(parent).to(device)
        observer = Observer(model, self.setup.structure)
        done = 0
        saved = None if slot is None else load_state(slot, identity)
        if saved is not None:
            done, sums = saved
            observer.restore(sums)
        batches = train.subset(settings.images, seed).loader(
            settings.batch_size,
            device=device,
            channels_last=prefers_channels_last(model),
            augment=True,
            seed=seed,
            skip=done,
        )
        with reproducible(self.bench.threads):
            for step, (images, _) in enumerate(batches, start=done + 1):
                observer.observe(images)
                if slot is not None and (step % slot.every == 0 or step == done + len(batches)):
                    save_state(slot, step, identity, observer.state())
        return observer.observed()

    def _dense(self, parent: Inherited) -> nn.Module:
        """Return the dense model with the parent's weights."""
        structure = self.setup.structure
        own = model_tensors(self.setup.model, structure)
        weights = dense_tensors({**own, **parent.weights}, structure, "parent's weights")
        return copy_with(self.setup.model, ((own[name], weights[name].detach().clone()) for name in own))

    def _eps_for(self, settings: ClusterSettings, distances: Sequence[FloatArray | None], cuts: Sequence[Cut]) -> float:
        """Return the smallest eps whose network costs at most the target, or the largest distance if none does."""
        space, costs = self.setup.space, self.setup.costs
        dense = int(costs(space.full_genome[None, :])[settings.cost][0])
        farthest = max((float(matrix.max()) for matrix in distances if matrix is not None), default=0.0)

        def is_too_large(eps: float) -> bool:  # more channels merge as eps grows, so costs fall
            genome = self._genome([cut(eps) for cut in cuts])
            return bool(costs(genome[None, :])[settings.cost][0] > settings.target * dense)

        return bisect(is_too_large, 0.0, farthest, _BISECTIONS)[1]

    def _genome(self, labels: Sequence[IntArray]) -> IntArray:
        """Return the (d,) genome nearest to the numbers of clusters."""
        counts = np.array([[int(found.max()) + 1 for found in labels]], dtype=np.int64)
        return self.setup.space.nearest_widths(counts)[0]


def _distances(group: Observed, method: str) -> FloatArray | None:
    """Return the (w, w) distances between the channels of a group; None where it could not be looked at."""
    if method == "contribution":
        return None if group.contributions is None else contribution_distances(group.contributions)
    if not group.maps:
        return None
    return cosine_distances(group.maps) if method == "dbscan" else correlation_distances(group.maps)


def _cut(distances: FloatArray | None, settings: ClusterSettings, width: int) -> Cut:
    """Return what gives a group's (w,) cluster numbers at any eps."""
    if distances is None:
        return lambda _: np.arange(width, dtype=np.int64)
    if settings.method == "dbscan":
        return partial(dbscan_labels, distances, min_samples=settings.min_samples)
    return partial(cut_tree, average_linkage(distances))


def _order(distances: FloatArray, labels: IntArray, order: IntArray, settings: ClusterSettings) -> IntArray:
    """Return the (w,) order of a group: one channel of every cluster first, the rest as in the parent's ``order``."""
    if settings.nested:
        return nested_order(average_linkage(distances), order)
    chosen = medoids(distances, labels) if settings.representative == "medoid" else first_of_each(labels, order)
    return representatives_first(chosen, order)
