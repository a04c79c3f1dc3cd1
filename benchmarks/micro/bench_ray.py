"""What Ray costs and brings: ``python benchmarks/micro/bench_ray.py`` on an idle machine of two cores.

Target: two one-thread workers run candidates of at least half a second 1.8 times as fast as one in-process evaluator on
one thread does. The candidates are a ResNet-20's, measured on random images: no weights and no data are needed.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

import autoprune as ap
from autoprune.core.jobs import Candidate, Evaluate
from autoprune.core.protocols import Executor
from autoprune.execute.in_process import InProcessExecutor
from autoprune.execute.ray.backend import start_ray_pool
from autoprune.execute.ray.cluster import Cluster
from autoprune.execute.settings import RaySettings
from autoprune.searchspaces.models.resnet_cifar import resnet20
from autoprune.store.blobs import BlobStore
from autoprune.testing.executor_laws import drain
from autoprune.testing.ray_toys import Given
from autoprune.testing.search_toys import TRAINED, ToyRunner

N_CANDIDATES = 30
N_ROUNDS = 4
N_NULL = 2000
SETTINGS = RaySettings(workers=2)


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random images and classes."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), np.arange(n) % 10


def problem() -> ap.Problem:
    """Return a ResNet-20 whose candidates take half a second and more."""
    data = ap.Data(images(1000, 0), images(800, 1))
    evaluation = ap.ProxySettings(n_calibration=500)
    return ap.Problem(resnet20(), data=data, limits={"macs": "80%"}, evaluation=evaluation)


def seconds(executor: Executor, jobs: list[Evaluate]) -> float:
    """Return how long an executor takes, from the first submission to the last outcome."""
    start = time.perf_counter()
    waiting, n_done = list(reversed(jobs)), 0
    n_running = 0
    while n_done < len(jobs):
        while waiting and n_running < executor.capacity:
            executor.submit(waiting.pop())
            n_running += 1
        arrived = len(executor.collect())
        n_done, n_running = n_done + arrived, n_running - arrived
    return time.perf_counter() - start


def jobs_of(searched: ap.Problem, blobs: BlobStore) -> list[Evaluate]:
    """Return candidates of more than half the dense model's multiply-adds: all of them take their half second."""
    ranking, _ = searched.rank("l2", blobs.put)
    genomes = searched.space.sample(4 * N_CANDIDATES, np.random.default_rng(0), searched.costs, searched.limits)
    macs = searched.costs(genomes)["macs"]
    large = genomes[macs > 0.5 * searched.costs(searched.space.full_genome[None])["macs"]][:N_CANDIDATES]
    return [Evaluate(i, Candidate(tuple(g.tolist()), ranking.weight_set)) for i, g in enumerate(large)]


def evaluator_here(searched: ap.Problem, blobs: BlobStore) -> Executor:
    """Return an executor in this process."""
    return InProcessExecutor(searched.runner(blobs))


def plain_process(folder: Path, part: int, orders: Connection) -> None:
    """Run every second candidate whenever told to, without any Ray."""
    blobs, searched = BlobStore(folder), problem()
    jobs = jobs_of(searched, blobs)[part::2]
    executor = evaluator_here(searched, blobs)
    seconds(executor, jobs[:2])
    orders.send(0.0)
    while orders.recv():
        orders.send(seconds(executor, jobs))


def speedup(folder: Path) -> dict[str, object]:
    """Run the same candidates in process, on two workers, and in two plain processes, in turns.

    What two plain processes gain is what this machine's second core is worth: they share caches and memory.
    """
    searched = problem()
    blobs = BlobStore(folder)
    jobs = jobs_of(searched, blobs)
    here = evaluator_here(searched, blobs)
    there = start_ray_pool(searched.runner_spec(for_workers=True), blobs, SETTINGS)
    for executor in (here, there):  # skeletons, weights and items are in place afterwards
        seconds(executor, jobs[:4])
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in range(2)]
    plain = [spawn.Process(target=plain_process, args=(folder, i, theirs)) for i, (_, theirs) in enumerate(pipes)]
    for process in plain:
        process.start()

    def together() -> float:
        for ours, _ in pipes:
            ours.send(True)
        return statistics.mean(ours.recv() for ours, _ in pipes)

    for ours, _ in pipes:
        ours.recv()
    rounds = [(seconds(here, jobs), seconds(there, jobs), together()) for _ in range(N_ROUNDS)]
    there.close()
    for process, (ours, _) in zip(plain, pipes, strict=True):
        ours.send(False)
        process.join()
    return {
        "candidates": len(jobs),
        "seconds per candidate in process": round(statistics.median(one for one, _, _ in rounds) / len(jobs), 3),
        "speed-up of two workers, per round": [round(one / two, 2) for one, two, _ in rounds],
        "median": round(statistics.median(one / two for one, two, _ in rounds), 2),
        "target": 1.8,
        "of two plain processes, per round": [round(one / two, 2) for one, _, two in rounds],
        "their median": round(statistics.median(one / two for one, _, two in rounds), 2),
    }


def overhead() -> dict[str, object]:
    """Run jobs that do nothing."""
    pool = start_ray_pool(Given(ToyRunner()), {}, SETTINGS)  # type: ignore[arg-type]
    jobs = [Evaluate(i, Candidate((0, 1, 2, 0), TRAINED)) for i in range(N_NULL)]
    seconds(pool, jobs[:200])
    took = seconds(pool, jobs)
    pool.close()
    return {"evaluations": N_NULL, "milliseconds per evaluation": round(1000 * took / N_NULL, 3)}


def start_up() -> dict[str, float]:
    """Start a cluster, then a worker, then end both."""
    begin = time.perf_counter()
    cluster = Cluster(SETTINGS)
    started = time.perf_counter()
    pool = start_ray_pool(Given(ToyRunner()), {}, RaySettings(workers=1))  # type: ignore[arg-type]
    pool.submit(Evaluate(0, Candidate((0, 1, 2, 0), TRAINED)))
    drain(pool, 1)
    first = time.perf_counter()
    pool.close()
    cluster.close()
    ended = time.perf_counter()
    return {
        "cluster": round(started - begin, 2),
        "first evaluation after it": round(first - started, 2),
        "shutdown": round(ended - first, 2),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for name, measured in (
            ("start-up, seconds", start_up),
            ("overhead", overhead),
            ("speed-up", lambda: speedup(Path(scratch))),
        ):
            print(json.dumps({name: measured()}), flush=True)
