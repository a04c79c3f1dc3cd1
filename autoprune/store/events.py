"""What happens in a run, in order: the sequence that a resumed run repeats."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class EventKind(StrEnum):
    """What happened."""

    ASKED = "asked"
    STARTED = "started"
    COMMITTED = "committed"
    TOLD = "told"
    FORK = "fork"
    WARNING = "warning"
    STOP = "stop"


@dataclass(frozen=True)
class Event:
    """One thing that happened. Events are equal when the same happened, whenever it did.

    Attributes:
        kind: kind of event.
        jobs: ids: the jobs that an ``ask`` returned (maybe none), or the one that started, was committed or told.
        n: ASKED: how many jobs were asked for.
        text: FORK and STOP: the reason; WARNING: what is wrong.
        elapsed: seconds of search when it happened.
    """

    kind: EventKind
    jobs: tuple[int, ...] = ()
    n: int = 0
    text: str = ""
    elapsed: float = field(default=0.0, compare=False)

    @property
    def is_decision(self) -> bool:
        """Whether the strategy took part: asks and tells come in the same order for any number of workers."""
        return self.kind in (EventKind.ASKED, EventKind.TOLD)
