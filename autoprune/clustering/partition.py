"""Clusters of the channels of one group, from their pairwise distances, and the order that follows from them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

from autoprune.clustering.observation import FloatArray
from autoprune.core.groups import IntArray


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
    together = labels[:, None] == labels[None, :]
    spread = np.where(together, distances, 0.0).sum(axis=1)
    return np.array([min(np.flatnonzero(labels == k), key=lambda c: spread[c]) for k in range(int(labels.max()) + 1)])


def medoids_first(distances: FloatArray, labels: IntArray, strongest: IntArray) -> IntArray:
    """Return the (w,) order of a group's channels: the medoid of every cluster, then all others.

    Within both parts the channels stand as in ``strongest``. A width equal to the number of clusters keeps exactly one
    real channel of each; smaller widths give up the weakest clusters, larger ones take the strongest of the others in.

    Args:
        distances: (w, w).
        labels: (w,) cluster numbers.
        strongest: (w,) permutation of the channels, strongest first.
    """
    is_medoid = np.zeros(len(labels), dtype=np.bool_)
    is_medoid[medoids(distances, labels)] = True
    return np.concatenate([strongest[is_medoid[strongest]], strongest[~is_medoid[strongest]]])


def _numbered(labels: npt.NDArray[np.integer]) -> IntArray:
    """Number clusters from 0 in the order of their first channels."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
