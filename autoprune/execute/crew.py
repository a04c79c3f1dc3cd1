"""Workers somewhere, as a pool sees them: by number, with news of what became of their calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autoprune.core.jobs import Job, Outcome


@dataclass(frozen=True)
class Ready:
    """A worker can be sent jobs."""

    worker: int


@dataclass(frozen=True)
class Done:
    """A worker has answered its oldest call."""

    worker: int
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Lost:
    """A worker died, or could not be started.

    Attributes:
        worker: its number.
        reason: the reason in words.
        raised: it raised an error while it started, as any other would; otherwise it was killed.
    """

    worker: int
    reason: str
    raised: bool = False


News = Ready | Done | Lost


class Crew(Protocol):
    """Workers somewhere, by number."""

    def places(self, preparing: int = 0) -> int:
        """Return how many workers there is room for beside so many that prepare, those at work included."""
        ...

    def preparation_places(self) -> int:
        """Return how many workers that prepare there is room for when nothing else runs."""
        ...

    def hire(self, *, prepares: bool = False) -> int:
        """Begin to start a worker and return its number; it is `Ready` or `Lost` later.

        Args:
            prepares: it reserves what a preparation needs.
        """
        ...

    def send(self, worker: int, jobs: Sequence[Job]) -> None:
        """Queue a call at a worker; it is `Done` or its worker `Lost` later."""
        ...

    def dismiss(self, worker: int) -> None:
        """End a worker at once, whatever it is doing; there is no more news of it."""
        ...

    def wait(self, timeout: float) -> list[News]:
        """Wait until there is news, at most ``timeout`` seconds; what a worker answered comes before its loss."""
        ...

    def close(self) -> None:
        """End all workers and leave nothing behind."""
        ...
