"""Fixtures that several packages' tests share."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import autoprune
from autoprune.execute.settings import MIB, RaySettings


def pytest_report_header() -> str:
    """Say which autoprune the tests are about."""
    return f"autoprune from {Path(autoprune.__file__).parent}"


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to test another autoprune than the one whose tests these are: an edit would only seem to pass.

    Latency tables are kept in a folder of the tests, not of whoever runs them.
    """
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="autoprune-cache-")
    source = config.rootpath / "autoprune"
    found = Path(autoprune.__file__).parent
    if source.is_dir() and not source.samefile(found):
        msg = f"expected to test {source}, but `import autoprune` gives {found}; run `make dev` first"
        raise pytest.UsageError(msg)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what the imports made: it would look at a million objects again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """Start every test from a state of torch's generator that its name alone decides: a commit has one verdict."""
    torch = sys.modules.get("torch")  # tests of what is imported without it stay without it
    if torch is not None:
        torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start a local cluster of two cores, which every executor of the session joins."""
    from autoprune.execute.ray.cluster import Cluster

    cluster = Cluster(RaySettings(object_store_bytes=100 * MIB), n_cpus=2)
    yield
    cluster.close()
