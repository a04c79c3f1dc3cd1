import pytest

from autoprune.core.clock import SimulatedClock, SystemClock
from autoprune.errors import InvalidArgumentError


def test_system_clock_never_runs_backwards() -> None:
    """Two readings are in order."""
    clock = SystemClock()
    assert clock.now() <= clock.now()


def test_simulated_clock_moves_only_when_told() -> None:
    """A simulated second passes when it is advanced, in both readings."""
    clock = SimulatedClock(origin=1000.0)
    assert (clock.now(), clock.unix()) == (0.0, 1000.0)
    clock.advance(7.5)
    assert (clock.now(), clock.unix()) == (7.5, 1007.5)


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_simulated_time_does_not_run_backwards(seconds: float) -> None:
    """Neither a negative nor an undefined step is accepted."""
    with pytest.raises(InvalidArgumentError, match="forward"):
        SimulatedClock().advance(seconds)
