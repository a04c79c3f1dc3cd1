"""A Gaussian process over genomes: a prior mean, errors of single variables, and errors of neighbouring pairs.

Letters: ``n`` genomes that were measured, ``k`` genomes to predict, ``d`` variables, ``L`` levels of one variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from autoprune.core.groups import FloatArray, IntArray
from autoprune.strategies._additive import total_damage

LENGTHS = (0.25, 0.75)
"""Length scales, in keep ratios, of which the likelihood chooses one."""

FLOORS = (2e-3, 2e-2, 1e-1)
"""Damages, as shares of the largest, below which all is about as good as whole, of which it chooses one, too."""

MOST_FITTED = 96
"""Hyperparameters are fitted to the latest so many measurements: enough for five numbers, and no wait."""

_PRIOR = np.log([0.1, 0.1, 0.1, 0.1, 0.03])  # usual variances of link, curve, variables, pairs and noise
_GRID = np.linspace(0.0, 1.0, 9)  # keep ratios between which errors that all variables share are smooth
_SHARED_LENGTH = 0.4
_SPREAD = 1.5  # standard deviation of their logarithms
_FARTHEST = 4.0  # of these away from the usual
_JITTER = 1e-8
_GLANCED = 24  # genomes whose deviations are worked out for a glance


@dataclass(frozen=True)
class Shape:
    """What of a kernel is no variance.

    Attributes:
        length: the length scale of the variables, in keep ratios.
        floor: the damage, as a share of the largest, that is added to every prediction.
    """

    length: float = LENGTHS[-1]
    floor: float = FLOORS[1]


@dataclass(frozen=True, eq=False)
class Seen:
    """What a kernel sees of some genomes.

    Attributes:
        weights: (n, d) factors by which an error of each variable shows.
        shared: (n, 9) features of an error of the shared curve.
        tables: per variable, (L, n) similarity of each level to that of each genome.
    """

    weights: FloatArray
    shared: FloatArray
    tables: list[FloatArray]


class Basis:
    """What the kernel sees of genomes.

    With damages per variable the kernel is that of a sum of damages of which each is known but for a factor: in the
    logarithm, an error of one variable counts by its share of the whole, ``log sum_v D_v e_v ~ log D + sum_v (D_v / D)
    log e_v``. Without, every variable counts the same.

    Args:
        keep_ratios: per variable, (L,) the keep ratio of each level.
        damages: per variable, (L,) predicted damage of each level, of which differences count; None where nothing is
            predicted.
    """

    def __init__(self, keep_ratios: Sequence[FloatArray], damages: Sequence[FloatArray] | None = None) -> None:
        whole = matern(np.abs(_GRID[:, None] - _GRID[None, :]) / _SHARED_LENGTH) + _JITTER * np.eye(len(_GRID))
        root = cho_factor(whole, lower=True)[0]
        self._features = [
            solve_triangular(root, matern(np.abs(_GRID[:, None] - ratios) / _SHARED_LENGTH), lower=True).T
            for ratios in keep_ratios
        ]
        self._distances = [np.abs(ratios[:, None] - ratios[None, :]) for ratios in keep_ratios]
        self._similarities: dict[float, list[FloatArray]] = {}  # of the levels of each variable, by length scale
        self._damages = None if damages is None else [damage - damage.min() for damage in damages]
        self.per_pair = float(len(keep_ratios)) if damages is None else 1.0
        self._largest = sum(float(damage.max()) for damage in self._damages or ()) or 1.0

    @property
    def predicts(self) -> bool:
        """Whether there is a prediction to learn the deviations from."""
        return self._damages is not None

    @property
    def shapes(self) -> list[Shape]:
        """The shapes to choose from."""
        floors = FLOORS if self.predicts else FLOORS[:1]
        return [Shape(length, floor) for length in LENGTHS for floor in floors]

    def prediction(self, genomes: IntArray, shape: Shape) -> FloatArray:
        """Return the (n,) logarithms of the damage predicted of (n, d) ``genomes``; zeros where nothing is."""
        if self._damages is None:
            return np.zeros(len(genomes))
        predicted: FloatArray = np.log(total_damage(self._damages, genomes) + shape.floor * self._largest)
        return predicted

    def weights(self, genomes: IntArray, shape: Shape) -> FloatArray:
        """Return the (n, d) factors by which an error of each variable shows in each genome."""
        if self._damages is None:
            return np.full(genomes.shape, genomes.shape[1] ** -0.5)
        each = np.stack([damage[genomes[:, v]] for v, damage in enumerate(self._damages)], axis=1)
        return each / (each.sum(axis=1, keepdims=True) + shape.floor * self._largest)

    def shared(self, genomes: IntArray, shape: Shape) -> FloatArray:
        """Return (n, 9) features of an error of the predicted curve that all variables share: their products covary."""
        found = np.zeros((len(genomes), len(_GRID)))
        if not self.predicts:
            return found
        weights = self.weights(genomes, shape)
        for v, features in enumerate(self._features):
            found += weights[:, v, None] * features[genomes[:, v]]
        return found

    def seen(self, genomes: IntArray, shape: Shape) -> Seen:
        """Return what `covariances` to (n, d) ``genomes`` need of these: worked out once for many calls."""
        return Seen(self.weights(genomes, shape), self.shared(genomes, shape), self.tables(genomes, shape.length))

    def covariances(self, first: IntArray, second: Seen, shape: Shape) -> FloatArray:
        """Return (3, k, n) covariances of unit variance: errors of a shared curve, of single variables, of pairs.

        Args:
            first: (k, d) genomes.
            second: view of n genomes under the same shape, as `seen` gives it.
            shape: length scale and floor.
        """
        # Neither matrix products, which round by the size of their operands, nor an order of factors that is not the
        # same both ways: a search that goes on computes the same covariances in other portions.
        ours, theirs = self.weights(first, shape), second.weights
        single, pairs = np.zeros((2, len(first), len(theirs)))
        before: FloatArray | None = None
        for v, table in enumerate(second.tables):
            here = table[first[:, v]]
            here *= ours[:, v, None] * theirs[:, v]
            single += here
            if before is not None:
                before *= here
                pairs += before
            before = here
        curve = np.zeros_like(single)
        for ours, theirs in zip(self.shared(first, shape).T, second.shared.T, strict=True):
            curve += ours[:, None] * theirs
        return np.stack([curve, single, pairs * self.per_pair])

    def tables(self, genomes: IntArray, length: float) -> list[FloatArray]:
        """Return per variable the (L, n) similarity of each level to that of each of (n, d) ``genomes``."""
        if length not in self._similarities:
            self._similarities[length] = [matern(distance / length) for distance in self._distances]
        return [similarity[:, genomes[:, v]] for v, similarity in enumerate(self._similarities[length])]

    def variances(self, genomes: IntArray, shape: Shape) -> FloatArray:
        """Return the (3, n) variances that belong to `covariances`."""
        weights = self.weights(genomes, shape)
        squares = weights**2
        pairs = (squares[:, 1:] * squares[:, :-1]).sum(axis=1) * self.per_pair
        return np.stack([(self.shared(genomes, shape) ** 2).sum(axis=1), squares.sum(axis=1), pairs])


def matern(distances: FloatArray) -> FloatArray:
    """Return the Matern covariance of smoothness 5/2 at scaled ``distances``."""
    x = np.sqrt(5.0) * distances
    covariance: FloatArray = (1 + x + x**2 / 3) * np.exp(-x)
    return covariance


@dataclass(frozen=True)
class Hyperparameters:
    """What is fitted by the marginal likelihood.

    Attributes:
        logs: (5,) logarithms of the variances of the link, the shared curve, single variables, pairs, and the noise.
        shape: length scale and floor.
    """

    logs: tuple[float, ...] = tuple(_PRIOR.tolist())
    shape: Shape = Shape()


class Covariances:
    """`Basis.covariances` between all genomes that a search has met, each computed once.

    Args:
        basis: the view that the kernel has of genomes.
    """

    def __init__(self, basis: Basis) -> None:
        self._basis = basis
        self._places: dict[tuple[int, ...], int] = {}
        self._known: dict[Shape, FloatArray] = {}

    def among(self, genomes: IntArray, shape: Shape) -> FloatArray:
        """Return the (3, n, n) covariances between (n, d) ``genomes``, as `Basis.covariances` does."""
        keys = list(map(tuple, genomes.tolist()))
        for key in keys:
            self._places.setdefault(key, len(self._places))
        known = self._known.get(shape, np.zeros((3, 0, 0)))
        size = known.shape[1]
        if size < len(self._places):
            every = np.array(list(self._places), dtype=np.int64)
            new = self._basis.covariances(every[size:], self._basis.seen(every, shape), shape)
            known = np.concatenate([np.concatenate([known, new[:, :, :size].swapaxes(1, 2)], axis=2), new], axis=1)
            self._known[shape] = known
        places = np.array([self._places[key] for key in keys])
        return known[:, places[:, None], places]


class GaussianProcess:
    """The posterior of a figure over genomes.

    The mean is linear in the logarithm of the predicted damage, with unknown coefficients, and bent by a smooth
    function of it (the link); without a prediction it is a constant. Deviations are sums over variables and over
    neighbouring pairs, and noise.

    Args:
        basis: the view that the kernel has of genomes.
        covariances: remembers those between measured genomes.
        genomes: (n, d) measured genomes, each once.
        targets: (n,) their figures.
        parameters: see `fitted`.
    """

    def __init__(
        self,
        basis: Basis,
        covariances: Covariances,
        genomes: IntArray,
        targets: FloatArray,
        parameters: Hyperparameters,
    ) -> None:
        self._basis, self._covariances, self._parameters = basis, covariances, parameters
        self._genomes, self._targets = genomes, targets
        self._shape = parameters.shape
        self._center, self._scale = _center_and_scale(targets)
        predicted = basis.prediction(genomes, self._shape)
        self._at, self._per = _center_and_scale(predicted)
        self._link = (predicted - self._at) / self._per
        self._bend, *each, noise = np.exp(parameters.logs)
        self._each = np.array(each)
        covariance = self._weighted(covariances.among(genomes, self._shape)) + self._linked(self._link)
        covariance[np.diag_indices(len(genomes))] += noise + _JITTER
        self._factor = cho_factor(covariance, lower=True, check_finite=False)
        self._solved = cho_solve(self._factor, (targets - self._center) / self._scale, check_finite=False)

    def predict(self, genomes: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return (k,) means and standard deviations at (k, d) ``genomes``, without the noise of a measurement."""
        parts = self._basis.covariances(genomes, self._seen, self._shape)
        cross = self._weighted(parts) + self._linked(self._standard(genomes))
        whitened = solve_triangular(self._factor[0], cross.T, lower=True, check_finite=False)
        left = np.maximum(self._own(genomes) - (whitened**2).sum(axis=0), 1e-12)
        return self._center + self._scale * (cross @ self._solved), self._scale * np.sqrt(left)

    def glance(self, genomes: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return about what `predict` does, far faster: the (k,) means, by tables, and a guess at the deviations.

        Those are what nothing measured would leave, times what the measurements leave of it at some of the genomes.
        """
        curve, single, pairs = self._tables
        weights = self._basis.weights(genomes, self._shape)
        means = self._linked(self._standard(genomes)) @ self._solved + self._basis.shared(genomes, self._shape) @ curve
        for v, table in enumerate(single):
            means += weights[:, v] * table[genomes[:, v]]
        for v, square in enumerate(pairs):
            means += weights[:, v] * weights[:, v + 1] * square[genomes[:, v], genomes[:, v + 1]]
        own = self._scale * np.sqrt(self._own(genomes))
        some = slice(None, None, max(1, len(genomes) // _GLANCED))
        share = float(np.median(self.predict(genomes[some])[1] / own[some]))
        return self._center + self._scale * means, share * own

    def believing(self, genomes: IntArray) -> GaussianProcess:
        """Return the posterior with (k, d) more ``genomes`` measured, as this one believes them to be."""
        every = np.concatenate([self._genomes, genomes])
        targets = np.concatenate([self._targets, self.predict(genomes)[0]])
        return GaussianProcess(self._basis, self._covariances, every, targets, self._parameters)

    @cached_property
    def _seen(self) -> Seen:
        return self._basis.seen(self._genomes, self._shape)

    @cached_property
    def _tables(self) -> tuple[FloatArray, list[FloatArray], list[FloatArray]]:
        """What the shared curve, each level of a variable, and each two levels of neighbours add to the mean."""
        weights, tables = self._seen.weights, self._seen.tables
        single = [self._each[1] * (table @ (weights[:, v] * self._solved)) for v, table in enumerate(tables)]
        shared = weights[:, 1:] * weights[:, :-1] * self._solved[:, None]
        pairs = [
            self._each[2] * self._basis.per_pair * ((first * shared[:, v]) @ second.T)
            for v, (first, second) in enumerate(pairwise(tables))
        ]
        curve = self._each[0] * (self._solved @ self._seen.shared)
        return curve, single, pairs

    def _weighted(self, parts: FloatArray) -> FloatArray:
        weighted: FloatArray = self._each[0] * parts[0] + self._each[1] * parts[1] + self._each[2] * parts[2]
        return weighted

    def _standard(self, genomes: IntArray) -> FloatArray:
        return (self._basis.prediction(genomes, self._shape) - self._at) / self._per

    def _linked(self, link: FloatArray) -> FloatArray:
        covariance = _linear(link, self._link)
        return covariance + self._bend * _bent(link, self._link) if self._basis.predicts else covariance

    def _own(self, genomes: IntArray) -> FloatArray:
        """Return the (k,) variances before anything is measured."""
        bend = self._bend if self._basis.predicts else 0.0
        own: FloatArray = 1.0 + self._standard(genomes) ** 2 + bend
        own += self._each @ self._basis.variances(genomes, self._shape)
        return own


def _center_and_scale(figures: FloatArray) -> tuple[float, float]:
    """Return mean and standard deviation, 1 where all figures are equal."""
    return float(figures.mean()), float(figures.std()) or 1.0


def _standardised(figures: FloatArray) -> FloatArray:
    center, scale = _center_and_scale(figures)
    return (figures - center) / scale


def _linear(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return the covariance of a line with unit variance of height and slope."""
    return 1.0 + first[:, None] * second[None, :]


def _bent(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return the covariance of a smooth function, as wide as the spread of what was measured."""
    return np.exp(-0.5 * (first[:, None] - second[None, :]) ** 2)


def fitted(basis: Basis, covariances: Covariances, genomes: IntArray, targets: FloatArray) -> Hyperparameters:
    """Return the most probable hyperparameters: marginal likelihood, and a log-normal prior of each variance.

    Args:
        basis: the view that the kernel has of genomes.
        covariances: remembers those between measured genomes.
        genomes: (n, d) measured genomes; the last `MOST_FITTED` count.
        targets: (n,) their figures.
    """
    genomes, targets = genomes[-MOST_FITTED:], targets[-MOST_FITTED:]
    scaled = _standardised(targets)
    limits = [(mean - _FARTHEST * _SPREAD, mean + _FARTHEST * _SPREAD) for mean in _PRIOR]
    best = (np.inf, Hyperparameters())
    for shape in basis.shapes:
        link = _standardised(basis.prediction(genomes, shape))
        parts = np.stack([_bent(link, link), *covariances.among(genomes, shape), np.eye(len(genomes))])
        if not basis.predicts:
            parts[:2] = 0.0
        likelihood = _Likelihood(_linear(link, link), parts, scaled)
        found = minimize(likelihood, _PRIOR, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": 15})
        if found.fun < best[0]:
            best = (float(found.fun), Hyperparameters(tuple(found.x.tolist()), shape))
    return best[1]


@dataclass(frozen=True, eq=False)
class _Likelihood:
    """Negative logarithm of the posterior of log variances, and its gradient.

    Attributes:
        fixed: (n, n) covariance that has no variance of its own.
        parts: (p, n, n) covariances of unit variance.
        targets: (n,) figures.
    """

    fixed: FloatArray
    parts: FloatArray
    targets: FloatArray

    def __call__(self, logs: FloatArray) -> tuple[float, FloatArray]:
        variances = np.exp(logs)
        covariance = self.fixed + np.tensordot(variances, self.parts, 1) + _JITTER * self._eye
        factor = cho_factor(covariance, lower=True, check_finite=False)
        solved = cho_solve(factor, self.targets, check_finite=False)
        inverse = cho_solve(factor, self._eye, check_finite=False)
        away = (logs - _PRIOR) / _SPREAD
        value = 0.5 * self.targets @ solved + np.log(np.diag(factor[0])).sum() + 0.5 * away @ away
        outer = inverse - np.outer(solved, solved)
        gradient = 0.5 * variances * np.tensordot(self.parts, outer, 2) + away / _SPREAD
        return float(value), gradient

    @cached_property
    def _eye(self) -> FloatArray:
        return np.eye(len(self.targets))
