"""Runners for executors with workers of their own, which cannot import what a test file defines; a way to kill them."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.core.jobs import (
    Evaluate,
    Evaluation,
    Job,
    Outcome,
    Status,
    WeightSet,
)
from autoprune.core.protocols import Executor, JobRunner
from autoprune.testing.search_toys import ToyRunner

if TYPE_CHECKING:
    from autoprune.prepare.recipe import Checkpoints
    from autoprune.weight_sets import Blobs

GREED = 2**40
"""Bytes that a greedy candidate wants."""


@dataclass(frozen=True)
class Given:
    """Makes a runner that needs no weights.

    Attributes:
        runner: the runner.
    """

    runner: JobRunner

    def start(self, blobs: Blobs, checkpoints: Checkpoints | None = None) -> JobRunner:  # noqa: ARG002  executors give them
        """Return the runner."""
        return self.runner


@dataclass(frozen=True)
class FaultyRunner(ToyRunner):
    """Runs toy jobs, but for chosen ones, which go wrong in the ways that candidates do.

    Attributes:
        faults: the fault of each job id: ``"raise"``, ``"nan"``, ``"greed"`` (wants a terabyte), ``"hang"``, ``"exit"``
            (leaves the process politely), ``"die"`` (kills it, every time), ``"die once"`` (the first process that runs
            it).
        folder: folder that remembers which workers died.
    """

    faults: Mapping[int, str] = field(default_factory=dict)
    folder: Path = Path()

    def __call__(self, job: Job) -> Outcome:
        """Run ``job``."""
        match self.faults.get(job.id):
            case "raise":
                msg = f"job {job.id} is broken"
                raise ArithmeticError(msg)
            case "nan" if isinstance(job, Evaluate):
                return Evaluation(job, Status.OK, {"accuracy": float("nan")})
            case "greed":
                bytearray(GREED)
            case "hang":
                time.sleep(3600)
            case "exit":
                raise SystemExit
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "die once" if not (self.folder / str(job.id)).exists():
                (self.folder / str(job.id)).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(job)


class WeightMaker(ToyRunner):
    """Prepares weights for real: reads the parent's, adds a byte, keeps the result. Evaluations say what they read.

    Args:
        blobs: the blobs of the weights.
    """

    def __init__(self, blobs: Blobs, checkpoints: Checkpoints | None = None) -> None:  # noqa: ARG002  it saves nothing
        super().__init__()
        object.__setattr__(self, "blobs", blobs)

    @classmethod
    def start(cls, blobs: Blobs, checkpoints: Checkpoints | None = None) -> WeightMaker:
        """Return one at work: the class itself is what workers start."""
        return cls(blobs, checkpoints)

    def __call__(self, job: Job) -> Outcome:
        """Run ``job``."""
        outcome = super().__call__(job)
        blobs: Blobs = self.__dict__["blobs"]
        if isinstance(outcome, Evaluation):
            digest = hashlib.sha256(blobs.get(outcome.job.candidate.weight_set.weights) or b"").hexdigest()
            return replace(outcome, metrics={**outcome.metrics, "read": int(digest[:8], 16) / 2**32})
        if outcome.weight_set is not None:
            made = blobs.put((blobs.get(outcome.job.parent.weights) or b"") + b"!")
            return replace(outcome, weight_set=WeightSet(made, outcome.job.parent.order))
        return outcome


class Killing:
    """Kills the worker of chosen outcomes, which by then is busy with the next job.

    Args:
        inner: an executor whose workers are processes of this machine, called ``host:pid``.
        at: numbers of the outcomes, counted from 1 as they arrive.
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
        """Capacity of the inner executor."""
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
