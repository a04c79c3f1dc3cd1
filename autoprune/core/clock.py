"""Clocks: the real one, and one that a test moves by hand so that a week of search takes a moment."""

from __future__ import annotations

import time

from autoprune.errors import InvalidArgumentError


class SystemClock:
    """The machine's time."""

    def now(self) -> float:
        """Seconds since an arbitrary origin, monotone."""
        return time.monotonic()

    def unix(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def busy(self) -> float:
        """Seconds that this process has computed, whatever else the machine does."""
        return time.process_time()


class SimulatedClock:
    """A clock that stands still until it is moved.

    Args:
        origin: the Unix time at which the simulation starts, in seconds.
    """

    def __init__(self, origin: float = 0.0) -> None:
        self._origin = origin
        self._now = 0.0

    def now(self) -> float:
        """Simulated seconds since the start."""
        return self._now

    def unix(self) -> float:
        """Simulated seconds since 1970."""
        return self._origin + self._now

    def busy(self) -> float:
        """Simulated seconds: nobody ever sleeps."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass.

        Raises:
            InvalidArgumentError: time would run backwards.
        """
        if not seconds >= 0.0:
            msg = f"time only runs forward: expected seconds >= 0, got {seconds!r}"
            raise InvalidArgumentError(msg)
        self._now += seconds
