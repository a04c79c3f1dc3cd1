"""One attempt to run one job: whatever the candidate does, an outcome comes back."""

from __future__ import annotations

from dataclasses import replace

from autoprune.core.jobs import Job, Outcome, failed
from autoprune.core.protocols import Clock, JobRunner


def attempt(runner: JobRunner, job: Job, *, clock: Clock, worker: str) -> Outcome:
    """Run ``job`` and return its outcome, stamped with who ran it, when, and for how long.

    An error of the candidate (out of memory included) becomes a FAILED outcome with its text, charged what the job
    was estimated at; ``KeyboardInterrupt`` and ``SystemExit`` are not the candidate's and pass.
    """
    started, before = clock.unix(), clock.now()
    try:
        outcome = runner(job)
    except Exception as error:  # noqa: BLE001 - a candidate may raise anything, and the search goes on
        outcome = failure(job, f"{type(error).__name__}: {error}", runner)
    spent = replace(outcome.spent, seconds=clock.now() - before)
    return replace(outcome, worker=worker, started=started, spent=spent)


def failure(job: Job, message: str, runner: JobRunner) -> Outcome:
    """Return the outcome of a job that came to nothing, charged what it was estimated at."""
    return failed(job, message, runner.estimate(job))
