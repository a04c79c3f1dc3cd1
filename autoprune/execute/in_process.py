"""Jobs run one after another in this process; an attempt at one gives an outcome, whatever the candidate does."""

from __future__ import annotations

import os
import socket
from collections import deque
from dataclasses import replace

from autoprune.core.clock import SystemClock
from autoprune.core.jobs import Job, Outcome, failed
from autoprune.core.protocols import Clock, JobRunner


def attempt(runner: JobRunner, job: Job, *, clock: Clock, worker: str) -> Outcome:
    """Run ``job`` and return its outcome, stamped with who ran it, when, and for how long.

    An error of the candidate (out of memory included) becomes a FAILED outcome with its text; ``KeyboardInterrupt`` and
    ``SystemExit`` are not the candidate's and pass.
    """
    started, before = clock.unix(), clock.now()
    try:
        outcome = runner(job)
    except Exception as error:  # noqa: BLE001 - a candidate may raise anything, and the search goes on
        outcome = failed(job, _message(error))
    spent = replace(outcome.spent, seconds=clock.now() - before)
    return replace(outcome, worker=worker, started=started, spent=spent)


def _message(error: Exception) -> str:
    """Say what went wrong in one paragraph; torch's own error is known by its name, without torch."""
    text = f"{type(error).__name__}: {error}"
    is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return f"out of memory: {text}" if is_memory or "can't allocate memory" in str(error) else text


class InProcessExecutor:
    """Runs one job per `collect`, in the order of submission.

    Args:
        runner: runs a job.
        clock: clock that measures how long a job took.
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
