"""Distances, clusters and orders of channels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import DBSCAN

from autoprune.clustering.observation import FeatureMaps, FloatArray
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

N_COPIES = 5
"""As many as the released min_samples."""


def with_copies(rng: np.random.Generator, n_others: int = 4) -> FloatArray:
    """Return the rows of five equal channels and some others."""
    return np.concatenate([np.repeat(rng.normal(size=(1, 30)), N_COPIES, axis=0), rng.normal(size=(n_others, 30))])


def maps_of(rows: FloatArray) -> FeatureMaps:
    """Return feature maps of channels whose values are the ``rows``."""
    return FeatureMaps(rows, np.cov(rows, bias=True))


def clusters(labels: np.ndarray) -> list[list[int]]:
    """Return the channels of each cluster."""
    return [np.flatnonzero(labels == k).tolist() for k in range(labels.max() + 1)]


@pytest.mark.parametrize("kind", ["cosine", "correlation", "contribution"])
@pytest.mark.parametrize("method", ["dbscan", "agglomerative"])
def test_copies_of_a_channel_are_one_cluster(kind: str, method: str) -> None:
    """Five channels that do the same collapse; channels that do not stay alone."""
    rows = with_copies(np.random.default_rng(0))
    distances = {
        "cosine": cosine_distances([maps_of(rows)]),
        "correlation": correlation_distances([maps_of(rows)]),
        "contribution": contribution_distances(rows @ rows.T),
    }[kind]
    eps = 1e-6
    found = dbscan_labels(distances, eps, 5) if method == "dbscan" else cut_tree(average_linkage(distances), eps)
    assert clusters(found) == [[0, 1, 2, 3, 4], [5], [6], [7], [8]]


def test_scale_does_not_part_channels() -> None:
    """Cosine and correlation see the shape of a map; contributions see its strength, too."""
    row = np.random.default_rng(0).normal(size=20)
    rows = np.stack([row, 3 * row, np.roll(row, 1)])
    assert cosine_distances([maps_of(rows)])[0, 1] == pytest.approx(0.0, abs=1e-12)
    assert correlation_distances([maps_of(rows + 5)])[0, 1] == pytest.approx(0.0, abs=1e-9)
    mean_energy = np.mean((rows**2).sum(axis=1))
    assert contribution_distances(rows @ rows.T)[0, 1] == pytest.approx(np.sqrt((4 * row @ row) / mean_energy))


def test_weak_channels_are_near_each_other_by_contribution() -> None:
    """Two channels that hardly do anything are nearer than two strong ones, whatever their maps look like."""
    rows = np.random.default_rng(1).normal(size=(4, 50)) * np.array([[1e-3], [1e-3], [1.0], [1.0]])
    distances = contribution_distances(rows @ rows.T)
    assert distances[0, 1] < 0.01 < 0.5 < distances[2, 3]


@pytest.mark.parametrize("distances", [cosine_distances, correlation_distances])
def test_silent_channels_are_alike(distances) -> None:
    """Maps that are zero have no direction: one cluster of their own, and no NaN."""
    rows = np.zeros((4, 10))
    rows[2:] = np.random.default_rng(0).normal(size=(2, 10))
    found = distances([maps_of(rows)])
    assert np.isfinite(found).all()
    assert found[0, 1] == 0.0
    assert (found[:2, 2:] == 1.0).all()
    assert (distances([maps_of(np.zeros((3, 10)))]) == 0.0).all()
    assert (contribution_distances(np.zeros((3, 3))) == 0.0).all()


def test_layers_of_a_stream_have_equal_votes() -> None:
    """A layer a thousand times as loud as another changes nothing."""
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=(2, 6, 12))
    for distances in (cosine_distances, correlation_distances):
        quiet = distances([maps_of(one), maps_of(other)])
        np.testing.assert_allclose(distances([maps_of(1000 * one), maps_of(other)]), quiet, atol=1e-9)
        assert not np.allclose(distances([maps_of(one)]), quiet)


@pytest.mark.parametrize("eps", [0.05, 0.2, 0.4, 0.8])
@pytest.mark.parametrize("min_samples", [1, 2, 5])
def test_dbscan_is_that_of_scikit_learn(eps: float, min_samples: int) -> None:
    """The same core clusters and the same noise; border points may belong to several clusters, and join the nearest."""
    points = np.random.default_rng(5).random((60, 2))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    oracle = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(distances)
    found = dbscan_labels(distances, eps, min_samples)
    n_noise = int((oracle.labels_ == -1).sum())
    assert found.max() + 1 == oracle.labels_.max() + 1 + n_noise
    core = oracle.core_sample_indices_
    same = oracle.labels_[core][:, None] == oracle.labels_[core][None]
    np.testing.assert_array_equal(found[core][:, None] == found[core][None], same)


def test_fewer_clusters_as_eps_grows() -> None:
    """From all channels apart to all in one, never back: what the bisection of eps relies on."""
    rows = np.random.default_rng(7).normal(size=(24, 6))
    distances = cosine_distances([maps_of(rows)])
    tree = average_linkage(distances)
    steps = np.linspace(0, 2, 60)
    for counts in (
        [cut_tree(tree, eps).max() + 1 for eps in steps],
        [dbscan_labels(distances, eps, 5).max() + 1 for eps in steps],
    ):
        assert counts[0] == 24
        assert counts[-1] == 1
        assert (np.diff(counts) <= 0).all()


def test_one_channel_is_one_cluster() -> None:
    """There is nothing to cluster, and nothing fails."""
    assert cut_tree(average_linkage(np.zeros((1, 1))), 0.5).tolist() == [0]
    assert dbscan_labels(np.zeros((1, 1)), 0.5, 5).tolist() == [0]


def test_the_medoid_is_the_most_central() -> None:
    """Of points on a line, the one in the middle of each cluster."""
    points = np.array([0.0, 1.0, 2.5, 10.0, 11.0, 12.5])
    distances = np.abs(points[:, None] - points)
    assert medoids(distances, np.array([0, 0, 0, 1, 1, 1])).tolist() == [1, 4]


def test_representatives_come_first() -> None:
    """A width equal to the number of clusters keeps one channel of each; both parts keep the given order."""
    labels, order = np.array([0, 1, 0, 2, 1, 0]), np.array([5, 3, 4, 0, 1, 2])
    chosen = first_of_each(labels, order)
    assert chosen.tolist() == [5, 4, 3]
    made = representatives_first(chosen, order)
    assert made.tolist() == [5, 3, 4, 0, 1, 2]
    assert representatives_first(np.array([2, 1, 3]), order).tolist() == [3, 1, 2, 5, 4, 0]


def test_every_width_of_a_nested_order_is_a_clustering() -> None:
    """The first k channels are, for every k, those that come first in each of the k clusters of the tree."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        points, order = rng.normal(size=(9, 3)), rng.permutation(9)
        tree = average_linkage(np.linalg.norm(points[:, None] - points, axis=2))
        made, heights = nested_order(tree, order), tree[:, 2]
        for k in range(1, 10):
            eps = heights[-1] + 1 if k == 1 else (heights[9 - k] + (heights[8 - k] if k < 9 else 0.0)) / 2
            labels = cut_tree(tree, float(eps))
            assert labels.max() + 1 == k
            assert sorted(made[:k].tolist()) == sorted(first_of_each(labels, order).tolist())


def test_one_channel_has_an_order() -> None:
    """There is nothing to merge."""
    assert nested_order(average_linkage(np.zeros((1, 1))), np.zeros(1, dtype=np.int64)).tolist() == [0]
