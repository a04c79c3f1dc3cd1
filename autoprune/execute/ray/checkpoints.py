"""Checkpoints of what workers train, on their way to the driver and back.

A checkpoint is kept as soon as the keeper, an actor on the driver's node, has it; the driver writes it down a moment
later. So a worker's death, or a node's, costs what a training did since its last save.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.prepare.recipe import Checkpoints


class Keeper:
    """Lives in an actor on the driver's node: hands checkpoints from workers to the driver and back.

    Args:
        checkpoints: the driver's, of which this process only reads.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._arrived: dict[str, bytes] = {}
        self._handed: dict[str, bytes] = {}  # the driver is writing them down
        self._has_news = asyncio.Event()

    async def every(self, key: str) -> int:
        """Return the steps between two saves."""
        return self._checkpoints(key).every

    async def read(self, key: str) -> bytes | None:
        """Return the latest checkpoint of a training."""
        return self._arrived.get(key) or self._handed.get(key) or self._checkpoints(key).read()

    async def write(self, key: str, data: bytes) -> None:
        """Keep the latest checkpoint of a training."""
        self._arrived[key] = data
        self._has_news.set()

    async def collect(self) -> dict[str, bytes]:
        """Wait until there are checkpoints and hand them over; those of the call before were written down by now."""
        self._handed = {}
        await self._has_news.wait()
        self._has_news.clear()
        self._handed, self._arrived = self._arrived, {}
        return self._handed


@dataclass(frozen=True)
class RemoteSlot:
    """A worker's `autoprune.train.checkpoint.CheckpointSlot`.

    Attributes:
        keeper: the actor.
        key: name of the training.
    """

    keeper: Any
    key: str

    def __str__(self) -> str:
        """Name the training."""
        return f"the checkpoint {self.key[:12]}"

    @property
    def every(self) -> int:
        """Steps between two saves."""
        import ray

        return int(ray.get(self.keeper.every.remote(self.key)))

    def read(self) -> bytes | None:
        """Return what was written last."""
        import ray

        found: bytes | None = ray.get(self.keeper.read.remote(self.key))
        return found

    def write(self, data: bytes) -> None:
        """Replace what was written last."""
        import ray

        ray.get(self.keeper.write.remote(self.key, data))


class Archive:
    """The driver's side: starts the keeper and writes down what it hands over.

    Args:
        checkpoints: gives each training its checkpoint slot on this machine.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        self._checkpoints = checkpoints
        # Here, where the files are; without a core of its own, and started again should it die.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.keeper: Any = (
            ray.remote(Keeper)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
            .remote(checkpoints)
        )
        self.news: Any = self.keeper.collect.remote()
        """Is there when checkpoints are."""

    def save(self) -> None:
        """Write down the checkpoints that are there, and ask for the next ones."""
        for key, data in self._ray.get(self.news).items():
            self._checkpoints(key).write(data)
        self.news = self.keeper.collect.remote()

    def close(self) -> None:
        """End the keeper."""
        with suppress(Exception):
            self._ray.kill(self.keeper)
