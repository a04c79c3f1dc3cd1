"""Preparations on Ray: they resume from what reached the driver, and reserve what they need."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoprune.core.jobs import Outcome, Prepare, Status
from autoprune.errors import InvalidArgumentError
from autoprune.execute.pool import WorkerPool
from autoprune.execute.ray.backend import start_ray_pool
from autoprune.execute.settings import RaySettings
from autoprune.testing.executor_laws import drain
from autoprune.testing.interrupted_training import FUSE, Interrupted, digits_weights, saves
from autoprune.testing.recipe_laws import MemoryBlobs
from autoprune.train.checkpoint import Checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

ROUNDS = [0, *(pytest.param(i, marks=pytest.mark.faults) for i in range(1, 21))]
SETTINGS: Mapping[str, Mapping[str, Any]] = {"dais": {"epochs": 1.5, "batch_size": 64}}
"""Settings with little to do, by recipe."""


def checkpoint(folder: Path, key: str) -> Checkpoint:
    """Return the driver's file."""
    return Checkpoint(folder / key)


class Bench:
    """A pool of one worker whose trainings end early when told to, and the same without Ray.

    Args:
        folder: of everything.
        recipe: what is run.
    """

    def __init__(self, folder: Path, recipe: str) -> None:
        self.spec = Interrupted(recipe, folder)
        self.recipe = recipe
        self.blobs = MemoryBlobs()
        self.weights = digits_weights(self.blobs)
        self.folder = folder

    def job(self, seed: int) -> Prepare:
        """Return a preparation that starts from the untrained network."""
        return Prepare(seed, self.recipe, SETTINGS.get(self.recipe, {}), self.weights, seed)

    def undisturbed(self, seed: int) -> tuple[Outcome, int]:
        """Run it in this process; return also how often it saved."""
        notes = self.folder / f"undisturbed-{seed}"
        notes.mkdir(exist_ok=True)
        runner = replace(self.spec, folder=notes).start(self.blobs, partial(checkpoint, notes))
        outcome = runner(self.job(seed)).identity()
        assert outcome.status is Status.OK, outcome.message
        return outcome, len(saves(notes))

    def pool(self, **settings: int) -> WorkerPool:
        """Start a pool."""
        return start_ray_pool(
            self.spec,
            self.blobs,
            RaySettings(workers=1, patience=600, **settings),
            checkpoints := partial(checkpoint, self.folder / "checkpoints"),
            self.spec.start(self.blobs, checkpoints).mark,
        )


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Return what all rounds share."""
    return Bench(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def pool(bench: Bench, ray_cluster: None) -> Iterator[WorkerPool]:
    """Return one pool for all rounds: each kills one worker."""
    pool = bench.pool()
    yield pool
    pool.close()


@pytest.mark.parametrize("bench", ["digits", "dais"], indirect=True)
@pytest.mark.parametrize("round_", ROUNDS)
def test_a_preparation_goes_on_where_its_dead_worker_was(
    bench: Bench, pool: WorkerPool, round_: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed in the middle of a training: the same weights, no step that was saved is done again, and a log."""
    undisturbed, n_saves = bench.undisturbed(round_)
    rng = np.random.default_rng(round_)
    bench.spec.lay_fuse(int(rng.integers(1, n_saves - 1)), float(rng.uniform(0.0, 0.02)))
    pool.submit(bench.job(round_))
    (outcome,) = drain(pool, 1)
    assert outcome.identity() == undisturbed
    by_process = [len(list(group)) for _, group in itertools.groupby(saves(bench.folder))]
    assert len(by_process) == 2
    assert n_saves - 1 <= sum(by_process) <= n_saves  # a save may have been its last deed, before it took note
    assert caplog.text.count(f"jobs to run again: [{round_}]") == 1


@pytest.mark.parametrize("bench", ["digits"], indirect=True)
def test_checkpoints_are_the_drivers(bench: Bench) -> None:
    """What a worker saved is in the driver's file, and resumes the preparation in another process without Ray."""
    seed = 100
    undisturbed, n_saves = bench.undisturbed(seed)
    bench.spec.lay_fuse(5, 0.05)
    pool = bench.pool(max_deaths=1)
    pool.submit(bench.job(seed))
    (outcome,) = drain(pool, 1)
    pool.close()
    assert "its worker died 1 times" in outcome.message
    runner = bench.spec.start(bench.blobs, partial(checkpoint, bench.folder / "checkpoints"))
    assert runner(bench.job(seed)).identity() == undisturbed
    assert abs(len(saves(bench.folder)) - n_saves) <= 1


@pytest.mark.faults
@pytest.mark.parametrize("bench", ["digits"], indirect=True)
def test_a_preparation_that_gets_ahead_outlives_many_workers(bench: Bench) -> None:
    """Killed more often than a job may be, each time after it has saved: the weights of an undisturbed one."""
    seed = 200
    undisturbed, _ = bench.undisturbed(seed)
    bench.spec.lay_fuse(3, 0.0)
    pool = bench.pool(max_deaths=2)
    pool.submit(bench.job(seed))
    kills, outcomes = 1, []
    while not outcomes:
        outcomes = pool.collect(timeout=0.05)
        if kills < 4 and not (bench.folder / FUSE).exists():
            bench.spec.lay_fuse(3, 0.0)
            kills += 1
    pool.close()
    assert kills == 4
    assert outcomes[0].identity() == undisturbed


def test_preparations_reserve_what_they_need() -> None:
    """Either figure makes workers of their own; what is not given is a worker's."""
    assert RaySettings().preparation_resources is None
    assert RaySettings(cpus_per_preparation=4).preparation_resources == {"CPU": 4}
    shared = RaySettings(cpus_per_worker=2, gpus_per_worker=0.25, gpus_per_preparation=1)
    assert shared.preparation_resources == {"CPU": 2, "GPU": 1}
    with pytest.raises(InvalidArgumentError, match="cpus_per_preparation to be positive"):
        RaySettings(cpus_per_preparation=0)
