"""Laws of the polynomials behind the cost model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.core.groups import Count
from autoprune.core.terms import Term
from autoprune.cost.polynomials import Variables, compile_polynomials
from autoprune.errors import InvalidArgumentError

N_GROUPS = 4
counts = st.builds(
    lambda constant, terms: Count(constant, tuple(sorted(terms.items()))),
    st.integers(0, 5),
    st.dictionaries(st.integers(0, N_GROUPS - 1), st.integers(1, 4), max_size=3),
)
terms = st.builds(
    lambda weight, factors: Term("", weight, tuple(factors)), st.integers(0, 9), st.lists(counts, max_size=4)
)


@given(
    st.lists(st.lists(terms, max_size=5), min_size=1, max_size=3),
    st.lists(st.integers(-1, 2), min_size=N_GROUPS, max_size=N_GROUPS),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=150)
def test_expansion_changes_no_value(sums, index, seed):
    """Any sums of products, any sharing of variables and any fixed groups: equal to summing the terms one by one."""
    full = np.array([3, 5, 7, 4])
    for variable in range(3):  # groups of one variable have one width, or multiples of it
        members = np.flatnonzero(np.array(index) == variable)
        full[members] = 6 * np.arange(1, len(members) + 1)
    variables = Variables(np.array(index), full, np.full(max(index) + 1, 6))
    compiled = compile_polynomials(sums, variables)
    values = np.random.default_rng(seed).integers(1, 5, size=(variables.n, 10))
    driven = np.vstack([values, np.zeros((1, 10), int)])[variables.index].T * (full // 6)
    widths = np.where(variables.index < 0, full, driven)
    expected = [sum((term.at(widths) for term in terms), np.zeros(10, int)) for terms in sums]
    found = compiled.at(values.astype(compiled.dtype))
    assert np.array_equal(found, np.array(expected).reshape(len(sums), 10))


def one_product(weight, widths):
    """Return ``weight * k0 * k1 ..`` and its variables."""
    factors = tuple(Count(0, ((i, 1),)) for i in range(len(widths)))
    return [[Term("", weight, factors)]], Variables(np.arange(len(widths)), np.array(widths), np.array(widths))


@pytest.mark.parametrize(
    ("weight", "dtype"), [(1, np.float64), (2**33, np.float64), (2**33 + 1, np.int64), (2**42, np.int64)]
)
def test_values_beyond_the_exact_floats_are_computed_in_integers(weight, dtype):
    """A dense value of 2^53 and below runs in float64, above in int64; both are exact to the last unit."""
    sums, variables = one_product(weight, [2**10, 2**10])
    compiled = compile_polynomials(sums, variables)
    assert compiled.dtype == dtype
    values = np.array([[1023], [1021]], dtype=dtype)
    assert int(compiled.at(values)[0, 0]) == weight * 1023 * 1021


def test_overflow_is_refused():
    """A dense value that int64 cannot hold is an error, not a wrapped number."""
    sums, variables = one_product(2**43, [2**10, 2**10])
    with pytest.raises(InvalidArgumentError, match=r"2\^63"):
        compile_polynomials(sums, variables)
