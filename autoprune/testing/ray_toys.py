"""Runners for executors with workers of their own, where what a test file defines cannot be imported."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.core.jobs import Evaluate, Job, Outcome, Status
from autoprune.core.protocols import JobRunner
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

    def __call__(self, blobs: Blobs, checkpoints: Checkpoints | None) -> JobRunner:  # noqa: ARG002  executors give them
        """Return the runner."""
        return self.runner


@dataclass(frozen=True)
class FaultyRunner(ToyRunner):
    """Runs toy jobs, but for chosen ones, which go wrong in the ways that candidates do.

    Attributes:
        faults: by job id: ``"raise"``, ``"nan"``, ``"greed"`` (wants a terabyte), ``"hang"``, ``"exit"`` (leaves the
            process politely), ``"die"`` (kills it, every time), ``"die once"`` (the first process that runs it).
        folder: where it is remembered who died.
    """

    faults: Mapping[int, str] = field(default_factory=dict)
    folder: Path = Path()

    def __call__(self, job: Job) -> Outcome:
        """Run ``job``."""
        match self.faults.get(job.id):
            case "raise":
                msg = f"job {job.id} is broken"
                raise ArithmeticError(msg)
            case "nan":
                return Outcome(job, Status.OK, {"accuracy": float("nan")})
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
        blobs: where they are.
    """

    def __init__(self, blobs: Blobs, checkpoints: Checkpoints | None = None) -> None:  # noqa: ARG002  it saves nothing
        super().__init__()
        object.__setattr__(self, "blobs", blobs)

    def __call__(self, job: Job) -> Outcome:
        """Run ``job``."""
        outcome = super().__call__(job)
        blobs: Blobs = self.__dict__["blobs"]
        if isinstance(job, Evaluate):
            digest = hashlib.sha256(blobs.get(job.candidate.weight_set.weights) or b"").hexdigest()
            return replace(outcome, metrics={**outcome.metrics, "read": int(digest[:8], 16) / 2**32})
        if outcome.weight_set is not None:
            made = blobs.put((blobs.get(job.parent.weights) or b"") + b"!")
            outcome = replace(outcome, weight_set=replace(outcome.weight_set, weights=made, order=job.parent.order))
        return outcome
