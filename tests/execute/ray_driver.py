"""A driver of a toy search on Ray, in a process of its own: ``python ray_driver.py FOLDER ADDRESS SLEEP [DIE_AFTER]``.

ADDRESS ``local`` starts a cluster. It says on standard output that the first outcome is there, and kills itself with
SIGKILL so many seconds later; or else it says why it ended.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from autoprune.core.budget import Budget
from autoprune.execute.ray.backend import start_ray_pool
from autoprune.execute.settings import MIB, RaySettings
from autoprune.orchestrator import run_search
from autoprune.orchestrator.progress import SearchProgress
from autoprune.store.blobs import BlobStore
from autoprune.store.run import RunStore
from autoprune.testing.ray_toys import Given
from autoprune.testing.search_toys import OBJECTIVES, ToyRunner, ToyStrategy


def say(word: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


class Announcement:
    """Says once that the search is under way, and lights the fuse.

    Args:
        die_after: seconds; None: never.
    """

    def __init__(self, die_after: float | None) -> None:
        self.die_after = die_after
        self.is_made = False

    def __call__(self, progress: SearchProgress) -> None:
        if progress.evaluations and not self.is_made:
            self.is_made = True
            say("running")
            if self.die_after is not None:
                threading.Timer(self.die_after, os.kill, (os.getpid(), signal.SIGKILL)).start()


def drive(folder: Path, address: str, sleep: float, die_after: float | None = None) -> None:
    """Search, or resume a search."""
    runner = ToyRunner(sleep=sleep)
    settings = RaySettings(
        workers=2, address=None if address == "local" else address, insecure=True, object_store_bytes=100 * MIB
    )
    with RunStore(folder) as store:
        pool = start_ray_pool(Given(runner), BlobStore(folder / "weights"), settings)
        try:
            result = run_search(
                lambda: ToyStrategy(seed=4),
                pool,
                store,
                Budget(evaluations=60),
                objectives=OBJECTIVES,
                price=runner.price,
                on_progress=Announcement(die_after),
            )
        finally:
            pool.close()
    say(result.stop)


if __name__ == "__main__":
    drive(Path(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:]))
    os._exit(0)  # a fuse that has not burnt down must not hold up the end
