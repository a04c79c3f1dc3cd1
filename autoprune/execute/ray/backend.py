"""Adapter for Ray actors: a backend of them that runs jobs.

Every actor keeps its runner (skeleton, proxy data) and the weights it has seen. Runner and weights go into Ray's object
store once and are mapped from there; nothing ever writes to them.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.core.jobs import Job, failed, weight_sets_of
from autoprune.errors import AutopruneWarning, ExecutorError, StoreError
from autoprune.execute.pool import WorkerPool
from autoprune.execute.ray.checkpoints import Archive
from autoprune.execute.ray.cluster import Cluster
from autoprune.execute.ray.transport import flat_tensors, loose_modules
from autoprune.execute.ray.worker import Startable, Worker
from autoprune.execute.settings import RaySettings
from autoprune.execute.workers import Done, Lost, News, PoolSettings, Ready

if TYPE_CHECKING:
    from autoprune.prepare.recipe import Checkpoints
    from autoprune.weight_sets import Blobs


def start_ray_pool(
    spec: Startable,
    blobs: Blobs,
    settings: RaySettings | None = None,
    checkpoints: Checkpoints | None = None,
    mark: Callable[[Job], str] = lambda _: "",
) -> WorkerPool:
    """Start or join a cluster and return an executor on it.

    Args:
        spec: is started once in every worker with the blobs it sees there, and with what saves its trainings.
        blobs: the run's weights; what a worker makes is kept there.
        settings: settings that say which cluster is used and with how many workers.
        checkpoints: gives each training its checkpoint slot on the driver's machine; None saves nothing.
        mark: returns a mark of how far earlier attempts at a job have got, by these checkpoints.

    Raises:
        MissingDependencyError: Ray is not installed.
        ExecutorError: the cluster cannot be reached, lets anyone in, or has no room for a single worker.
    """
    settings = settings or RaySettings()
    cluster = Cluster(settings)
    try:
        backend = RayBackend(spec, blobs, settings, cluster, checkpoints)
        room = backend.places()
        wanted = room if settings.workers is None else settings.workers
        if room < wanted or room < 1:
            msg = (
                f"expected room for {max(wanted, 1)} workers with {settings.resources} each, the cluster has room for "
                f"{room}: {backend.describe()}"
            )
            if room < 1:
                raise ExecutorError(msg)
            warnings.warn(f"{msg}; more will start when nodes join", AutopruneWarning, stacklevel=2)
        return WorkerPool(
            backend,
            PoolSettings(
                workers=wanted if settings.workers else sys.maxsize,
                deadline=settings.deadline,
                prepare_deadline=settings.prepare_deadline,
                max_deaths=settings.max_deaths,
                patience=settings.patience,
                preparers=settings.preparation_resources is not None,
            ),
            mark=mark,
        )
    except BaseException:
        cluster.close()
        raise


class RayBackend:
    """Actors on a cluster; implements `autoprune.execute.workers.WorkerBackend`.

    Args:
        spec: is started once in every worker with the blobs it sees there, and with what saves its trainings.
        blobs: the run's weights.
        settings: settings that say what a worker reserves.
        cluster: is closed with the backend.
        checkpoints: gives each training its checkpoint slot on this machine; None saves nothing.
    """

    def __init__(
        self,
        spec: Startable,
        blobs: Blobs,
        settings: RaySettings,
        cluster: Cluster,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        import ray

        self._ray = ray
        self._settings = settings
        self._cluster = cluster
        self._blobs = blobs
        self._shipped: dict[str, Any] = {}  # by the name of a blob: where it is in the object store
        with flat_tensors(), loose_modules():
            self._spec = ray.put(spec)
        self._archive = None if checkpoints is None else Archive(checkpoints)
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, tuple[int, tuple[Job, ...]]] = {}  # by reference, oldest first; no jobs: being started
        self._n_started = 0
        self._known_nodes: tuple[float, list[Mapping[str, Any]]] = (-math.inf, [])

    def places(self, preparing: int = 0) -> int:
        """Return how many workers the nodes have room for beside so many that prepare, when nothing else runs."""
        left = [dict(node["Resources"]) for node in self._nodes()]
        worker, preparer = self._settings.resources, self._settings.preparation_resources
        if preparer is not None:
            for node in left:
                taken = min(preparing, _room(node, preparer))
                preparing -= taken
                node.update({name: node[name] - taken * amount for name, amount in preparer.items()})
        return sum(_room(node, worker) for node in left)

    def preparation_places(self) -> int:
        """Return how many workers that prepare the nodes have room for when nothing else runs."""
        resources = self._settings.preparation_resources or self._settings.resources
        return sum(_room(node["Resources"], resources) for node in self._nodes())

    def describe(self) -> str:
        """Name the resources of every node."""
        kinds = [{k: v for k, v in node["Resources"].items() if k in ("CPU", "GPU")} for node in self._nodes()]
        return f"{len(kinds)} nodes with {kinds}"

    def shipped(self) -> tuple[Startable, dict[str, bytes]]:
        """Return what is in the object store now: what makes the runner, and the blobs by name."""
        return self._ray.get(self._spec), {
            name: self._ray.get(where).tobytes()
            for name, where in self._shipped.items()
            if isinstance(where, self._ray.ObjectRef)
        }

    def start_worker(self, *, prepares: bool = False) -> int:
        """Begin to start an actor."""
        self._n_started += 1
        resources = (self._settings.preparation_resources if prepares else None) or self._settings.resources
        actor = (
            self._ray.remote(Worker)
            .options(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0), max_restarts=0, max_task_retries=0)
            .remote(self._spec, self._settings.max_memory, self._archive and self._archive.keeper)
        )
        self._actors[self._n_started] = actor
        self._calls[actor.__ray_ready__.remote()] = (self._n_started, ())
        return self._n_started

    def send(self, worker: int, jobs: Sequence[Job]) -> None:
        """Queue a call at an actor, with the blobs it needs."""
        reference = self._actors[worker].run.remote(list(jobs), self._ship(jobs))
        self._calls[reference] = (worker, tuple(jobs))

    def stop_worker(self, worker: int) -> None:
        """Kill an actor and forget its calls."""
        self._ray.kill(self._actors.pop(worker), no_restart=True)
        self._calls = {reference: call for reference, call in self._calls.items() if call[0] != worker}

    def wait(self, timeout: float) -> list[News]:
        """Wait for answers."""
        references = [*self._calls, *([] if self._archive is None else [self._archive.news])]
        if not references:
            time.sleep(timeout)
            return []
        done, _ = self._ray.wait(references, num_returns=1, timeout=timeout)
        if done:
            done, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        arrived = set(done)
        if self._archive is not None and self._archive.news in arrived:
            self._archive.save()
        news = [item for reference in references if reference in arrived for item in self._news(reference)]
        return sorted(news, key=lambda item: isinstance(item, Lost))

    def close(self) -> None:
        """Kill all actors and leave the cluster."""
        self._calls.clear()
        for actor in self._actors.values():
            with suppress(Exception):
                self._ray.kill(actor, no_restart=True)
        if self._archive is not None:
            self._archive.close()
        self._actors.clear()
        self._shipped.clear()
        self._spec = None
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
            return [Done(worker, tuple(failed(job, text) for job in jobs))]
        except exceptions.RayError as error:
            self._calls = {other: call for other, call in self._calls.items() if call[0] != worker}
            return [Lost(worker, _gist(error), raised=_is_of_creation(error))]
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
            for name in (blob for read in weight_sets_of(job) for blob in (read.weights, read.order)):
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
        asked, found = self._known_nodes
        if time.monotonic() - asked > 1.0:
            found = [node for node in self._ray.nodes() if node["Alive"]]
            self._known_nodes = (time.monotonic(), found)
        return found


def _room(node: Mapping[str, float], worker: Mapping[str, float]) -> int:
    """Return how many workers fit on a node."""
    return int(min(node.get(name, 0.0) / amount for name, amount in worker.items()) + 1e-9)


def _gist(error: Exception) -> str:
    """Return one line of an error of Ray's: what a runner raised while it was made, or else how the actor ended."""
    lines = [type(error).__name__, *str(error).strip().splitlines()]
    return lines[-1] if _is_of_creation(error) else ": ".join(lines[:2])


def _is_of_creation(error: Exception) -> bool:
    """Say whether a runner raised it while it was made."""
    return "creation task" in str(error)
