"""Nodes of one machine come and go under searches: ``python ray_nodes.py FOLDER ROUNDS``, one line of JSON a round."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

# A cluster of several nodes on one machine: all on loopback, with a token, like the local cluster of one node.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}

import numpy as np
from ray.cluster_utils import Cluster as Nodes

from autoprune.core.budget import Budget
from autoprune.core.jobs import Outcome
from autoprune.core.protocols import Executor
from autoprune.execute.in_process import InProcessExecutor
from autoprune.execute.ray.backend import start_ray_pool
from autoprune.execute.settings import MIB, RaySettings
from autoprune.orchestrator import SearchProgress, run_search
from autoprune.store.blobs import BlobStore
from autoprune.store.run import RunStore
from autoprune.testing.ray_toys import Given
from autoprune.testing.search_toys import OBJECTIVES, ToyRunner, ToyStrategy

# Two GPUs that do not exist place two workers on a node all the same.
NODE: dict[str, Any] = {"num_cpus": 1, "num_gpus": 2, "object_store_memory": 100 * MIB}
N = 200


class Leaves(logging.Handler):
    """Remembers what the log says of workers."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def searched(folder: Path, executor: Executor, sleep: float, on_progress: Any = None) -> list[Outcome]:
    """Return the outcomes of a search."""
    with RunStore(folder) as store:
        run_search(
            lambda: ToyStrategy(seed=4),
            executor,
            store,
            Budget(evaluations=N),
            objectives=OBJECTIVES,
            price=ToyRunner(sleep=sleep).price,
            on_progress=on_progress,
        )
        return list(store.ledger.outcomes())


def come_and_go(nodes: Nodes, first: Any, folder: Path, rng: np.random.Generator) -> tuple[dict[str, Any], Any]:
    """Search on one node; another joins; the first one is killed; the search goes on. Return what was seen."""
    log = Leaves()
    logging.getLogger("autoprune").addHandler(log)
    settings = RaySettings(address=nodes.address, cpus_per_worker=0.5, gpus_per_worker=1)
    pool = start_ray_pool(Given(ToyRunner(sleep=0.1)), BlobStore(folder / "weights"), settings)
    alive = [first]
    to_do = {
        10: lambda: alive.append(nodes.add_node(**NODE)),
        int(rng.integers(90, 150)): lambda: nodes.remove_node(alive.pop(0), allow_graceful=False),
    }

    def act(progress: SearchProgress) -> None:
        for when in [n for n in to_do if progress.evaluations >= n]:
            to_do.pop(when)()  # in the main thread: Ray starts nodes nowhere else

    try:
        outcomes = searched(folder, pool, 0.1, act)
    finally:
        pool.close()
    logging.getLogger("autoprune").removeHandler(log)
    undisturbed = searched(folder.with_name(f"{folder.name}-here"), InProcessExecutor(ToyRunner()), 0.0)
    seen = {
        "workers": len({outcome.worker for outcome in outcomes}),
        "is_undisturbed": [o.identity() for o in outcomes] == [o.identity() for o in undisturbed],
        "given_up": sum("is given up" in line for line in log.lines),
    }
    return seen, alive[0]


def main(folder: Path, n_rounds: int) -> None:
    """Let nodes come and go so many times."""
    nodes = Nodes(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "num_gpus": 0})
    node = nodes.add_node(**NODE)
    for i in range(n_rounds):
        seen, node = come_and_go(nodes, node, folder / str(i), np.random.default_rng(i))
        sys.stdout.write(json.dumps(seen) + "\n")
        sys.stdout.flush()
    nodes.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
