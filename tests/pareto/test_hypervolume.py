import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoprune.errors import InvalidArgumentError
from autoprune.pareto.hypervolume import check_reference, hypervolume, hypervolume_curve

Values = npt.NDArray[np.float64]
SIDE = 4


def lattice(minimum: int = 0) -> st.SearchStrategy[Values]:
    """Points of an integer lattice whose reference corner is (4, ..., 4); some lie on or beyond it."""
    shapes = st.tuples(st.integers(minimum, 8), st.integers(1, 4))
    return shapes.flatmap(lambda shape: arrays(np.int64, shape, elements=st.integers(0, SIDE + 1))).map(np.float64)


def corner(values: Values) -> Values:
    """Return the reference point of the lattice."""
    return np.full(values.shape[1], float(SIDE))


def cells(values: Values) -> int:
    """Count the unit cells of the lattice that some point dominates: the definition, by brute force."""
    lower_corners = itertools.product(range(SIDE), repeat=values.shape[1])
    return sum(bool((values <= np.array(cell)).all(axis=1).any()) for cell in lower_corners)


@settings(deadline=None)
@given(lattice())
def test_volume_is_the_number_of_dominated_lattice_cells(values: Values) -> None:
    """For 1 to 4 objectives the volume equals the brute-force count; points beyond the reference add nothing."""
    assert hypervolume(values, corner(values)) == pytest.approx(cells(values), abs=1e-9)


@settings(deadline=None)
@given(lattice(minimum=1), st.randoms(use_true_random=False))
def test_volume_does_not_depend_on_order_or_copies(values: Values, random: object) -> None:
    """Shuffling the points and adding copies of them changes nothing."""
    order = list(range(len(values))) * 2
    random.shuffle(order)  # type: ignore[attr-defined]
    assert hypervolume(values[order], corner(values)) == pytest.approx(hypervolume(values, corner(values)), abs=1e-9)


@settings(deadline=None)
@given(lattice(minimum=1))
def test_curve_is_the_volume_of_every_prefix_and_never_falls(values: Values) -> None:
    """The curve over time agrees with computing each prefix from scratch."""
    curve = hypervolume_curve(values, corner(values))
    prefixes = [hypervolume(values[: i + 1], corner(values)) for i in range(len(values))]
    np.testing.assert_allclose(curve, prefixes, atol=1e-9)
    assert (np.diff(curve) >= 0).all()


def test_a_better_point_adds_and_a_dominated_one_does_not() -> None:
    """Growth by a new non-dominated point, none by a dominated one."""
    front, reference = [[1.0, 3.0], [3.0, 1.0]], [4.0, 4.0]
    assert hypervolume([*front, [2.0, 2.0]], reference) > hypervolume(front, reference)
    assert hypervolume([*front, [3.0, 3.0]], reference) == hypervolume(front, reference)


def test_no_points_have_no_volume() -> None:
    """The empty front is worth zero, whatever the number of objectives."""
    assert hypervolume([], [1.0, 1.0, 1.0]) == 0.0


def test_check_reference_shows_the_coordinate_that_is_beyond() -> None:
    """A point on or beyond the reference is named with its coordinate, since it would silently count for nothing."""
    check_reference([[1.0, 1.0]], [2.0, 2.0])
    with pytest.raises(InvalidArgumentError, match=r"2\.5 >= 2\.0 in objective 1 of point 1"):
        check_reference([[1.0, 1.0], [0.0, 2.5]], [2.0, 2.0])


@pytest.mark.parametrize(
    ("values", "reference", "message"),
    [
        ([[1.0, 2.0]], [1.0, 1.0, 1.0], "expected as many objectives"),
        ([[1.0] * 5], [2.0] * 5, "1 to 4 objectives"),
        ([[np.nan, 1.0]], [2.0, 2.0], "finite values"),
        ([[1.0, 1.0]], [np.inf, 2.0], "finite reference"),
    ],
)
def test_bad_input_is_refused(values: list[list[float]], reference: list[float], message: str) -> None:
    """Shapes must match, objectives are at most four, figures are finite."""
    with pytest.raises(InvalidArgumentError, match=message):
        hypervolume(values, reference)
