"""The parts that live in the processes of Ray's workers: a runner, and the blobs it sees."""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from autoprune.core.clock import SystemClock
from autoprune.core.jobs import Job, Outcome
from autoprune.core.protocols import JobRunner
from autoprune.errors import StoreError
from autoprune.execute.in_process import attempt
from autoprune.execute.ray.checkpoints import RemoteSlot

if TYPE_CHECKING:
    from autoprune.prepare.recipe import Checkpoints
    from autoprune.weight_sets import Blobs

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


class Startable(Protocol):
    """What the runner of a worker is made of, as data; such as `autoprune.evaluate.runner.RunnerSpec`."""

    def start(self, blobs: Blobs, checkpoints: Checkpoints | None = None) -> JobRunner:
        """Return a runner that reads and adds blobs, and saves what it trains."""
        ...


class Worker:
    """Lives in an actor: a runner, made once, and the blobs it was told of."""

    def __init__(self, spec: Startable, max_memory: int | None, keeper: Any | None) -> None:
        _keep_freed_memory()
        self._blobs = _WorkerBlobs()
        self._runner = spec.start(self._blobs, None if keeper is None else lambda key: RemoteSlot(keeper, key))
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
