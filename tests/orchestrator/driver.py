"""A driver that kills itself with SIGKILL: ``python driver.py FOLDER POINT WHEN EXECUTOR``.

POINT is ``ask`` (asked, nothing recorded yet), ``submit`` (started, not run), ``collect`` (run, not committed) or
``tell`` (committed, not told), of which WHEN counts the calls; or else ``random`` (after WHEN seconds) or ``never``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from autoprune.core.budget import Budget
from autoprune.core.clock import SimulatedClock
from autoprune.core.jobs import Job, Outcome
from autoprune.core.protocols import Executor, Strategy
from autoprune.execute.in_process import InProcessExecutor
from autoprune.execute.simulated import SimulatedExecutor
from autoprune.orchestrator import run_search
from autoprune.store.cache import EvaluationCache
from autoprune.store.run import RunStore
from autoprune.testing.search_toys import OBJECTIVES, ToyRunner, ToyStrategy

N = 60


def die() -> None:
    """End at once: no handler, no finally, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


class Fuse:
    """Kills the process at the n-th passing of a point."""

    def __init__(self, point: str, n: int) -> None:
        self.point = point
        self.left = n

    def passing(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                die()


class FusedStrategy:
    """A strategy with a fuse after ask and before tell."""

    def __init__(self, inner: Strategy, fuse: Fuse) -> None:
        self.inner, self.fuse = inner, fuse
        self.absorb = inner.absorb

    def ask(self, n: int) -> list[Job]:
        jobs = self.inner.ask(n)
        self.fuse.passing("ask")
        return jobs

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        self.fuse.passing("tell")
        self.inner.tell(outcomes)


class FusedExecutor:
    """An executor with a fuse before submit and after collect."""

    def __init__(self, inner: Executor, fuse: Fuse) -> None:
        self.inner, self.fuse = inner, fuse
        self.close = inner.close

    @property
    def capacity(self) -> int:
        return self.inner.capacity

    def submit(self, job: Job) -> None:
        self.fuse.passing("submit")
        self.inner.submit(job)

    def collect(self, timeout: float | None = None) -> list[Outcome]:
        outcomes = self.inner.collect(timeout)
        self.fuse.passing("collect")
        return outcomes


def drive(folder: str, point: str = "never", when: float = 0.0, executor: str = "process") -> None:
    """Run or resume the toy search in ``folder``."""
    fuse = Fuse(point, int(when))
    runner = ToyRunner(sleep=0.001 if point == "random" else 0.0)
    clock = SimulatedClock()
    workers: Executor = InProcessExecutor(runner)
    if executor == "simulated":
        speeds = (1.0, 0.3, 2.0, 5.0)
        workers = SimulatedExecutor(runner, seconds=lambda job: 1 + job.id % 7, speeds=speeds, clock=clock)
    make_strategy: Callable[[], Strategy] = lambda: FusedStrategy(ToyStrategy(seed=2, generation=20), fuse)  # noqa: E731
    if point == "random":
        threading.Timer(when, die).start()
    cache = EvaluationCache(f"{folder}/cache.sqlite", space="s", evaluator={}, data="d")
    with RunStore(folder) as store:
        run_search(
            make_strategy,
            FusedExecutor(workers, fuse),
            store,
            Budget(evaluations=N),
            objectives=OBJECTIVES,
            price=runner.price,
            cache=cache,
        )
    cache.close()


if __name__ == "__main__":
    drive(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])
    os._exit(0)  # a timer that has not fired yet must not hold up the end
