"""The door to Ray actors: a crew of them that runs jobs.

Every actor keeps its runner (skeleton, proxy data) and the weights it has seen. Runner and weights go into Ray's object
store once and are mapped from there; nothing ever writes to them.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from autoprune.core.clock import SystemClock
from autoprune.core.jobs import Evaluate, Job, Outcome, Status
from autoprune.core.protocols import JobRunner
from autoprune.errors import AutopruneWarning, ExecutorError, StoreError
from autoprune.execute._ray_cluster import Cluster
from autoprune.execute.attempt import attempt
from autoprune.execute.pool import Done, Lost, News, PoolSettings, Ready, WorkerPool
from autoprune.execute.ray_settings import RaySettings

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


class Blobs(Protocol):
    """Bytes by their SHA-256, to read and to add to."""

    def get(self, name: str, /) -> bytes | None:
        """Return the bytes called ``name``."""
        ...

    def put(self, data: bytes, /) -> str:
        """Keep ``data`` and return its SHA-256."""
        ...


MakeRunner = Callable[[Blobs], JobRunner]


def start_ray_pool(make_runner: MakeRunner, blobs: Blobs, settings: RaySettings | None = None) -> WorkerPool:
    """Start or join a cluster and return an executor on it.

    Args:
        make_runner: called once in every worker with the blobs it sees there.
        blobs: the run's weights; what a worker makes is kept there.
        settings: which cluster, how many workers.

    Raises:
        MissingDependencyError: Ray is not installed.
        ExecutorError: the cluster cannot be reached, lets anyone in, or has no room for a single worker.
    """
    settings = settings or RaySettings()
    cluster = Cluster(settings)
    try:
        crew = RayCrew(make_runner, blobs, settings, cluster)
        room = crew.places()
        wanted = room if settings.workers is None else settings.workers
        if room < wanted or room < 1:
            msg = (
                f"expected room for {max(wanted, 1)} workers with {settings.resources} each, the cluster has room for "
                f"{room}: {crew.describe()}"
            )
            if room < 1:
                raise ExecutorError(msg)
            warnings.warn(f"{msg}; more will start when nodes join", AutopruneWarning, stacklevel=2)
        return WorkerPool(
            crew,
            PoolSettings(
                workers=wanted if settings.workers else sys.maxsize,
                deadline=settings.deadline,
                prepare_deadline=settings.prepare_deadline,
                max_deaths=settings.max_deaths,
                patience=settings.patience,
            ),
        )
    except BaseException:
        cluster.close()
        raise


class RayCrew:
    """Actors on a cluster; implements `autoprune.execute.pool.Crew`.

    Args:
        make_runner: called once in every worker with the blobs it sees there.
        blobs: the run's weights.
        settings: what a worker reserves.
        cluster: is closed with the crew.
    """

    def __init__(self, make_runner: MakeRunner, blobs: Blobs, settings: RaySettings, cluster: Cluster) -> None:
        import ray

        self._ray = ray
        self._settings = settings
        self._cluster = cluster
        self._blobs = blobs
        self._shipped: dict[str, Any] = {}  # by the name of a blob: where it is in the object store
        with flat_tensors(), loose_modules():
            self._make_runner = ray.put(make_runner)
        resources = settings.resources
        self._actor = ray.remote(_Worker).options(
            num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0), max_restarts=0, max_task_retries=0
        )
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, tuple[int, tuple[Job, ...]]] = {}  # by reference, oldest first; no jobs: being started
        self._n_hired = 0
        self._places = (-math.inf, 0)

    def places(self) -> int:
        """Return how many workers the nodes have room for when nothing else runs on them."""
        asked, found = self._places
        if time.monotonic() - asked > 1.0:
            found = sum(_room(node["Resources"], self._settings.resources) for node in self._nodes())
            self._places = (time.monotonic(), found)
        return found

    def describe(self) -> str:
        """Name the resources of every node."""
        kinds = [{k: v for k, v in node["Resources"].items() if k in ("CPU", "GPU")} for node in self._nodes()]
        return f"{len(kinds)} nodes with {kinds}"

    def shipped(self) -> tuple[MakeRunner, dict[str, bytes]]:
        """Return what is in the object store now: what makes the runner, and the blobs by name."""
        return self._ray.get(self._make_runner), {
            name: self._ray.get(where).tobytes()
            for name, where in self._shipped.items()
            if isinstance(where, self._ray.ObjectRef)
        }

    def hire(self) -> int:
        """Begin to start an actor."""
        self._n_hired += 1
        actor = self._actor.remote(self._make_runner, self._settings.max_memory)
        self._actors[self._n_hired] = actor
        self._calls[actor.__ray_ready__.remote()] = (self._n_hired, ())
        return self._n_hired

    def send(self, worker: int, jobs: Sequence[Job]) -> None:
        """Queue a call at an actor, with the blobs it needs."""
        reference = self._actors[worker].run.remote(list(jobs), self._ship(jobs))
        self._calls[reference] = (worker, tuple(jobs))

    def dismiss(self, worker: int) -> None:
        """Kill an actor and forget its calls."""
        self._ray.kill(self._actors.pop(worker), no_restart=True)
        self._calls = {reference: call for reference, call in self._calls.items() if call[0] != worker}

    def wait(self, timeout: float) -> list[News]:
        """Wait for answers."""
        if not self._calls:
            time.sleep(timeout)
            return []
        references = list(self._calls)
        done, _ = self._ray.wait(references, num_returns=1, timeout=timeout)
        if done:
            done, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        arrived = set(done)
        news = [item for reference in references if reference in arrived for item in self._news(reference)]
        return sorted(news, key=lambda item: isinstance(item, Lost))

    def close(self) -> None:
        """Kill all actors and leave the cluster."""
        self._calls.clear()
        for actor in self._actors.values():
            with suppress(Exception):
                self._ray.kill(actor, no_restart=True)
        self._actors.clear()
        self._shipped.clear()
        self._make_runner = None
        self._cluster.close()

    def _news(self, reference: Any) -> list[News]:
        exceptions = self._ray.exceptions
        if reference not in self._calls:
            return []  # of an actor that was given up a moment ago
        worker, jobs = self._calls.pop(reference)
        try:
            found = self._ray.get(reference)
        except exceptions.RayTaskError as error:  # first: it is the call's fault, the actor lives on
            text = f"{type(error.cause).__name__}: {error.cause}"
            return [Done(worker, tuple(Outcome(job, Status.FAILED, message=text) for job in jobs))]
        except exceptions.RayError as error:
            self._calls = {other: call for other, call in self._calls.items() if call[0] != worker}
            return [Lost(worker, _gist(error))]
        if not jobs:
            return [Ready(worker)]
        outcomes, made = found
        for data in made:
            self._blobs.put(data)
        return [Done(worker, tuple(outcomes))]

    def _ship(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """Return where the blobs of jobs are in the object store, having put them there if they are new.

        A blob that cannot be read is the candidate's problem: the error travels in its place.
        """
        found: dict[str, Any] = {}
        for job in jobs:
            inherited = job.candidate.weight_set if isinstance(job, Evaluate) else job.parent
            for name in (inherited.weights, inherited.order):
                if name not in self._shipped:
                    try:
                        data = self._blobs.get(name)
                    except StoreError as error:
                        self._shipped[name] = error
                    else:
                        packed = None if data is None else self._ray.put(np.frombuffer(data, dtype=np.uint8))
                        self._shipped[name] = packed
                found[name] = self._shipped[name]
        return found

    def _nodes(self) -> list[Mapping[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]


class _Worker:
    """Lives in an actor: a runner, made once, and the blobs it was told of."""

    def __init__(self, make_runner: MakeRunner, max_memory: int | None) -> None:
        _keep_freed_memory()
        self._blobs = _WorkerBlobs()
        self._runner = make_runner(self._blobs)
        self._clock = SystemClock()
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        if max_memory is not None:
            _limit_memory(max_memory)

    def run(self, jobs: list[Job], known: dict[str, Any]) -> tuple[list[Outcome], list[bytes]]:
        """Run jobs one after the other; return what they came to, and the blobs they made."""
        self._blobs.known.update(known)
        outcomes = [attempt(self._runner, job, clock=self._clock, worker=self._name) for job in jobs]
        made, self._blobs.made = self._blobs.made, {}
        return outcomes, list(made.values())


class _WorkerBlobs:
    """The blobs that a worker sees: those in the object store, and those it has made since its last answer."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.made: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        """Return the bytes called ``name``; they come to this node at the first use."""
        import ray

        if name in self.made:
            return self.made[name]
        where = self.known.get(name)
        if isinstance(where, StoreError):
            raise where
        return None if where is None else ray.get(where).tobytes()

    def put(self, data: bytes) -> str:
        """Keep ``data`` for the answer."""
        name = hashlib.sha256(data).hexdigest()
        self.made[name] = data
        return name


def _keep_freed_memory() -> None:
    """Let the C library reuse freed memory instead of giving it back to the system after every layer.

    Activations are tens of MiB and short-lived: fetching their pages anew costs an evaluation 10 to 15 % of its time.
    Elsewhere than in the GNU library nothing happens.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            library.mallopt(option, 2**30)


