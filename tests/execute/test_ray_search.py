"""Real candidates on Ray: the same answer, and shared memory that nobody wrote to."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

import autoprune as ap
from autoprune.core.protocols import Executor
from autoprune.evaluate.runner import RunnerSpec
from autoprune.execute.pool import WorkerPool
from autoprune.execute.ray.backend import RayBackend
from autoprune.execute.ray.cluster import Cluster
from autoprune.execute.settings import RaySettings
from autoprune.execute.workers import PoolSettings
from autoprune.store.blobs import BlobStore
from autoprune.testing.digits_network import digits_network
from autoprune.testing.ray_toys import Killing
from autoprune.weight_sets import pack_weights

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def problem() -> ap.Problem:
    """Return digits under a limit."""
    return ap.Problem(digits_network(), data=ap.load_data("digits"), limits={"macs": "80%"})


def searched(
    problem: ap.Problem, folder: Path, executor: Executor | RaySettings | None, **options: Any
) -> tuple[object, ...]:
    """Return the ledger of a search up to times and workers."""
    budget = ap.Budget(evaluations=24 if not options else 6)
    run = ap.search(problem, "random", budget, executor=executor, store=folder / "run", seed=3, **options)
    events = [event for event in run.record.events if event.is_decision]
    return run.record.jobs, [outcome.identity() for outcome in run.outcomes], events


def digests(spec: RunnerSpec, blobs: dict[str, bytes]) -> list[str]:
    """Return the SHA-256 of what workers share: model, items, blobs."""
    inputs = spec.setup.data.train.source.inputs.contiguous().numpy().tobytes()
    parts = [pack_weights(spec.setup.model.state_dict()), inputs, *(blobs[name] for name in sorted(blobs))]
    return [hashlib.sha256(part).hexdigest() for part in parts]


def test_the_answer_is_the_same_everywhere(problem: ap.Problem, tmp_path: Path) -> None:
    """In process, on one worker, and on two of which one is killed; what they share is what was put there."""
    here = searched(problem, tmp_path / "here", None)
    assert {outcome.status for outcome in here[1]} == {"ok"}
    assert searched(problem, tmp_path / "one", RaySettings(workers=1)) == here

    settings = RaySettings(workers=2)
    spec = problem.runner_spec(for_workers=True)
    blobs = BlobStore(tmp_path / "two" / "run" / "weights")
    backend = RayBackend(spec, blobs, settings, Cluster(settings))
    before = digests(*backend.shipped())
    executor = Killing(
        WorkerPool(backend, PoolSettings(workers=2)), at=(7,), before_close=lambda: found.extend(backend.shipped())
    )
    found: list[object] = []
    assert searched(problem, tmp_path / "two", executor) == here
    assert executor.killed == 1
    after = digests(*found)
    assert after[:2] == before == digests(spec, {})
    assert after[2:] == sorted(found[1])
    assert len(after) == 4


def test_prepared_weights_are_the_same_everywhere(problem: ap.Problem, tmp_path: Path) -> None:
    """Trained on a worker, ranked again by the driver, inherited by candidates on workers: as in process."""
    prepare = ("sparsify", {"epochs": 0.5, "batch_size": 130, "regularizer": "growing"})
    here, there = (
        searched(problem, tmp_path / name, executor, prepare=prepare)
        for name, executor in (("here", None), ("there", RaySettings(workers=2)))
    )
    assert here == there
    assert {outcome.status for outcome in here[1]} == {"ok"}


def test_workers_never_hold_test_items(problem: ap.Problem) -> None:
    """What is shipped has no test role; the fingerprint is still that of the whole."""
    spec = problem.runner_spec(for_workers=True)
    assert problem.data.test is not None
    assert spec.setup.data.test is None
    assert spec.setup.data.fingerprint == problem.data.fingerprint
