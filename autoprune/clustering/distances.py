"""Distances between the channels of one group: three kinds, (w, w) and symmetric, each scale-free per group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.clustering.observation import FeatureMaps
from autoprune.core.groups import FloatArray

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
