import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoprune.errors import InvalidArgumentError
from autoprune.pareto.dominance import attainment_surface, non_dominated

Values = npt.NDArray[np.float64]

run = st.integers(0, 5).flatmap(lambda n: arrays(np.int64, (n, 2), elements=st.integers(0, 5)).map(np.float64))
GRID = np.array([[x, y] for x in range(6) for y in range(6)], dtype=np.float64)


def attained_fraction(runs: list[Values], points: Values) -> Values:
    """Return, for each point, the fraction of runs with a result at least as good in every objective."""
    return np.mean([dominated_by(np.reshape(run, (-1, 2)), points) for run in runs], axis=0)


def dominated_by(corners: Values, points: Values) -> npt.NDArray[np.bool_]:
    """Say which points some corner weakly dominates."""
    return (corners[None] <= points[:, None]).all(axis=2).any(axis=1)


@settings(deadline=None)
@given(st.lists(run, min_size=1, max_size=6), st.sampled_from([0.01, 0.25, 1 / 3, 0.5, 0.75, 1.0]))
def test_surface_bounds_exactly_what_enough_runs_attain(runs: list[Values], level: float) -> None:
    """A lattice point is behind the surface if and only if at least ``level`` of the runs attain it."""
    surface = attainment_surface(runs, level)
    attained = attained_fraction(runs, GRID) >= level - 1e-9
    np.testing.assert_array_equal(dominated_by(surface, GRID), attained)
    assert non_dominated(surface).all()


def test_fraction_counts_runs_not_points() -> None:
    """Two good points of one run count once."""
    runs = [[[0.0, 0.0], [0.0, 1.0]], [[5.0, 5.0]]]
    np.testing.assert_array_equal(attainment_surface(runs, 0.5), [[0.0, 0.0]])
    np.testing.assert_array_equal(attainment_surface(runs, 1.0), [[5.0, 5.0]])


def test_runs_without_results_count() -> None:
    """Of three runs, one without results, two thirds attain something and all attain nothing."""
    runs = [[[1.0, 1.0]], [], [[2.0, 0.0]]]
    np.testing.assert_array_equal(attainment_surface(runs, 2 / 3), [[2.0, 1.0]])
    assert attainment_surface(runs, 1.0).shape == attainment_surface([[], []]).shape == (0, 2)


def test_surface_of_one_run_is_its_front() -> None:
    """With one run every level gives the run's own front, first objective increasing."""
    surface = attainment_surface([[[2.0, 1.0], [1.0, 2.0], [2.0, 2.0]]], 1.0)
    np.testing.assert_array_equal(surface, [[1.0, 2.0], [2.0, 1.0]])


def test_bad_input_is_refused() -> None:
    """No run, a level outside (0, 1], or another number of objectives cannot be answered."""
    with pytest.raises(InvalidArgumentError, match="at least one run"):
        attainment_surface([])
    with pytest.raises(InvalidArgumentError, match=r"level in \(0, 1\]"):
        attainment_surface([[[1.0, 1.0]]], 0.0)
    with pytest.raises(InvalidArgumentError, match="run 1"):
        attainment_surface([[[1.0, 1.0]], [[1.0, 1.0, 1.0]]])
