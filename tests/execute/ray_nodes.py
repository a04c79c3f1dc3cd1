"""Nodes of one machine come and go under a search: ``python ray_nodes.py FOLDER`` prints what was seen as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

# A cluster of several nodes on one machine: all on loopback, with a token, like the local cluster of one node.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}

from ray.cluster_utils import Cluster as Nodes

from autoprune.core.budget import Budget
from autoprune.execute._ray import start_ray_pool
from autoprune.execute.ray_settings import MIB, RaySettings
from autoprune.orchestrator import Progress, run_search
from autoprune.store.blobs import BlobStore
from autoprune.store.run import RunStore
from autoprune.testing.ray_toys import Given
from autoprune.testing.search_toys import OBJECTIVES, ToyRunner, ToyStrategy

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * MIB}


def main(folder: Path) -> None:
    """Search on one node; another joins; the first workers' node leaves, killed; the search goes on."""
    nodes = Nodes(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "num_gpus": 0})
    first = nodes.add_node(**NODE, num_gpus=2)  # GPUs that do not exist place workers all the same
    runner = ToyRunner(sleep=0.2)
    settings = RaySettings(address=nodes.address, cpus_per_worker=0.5, gpus_per_worker=1)
    room: list[int] = []
    to_do = {
        20: lambda: nodes.add_node(**NODE, num_gpus=2),
        200: lambda: nodes.remove_node(first, allow_graceful=False),
    }

    def come_and_go(progress: Progress) -> None:
        room.append(pool.capacity)
        for when in [n for n in to_do if progress.evaluations >= n]:
            to_do.pop(when)()  # in the main thread: Ray starts nodes nowhere else

    with RunStore(folder) as store:
        pool = start_ray_pool(Given(runner), BlobStore(folder / "weights"), settings)
        try:
            result = run_search(
                lambda: ToyStrategy(seed=4),
                pool,
                store,
                Budget(evaluations=320),
                objectives=OBJECTIVES,
                estimate=runner.estimate,
                on_progress=come_and_go,
            )
        finally:
            pool.close()
        workers = [outcome.worker for outcome in store.outcomes()]
        failed = [
            outcome.message for outcome in store.outcomes() if "unlucky" not in outcome.message and outcome.message
        ]
    nodes.shutdown()
    seen = {
        "stop": result.stop,
        "room": [n for n, before in zip(room, [0, *room], strict=False) if n != before],
        "workers": len(set(workers)),
        "failed": failed,
    }
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
