"""Distances between the channels of one group, clusters of them, and the order that follows.

Distances are of three kinds, (w, w) and symmetric, each scale-free per group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

from autoprune.clustering.observation import FeatureMaps
from autoprune.core.groups import FloatArray, IntArray

SILENT = 1e-9
"""Energy, relative to the group's most active channel, below which a channel counts as doing nothing."""


def cosine_distances(maps: Sequence[FeatureMaps]) -> FloatArray:
    """Return ``1 - a.b / (|a| |b|)`` of mean feature maps, in 0..2: what the released ACP clusters by.

    The maps of several layers are laid side by side, each layer divided by the root mean square norm of its maps, so
    that none outvotes another. Maps that are zero are like each other and unlike all others.
    """
    return _one_minus_normalized(np.sum([_per_mean_energy(layer.mean @ layer.mean.T) for layer in maps], axis=0))


def correlation_distances(maps: Sequence[FeatureMaps]) -> FloatArray:
    """Return ``1 - correlation`` of feature maps over images and positions, in 0..2.

    Correlations with several layers are averaged. Channels that are constant are like each other and unlike all others.
    """
    return np.mean([_one_minus_normalized(layer.covariance) for layer in maps], axis=0)


def contribution_distances(products: FloatArray) -> FloatArray:
    """Return how far apart the contributions of two channels are, relative to the group's mean contribution.

    ``|a - b| / sqrt(mean |c|^2)``, from the inner products. Two channels are near when they contribute the same, and
    also when both contribute little: either way one of them can go. Zero for a group that contributes nothing.
    """
    energy = np.diag(products)
    squared = np.clip(energy[:, None] + energy[None, :] - products - products.T, 0.0, None)
    mean = energy.mean()
    distances = np.sqrt(squared / mean) if mean > 0 else np.zeros_like(squared)
    np.fill_diagonal(distances, 0.0)
    return distances


def _per_mean_energy(products: FloatArray) -> FloatArray:
    energy = np.trace(products) / len(products)
    return products / energy if energy > 0 else products


def _one_minus_normalized(products: FloatArray) -> FloatArray:
    """Return the (w, w) distances of vectors, given their inner products."""
    energy = np.diag(products)
    silent = energy <= SILENT * energy.max()
    norms = np.sqrt(np.where(silent, 1.0, energy))
    distances = np.clip(1.0 - (products + products.T) / 2 / np.outer(norms, norms), 0.0, 2.0)
    distances[silent, :] = 1.0
    distances[:, silent] = 1.0
    distances[np.ix_(silent, silent)] = 0.0
    np.fill_diagonal(distances, 0.0)
    return distances


def average_linkage(distances: FloatArray) -> FloatArray:
    """Return the (w - 1, 4) dendrogram (of `scipy.cluster.hierarchy`) of (w, w) distances."""
    return linkage(squareform(distances, checks=False), "average") if len(distances) > 1 else np.zeros((0, 4))


def cut_tree(tree: FloatArray, eps: float) -> IntArray:
    """Return the (w,) cluster numbers, from 0, of a dendrogram cut where clusters are more than ``eps`` apart."""
    if not len(tree):
        return np.zeros(1, dtype=np.int64)
    return _numbered(fcluster(tree, eps, criterion="distance"))


def dbscan_labels(distances: FloatArray, eps: float, min_samples: int) -> IntArray:
    """Return the (w,) cluster numbers, from 0, of DBSCAN (Ester et al. 1996), noise points each their own.

    A point with ``min_samples`` points within ``eps``, itself among them, is a core point. Core points within ``eps``
    of each other belong together; any other point within ``eps`` of a core point joins the nearest one.
    """
    is_core = (distances <= eps).sum(axis=1) >= min_samples
    links = (distances <= eps) & is_core[:, None] & is_core[None, :]
    _, labels = connected_components(csr_array(links), directed=False)
    if is_core.any():
        to_core = np.where(is_core[None, :], distances, np.inf)
        joins = ~is_core & (to_core.min(axis=1) <= eps)
        labels[joins] = labels[np.argmin(to_core, axis=1)[joins]]
    return _numbered(labels)


def medoids(distances: FloatArray, labels: IntArray) -> IntArray:
    """Return per cluster the channel with the least summed distance to the others in it; the first of equal ones."""
    spread = np.where(labels[:, None] == labels[None, :], distances, 0.0).sum(axis=1)
    return first_of_each(labels, np.argsort(spread, kind="stable"))


def first_of_each(labels: IntArray, order: IntArray) -> IntArray:
    """Return per cluster the channel that comes first in ``order``, a (w,) permutation of the channels."""
    _, first = np.unique(labels[order], return_index=True)
    return order[first]


def representatives_first(representatives: IntArray, order: IntArray) -> IntArray:
    """Return the (w,) order with the ``representatives`` before all others, both parts as in ``order``.

    A width equal to the number of clusters keeps exactly one real channel of each. Smaller widths give up whole
    clusters, larger ones take in what ``order`` prefers of the others; all widths are nested.
    """
    is_first = np.isin(order, representatives)
    return np.concatenate([order[is_first], order[~is_first]])


def nested_order(tree: FloatArray, order: IntArray) -> IntArray:
    """Return the (w,) order of which every width keeps one channel of each of as many clusters of a dendrogram.

    Of two clusters that merge the one whose best channel comes later in ``order`` loses its representative: what merges
    last, in the place of least distance, goes last. So the first ``k`` channels are the best of each of the ``k``
    clusters that the tree falls into, for every ``k`` at once.

    Args:
        tree: (w - 1, 4) dendrogram, see `average_linkage`.
        order: (w,) permutation of the channels, best first.
    """
    rank = np.argsort(order)
    best = list(range(len(order)))  # of every cluster, in the numbering of scipy
    gone = []
    for first, second in tree[:, :2].astype(np.int64).tolist():
        stays, goes = sorted((best[first], best[second]), key=rank.__getitem__)
        best.append(stays)
        gone.append(goes)
    return np.array([best[-1], *reversed(gone)], dtype=order.dtype)


def _numbered(labels: npt.NDArray[np.integer]) -> IntArray:
    """Number clusters from 0 in the order of their first channels."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
