"""Jobs run one after another in this process."""

from __future__ import annotations

import os
import socket
from collections import deque

from autoprune.core.clock import SystemClock
from autoprune.core.jobs import Job, Outcome
from autoprune.core.protocols import Clock, JobRunner
from autoprune.execute.attempt import attempt


class InProcessExecutor:
    """Runs one job per `collect`, in the order of submission.

    Args:
        runner: runs a job.
        clock: tells how long a job took.
    """

    def __init__(self, runner: JobRunner, *, clock: Clock | None = None) -> None:
        self._runner = runner
        self._clock = clock or SystemClock()
        self._waiting: deque[Job] = deque()
        self._worker = f"{socket.gethostname()}:{os.getpid()}"

    @property
    def capacity(self) -> int:
        """One."""
        return 1

    def submit(self, job: Job) -> None:
        """Accept a job; it runs when its outcome is collected."""
        self._waiting.append(job)

    def collect(self, timeout: float | None = None) -> list[Outcome]:
        """Run the next job and return its outcome; nothing when none waits.

        Args:
            timeout: ignored: a job cannot be interrupted from within its own process.
        """
        del timeout
        if not self._waiting:
            return []
        job = self._waiting.popleft()
        return [attempt(self._runner, job, clock=self._clock, worker=self._worker)]

    def close(self) -> None:
        """Drop what is waiting."""
        self._waiting.clear()
