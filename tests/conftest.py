"""Fixtures that several packages' tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from autoprune.execute.ray_settings import MIB, RaySettings


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start a local cluster of two cores, which every executor of the session joins."""
    from autoprune.execute._ray_cluster import Cluster

    cluster = Cluster(RaySettings(object_store_bytes=100 * MIB), n_cpus=2)
    yield
    cluster.close()
