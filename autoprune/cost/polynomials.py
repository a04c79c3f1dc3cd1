"""Exact evaluation of many polynomials in kept widths, for many candidates at once.

Every counted cost is a sum of products of affine forms with non-negative integer coefficients. It is expanded once into
monomials over few *rows*: the widths themselves, and the sums of several widths that concatenations bring. A batch of
candidates is then one matrix product for the sums, one multiplication per distinct product of rows, and one matrix
product for all polynomials together. That runs in float64, where it is exact while no result exceeds 2^53 (all addends
are non-negative integers, so no partial result exceeds the result), and in int64 beyond.

Letters: ``n`` candidates, ``v`` variables, ``f`` sums, ``p`` products, ``m`` polynomials.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.groups import Count, IntArray
from autoprune.core.terms import Term
from autoprune.errors import InvalidArgumentError

NumberArray = npt.NDArray[Any]
"""float64 or int64; see `Polynomials.dtype`."""

EXACT_FLOAT = 2**53
"""Integers up to here are exact in float64."""

Monomial = tuple[int, ...]
"""Sorted rows whose product it is; empty for the constant."""


@dataclass(frozen=True, eq=False)
class Variables:
    """Maps groups to the variables that drive their widths.

    Attributes:
        index: (g,) variable that drives each group, -1 where the group keeps its dense width.
        full: (g,) dense width of each group.
        parts: (v,) largest value of each variable: in how many parts its groups can vanish.
    """

    index: IntArray
    full: IntArray
    parts: IntArray

    @property
    def n(self) -> int:
        """Number of variables."""
        return len(self.parts)

    def affine(self, count: Count) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Rewrite ``count`` over the variables: a constant, and ``(variable, coefficient)`` pairs."""
        constant = count.constant
        pairs: dict[int, int] = {}
        for group, coefficient in count.terms:
            variable = int(self.index[group])
            if variable < 0:
                constant += coefficient * int(self.full[group])
            else:
                times = int(self.full[group] // self.parts[variable])
                pairs[variable] = pairs.get(variable, 0) + coefficient * times
        return constant, tuple(sorted(pairs.items()))


@dataclass(frozen=True, eq=False)
class Polynomials:
    """``m`` polynomials in ``v`` variables with non-negative integer coefficients, ready for batches.

    Attributes:
        sums: (f, v) coefficients of the sums; rows 0 to v-1 are the variables, rows v to v+f-1 the sums.
        products: per degree from 2 on, the two arrays of rows to multiply; each product is a further row.
        coefficients: (m, v+f+p) coefficient of every row in every polynomial.
        constants: (m, 1) constants.
    """

    sums: NumberArray
    products: tuple[tuple[IntArray, IntArray], ...]
    coefficients: NumberArray
    constants: NumberArray

    @property
    def n_rows(self) -> int:
        """Number of intermediate values per candidate."""
        return self.coefficients.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that `at` computes in and returns: float64 while that is exact, int64 beyond."""
        return self.coefficients.dtype

    def at(self, values: NumberArray) -> NumberArray:
        """Evaluate at ``values``, a (v, n) array of `dtype`; returns (m, n) whole numbers of the same type."""
        v, n = values.shape
        rows = np.empty((self.n_rows, n), dtype=self.dtype)
        rows[:v] = values
        start = v + len(self.sums)
        np.matmul(self.sums, values, out=rows[v:start])
        for left, right in self.products:
            stop = start + len(left)
            np.multiply(rows[left], rows[right], out=rows[start:stop])
            start = stop
        return self.coefficients @ rows + self.constants


def compile_polynomials(sums: Sequence[Iterable[Term]], variables: Variables) -> Polynomials:
    """Expand sums of terms into monomials and lay them out for evaluation.

    Args:
        sums: per polynomial, the terms that are added.
        variables: maps every group to the variable that drives it.

    Raises:
        InvalidArgumentError: a polynomial can exceed 2^63 - 1.
    """
    forms: dict[tuple[tuple[int, int], ...], int] = {}
    expanded = [_expand(terms, variables, forms) for terms in sums]
    n_rows = variables.n + len(forms)

    # A product of many rows is built from the product of all but its last one, so all prefixes become rows as well.
    row_of: dict[Monomial, int] = {(row,): row for row in range(n_rows)}
    wanted = {
        monomial[:length]
        for polynomial in expanded
        for monomial in polynomial
        for length in range(2, len(monomial) + 1)
    }
    products: list[tuple[IntArray, IntArray]] = []
    for degree in range(2, max(map(len, wanted), default=1) + 1):
        group = sorted(monomial for monomial in wanted if len(monomial) == degree)
        left = np.array([row_of[monomial[:-1]] for monomial in group], dtype=np.int64)
        right = np.array([monomial[-1] for monomial in group], dtype=np.int64)
        products.append((left, right))
        for monomial in group:
            row_of[monomial] = len(row_of)

    dtype = _dtype(expanded, forms, variables)
    matrix = np.zeros((len(forms), variables.n), dtype=dtype)
    for i, form in enumerate(forms):
        for variable, coefficient in form:
            matrix[i, variable] = coefficient
    coefficients = np.zeros((len(expanded), len(row_of)), dtype=dtype)
    constants = np.zeros((len(expanded), 1), dtype=dtype)
    for i, polynomial in enumerate(expanded):
        for monomial, coefficient in polynomial.items():
            if monomial:
                coefficients[i, row_of[monomial]] = coefficient
            else:
                constants[i] = coefficient
    return Polynomials(matrix, tuple(products), coefficients, constants)


def _expand(
    terms: Iterable[Term], variables: Variables, forms: dict[tuple[tuple[int, int], ...], int]
) -> dict[Monomial, int]:
    """Return the coefficient of every monomial; sums of several variables are numbered in ``forms``."""
    total: dict[Monomial, int] = {}
    for term in terms:
        product: dict[Monomial, int] = {(): term.weight}
        for factor in term.factors:
            constant, pairs = variables.affine(factor)
            row, slope = _row(pairs, variables.n, forms)
            grown: dict[Monomial, int] = {}
            for monomial, coefficient in product.items():
                for key, value in ((monomial, constant), (tuple(sorted((*monomial, row))), slope)):
                    if value:
                        grown[key] = grown.get(key, 0) + coefficient * value
            product = grown
        for monomial, coefficient in product.items():
            total[monomial] = total.get(monomial, 0) + coefficient
    return total


def _row(
    pairs: tuple[tuple[int, int], ...], n_variables: int, forms: dict[tuple[tuple[int, int], ...], int]
) -> tuple[int, int]:
    """Return the row that stands for ``pairs`` and its coefficient (0 where there is no variable at all)."""
    if not pairs:
        return 0, 0
    if len(pairs) == 1:
        return pairs[0]
    return n_variables + forms.setdefault(pairs, len(forms)), 1


def _dtype(
    expanded: Sequence[dict[Monomial, int]], forms: Iterable[tuple[tuple[int, int], ...]], variables: Variables
) -> type[np.float64] | type[np.int64]:
    """Choose the cheapest type in which the largest possible value is exact, computed in Python integers."""
    largest = variables.parts.tolist()
    largest += [sum(coefficient * largest[variable] for variable, coefficient in form) for form in forms]
    bound = 0
    for polynomial in expanded:
        value = 0
        for monomial, coefficient in polynomial.items():
            for row in monomial:
                coefficient *= largest[row]
            value += coefficient
        bound = max(bound, value)
    if bound <= EXACT_FLOAT:
        return np.float64
    if bound < 2**63:
        return np.int64
    msg = f"expected costs below 2^63, but the dense model has {bound:,}"
    raise InvalidArgumentError(msg)
