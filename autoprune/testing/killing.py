"""An executor that kills its own workers, to see that nobody notices."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection

from autoprune.core.jobs import Job, Outcome
from autoprune.core.protocols import Executor


class Killing:
    """Kills the worker of chosen outcomes, which by then is busy with the next job.

    Args:
        inner: an executor whose workers are processes of this machine, called ``host:pid``.
        at: which outcomes, counted from 1 as they arrive.
        before_close: called before the executor is closed.
    """

    def __init__(self, inner: Executor, at: Collection[int], *, before_close: Callable[[], None] | None = None) -> None:
        self._inner = inner
        self._at = at
        self._before_close = before_close
        self._n = 0
        self.killed = 0

    @property
    def capacity(self) -> int:
        """That of the executor."""
        return self._inner.capacity

    def submit(self, job: Job) -> None:
        """Hand a job on."""
        self._inner.submit(job)

    def collect(self, timeout: float | None = None) -> list[Outcome]:
        """Hand outcomes back; kill the workers of the chosen ones."""
        outcomes = self._inner.collect(timeout)
        for outcome in outcomes:
            self._n += 1
            if self._n in self._at:
                time.sleep(0.005 * (self._n % 4))
                os.kill(int(outcome.worker.rpartition(":")[2]), signal.SIGKILL)
                self.killed += 1
        return outcomes

    def close(self) -> None:
        """Close the executor."""
        if self._before_close is not None:
            self._before_close()
        self._inner.close()
