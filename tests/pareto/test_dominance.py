import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoprune.errors import InvalidArgumentError
from autoprune.pareto.dominance import non_dominated, unique_front


def lattice(objectives: tuple[int, ...] = (1, 2, 3, 4)) -> st.SearchStrategy[npt.NDArray[np.float64]]:
    """Few distinct coordinates, so that copies and ties are common."""
    shapes = st.tuples(st.integers(0, 12), st.sampled_from(objectives))
    return shapes.flatmap(lambda shape: arrays(np.int64, shape, elements=st.integers(0, 4))).map(np.float64)


def dominates(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> bool:
    """Say whether ``a`` dominates ``b``."""
    return bool((a <= b).all() and (a < b).any())


@settings(deadline=None)
@given(lattice())
def test_mask_agrees_with_the_quadratic_definition(values: npt.NDArray[np.float64]) -> None:
    """A point is kept if and only if no point is at least as good everywhere and better somewhere."""
    expected = [not any(dominates(other, point) for other in values) for point in values]
    assert non_dominated(values).tolist() == expected


@settings(deadline=None)
@given(lattice())
def test_unique_front_keeps_the_first_of_equal_points(values: npt.NDArray[np.float64]) -> None:
    """The unique front has every non-dominated value exactly once, at its first occurrence."""
    mask = non_dominated(values)
    expected = [i for i in np.flatnonzero(mask) if not (values[:i] == values[i]).all(axis=1).any()]
    assert unique_front(values).tolist() == expected


def test_input_is_not_mutated() -> None:
    """Dominance reads its argument only."""
    values = np.array([[2.0, 1.0], [1.0, 2.0], [3.0, 3.0]])
    before = values.copy()
    non_dominated(values)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_figure_that_is_not_finite_is_refused_by_position(bad: float) -> None:
    """NaN compares with nothing, so it must not pass silently; the message names its place."""
    with pytest.raises(InvalidArgumentError, match="objective 1 of point 2"):
        non_dominated([[1.0, 2.0], [2.0, 1.0], [0.0, bad]])


def test_wrong_shape_is_refused() -> None:
    """One point alone is not a set of points."""
    with pytest.raises(InvalidArgumentError, match="shape"):
        non_dominated([1.0, 2.0])