def _limit_memory(n_bytes: int) -> None:
    """Let this process allocate so many bytes more; beyond them is a MemoryError instead of a dead worker."""
    import resource

    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + n_bytes, resource.RLIM_INFINITY))


@contextmanager
def flat_tensors() -> Iterator[None]:
    """Let tensors that are put into the object store be mapped from it instead of being copied by every reader."""
    if "torch" not in sys.modules:  # nor is there a tensor
        yield
        return
    import torch
    from ray.util import deregister_serializer, register_serializer

    from autoprune.execute.transport import FlatTensor

    register_serializer(torch.Tensor, serializer=FlatTensor.of, deserializer=FlatTensor.tensor)
    try:
        yield
    finally:
        deregister_serializer(torch.Tensor)


@contextmanager
def loose_modules() -> Iterator[None]:
    """Let code travel that a worker could not import: of files that were loaded from outside of ``sys.path``."""
    from ray import cloudpickle

    loose = [module for name, module in list(sys.modules.items()) if _is_loose(name, module)]
    for module in loose:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in loose:
            cloudpickle.unregister_pickle_by_value(module)


def _is_loose(name: str, module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if file is None or name != module.__name__ or name == "__main__":
        return False
    path = Path(file)
    folders = path.parents[name.count(".") + (path.stem == "__init__") :]
    return bool(folders) and not {str(folders[0]), str(folders[0].resolve())} & set(sys.path)


def _room(node: Mapping[str, float], worker: Mapping[str, float]) -> int:
    """Return how many workers fit on a node."""
    return int(min(node.get(name, 0.0) / amount for name, amount in worker.items()) + 1e-9)


def _gist(error: Exception) -> str:
    """Return one line of an error of Ray's: what a runner raised while it was made, or else how the actor ended."""
    lines = [type(error).__name__, *str(error).strip().splitlines()]
    return lines[-1] if any("creation task" in line for line in lines) else ": ".join(lines[:2])
