"""The surrogate search: its process is the textbook's, its improvement the hypervolume's, and its prior is worth it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from autoprune.core.jobs import PROBE
from autoprune.core.objectives import Objective
from autoprune.errors import BudgetError, InvalidArgumentError
from autoprune.pareto.hypervolume import hypervolume
from autoprune.strategies import _gaussian, _improvement
from autoprune.strategies._figures import Scale
from autoprune.strategies._gaussian import Basis, Covariances, GaussianProcess, Hyperparameters, Shape, fitted
from autoprune.strategies._improvement import Improvement
from autoprune.strategies.registry import make_strategy
from autoprune.strategies.surrogate import SurrogateSettings, SurrogateStrategy, ZeroMeanSettings, ZeroMeanStrategy
from autoprune.strategies.warm_start import WarmStartSettings, WarmStartStrategy, check_warm_start
from autoprune.testing.strategy_laws import LEARNING_WIDTHS, dominated_share, drive, genomes_of
from autoprune.testing.toys import toy_outcome, toy_setup, toy_space

N_LEVELS = 6
SHAPE = Shape(0.75, 0.01)


def basis(*, predicts, d=5, seed=0):
    """Return what a kernel sees of ``d`` variables of six levels."""
    rng = np.random.default_rng(seed)
    ratios = np.linspace(1 / N_LEVELS, 1, N_LEVELS)
    damages = [rng.exponential() * (1 - ratios) ** 2 for _ in range(d)] if predicts else None
    return Basis([ratios] * d, damages)


def genomes(n, d=5, seed=1):
    """Return ``n`` different random genomes."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(N_LEVELS, size=(4 * n, d))
    return drawn[np.sort(np.unique(drawn, axis=0, return_index=True)[1])][:n]


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_the_improvement_by_exact_figures_is_the_difference_of_hypervolumes(m):
    """With figures that are known, it is what a point adds to the hypervolume, points beyond the reference included."""
    rng = np.random.default_rng(m)
    reference = np.full(m, 0.9)
    for n in (0, 1, 9):
        values, candidates = rng.random((n, m)), rng.random((40, m))
        before = hypervolume(values, reference)
        expected = [hypervolume([*values, candidate], reference) - before for candidate in candidates]
        found = Improvement(values, reference).expected(candidates[:, None, :], np.ones(1))
        np.testing.assert_allclose(found, expected, atol=1e-12)
        assert max(found) > 0


def test_the_expected_improvement_is_the_mean_over_independent_figures():
    """Samples of two figures stand for all their pairs, each as likely as the product says."""
    rng = np.random.default_rng(0)
    values, reference = rng.random((6, 3)), np.ones(3)
    samples, weights = rng.random((5, 4, 3)), np.array([0.1, 0.2, 0.3, 0.4])
    samples[:, :, 2] = samples[:, :1, 2]  # a cost, which is certain
    found = Improvement(values, reference).expected(samples, weights)
    before = hypervolume(values, reference)
    for candidate, figure in zip(samples, found, strict=True):
        pairs = [
            weights[i] * weights[j] * (hypervolume([*values, [a, b, candidate[0, 2]]], reference) - before)
            for i, a in enumerate(candidate[:, 0])
            for j, b in enumerate(candidate[:, 1])
        ]
        assert figure == pytest.approx(sum(pairs), abs=1e-12)


def test_a_front_that_is_thinned_promises_no_less(monkeypatch):
    """With fewer points of the front in the grid improvements are over-, never underestimated."""
    rng = np.random.default_rng(0)
    values, candidates = rng.random((60, 3)), rng.random((50, 1, 3))
    whole = Improvement(values, np.ones(3)).expected(candidates, np.ones(1))
    monkeypatch.setitem(_improvement.MOST_POINTS, 3, 5)
    thinned = Improvement(values, np.ones(3)).expected(candidates, np.ones(1))
    assert (thinned >= whole - 1e-12).all()
    assert (thinned > whole + 1e-6).any()


@pytest.mark.parametrize(
    ("objective", "values", "kind"),
    [
        (Objective("accuracy", maximize=True), -np.array([0.0, 0.3, 0.98, 1.0]), "logit"),
        (Objective("accuracy", maximize=True), -np.array([30.0, 98.0]), "plain"),  # in percent
        (Objective("distance", maximize=False), np.array([0.0, 1e-4, 0.3, 5.0]), "log"),
        (Objective("loss", maximize=False), np.array([-0.5, 0.3]), "plain"),
        (Objective("score", maximize=True), -np.array([0.2, 0.3]), "plain"),
    ],
)
def test_scales_lead_there_and_back(objective, values, kind):
    """Every figure has a finite place on its scale, in its order, and comes back from it."""
    scale = Scale.of(objective, values)
    assert scale.kind == kind
    scaled = scale.to(np.sort(values))
    assert np.isfinite(scaled).all()
    assert (np.diff(scaled) > 0).all()
    np.testing.assert_allclose(scale.back(scale.to(values)), values, atol=1e-12)


@pytest.mark.parametrize("predicts", [True, False])
def test_predictions_are_those_of_the_textbook(predicts):
    """Mean and deviation are those of the joint normal distribution whose covariance is written out here."""
    kernel, known, new = basis(predicts=predicts), genomes(30), genomes(8, seed=7)
    targets = np.random.default_rng(2).normal(size=len(known))
    parameters = Hyperparameters(tuple(np.log([0.3, 0.2, 0.5, 0.4, 0.05])), SHAPE)
    found = GaussianProcess(kernel, Covariances(kernel), known, targets, parameters).predict(new)

    def covariance(first, second):
        """Return the whole covariance, entry by entry."""
        at, per = kernel.prediction(known, SHAPE).mean(), kernel.prediction(known, SHAPE).std() or 1.0
        a, b = ((kernel.prediction(part, SHAPE) - at) / per for part in (first, second))
        single, pairs = (np.zeros((len(first), len(second))) for _ in range(2))
        ratios = np.linspace(1 / N_LEVELS, 1, N_LEVELS)
        ours, theirs = kernel.weights(first, SHAPE), kernel.weights(second, SHAPE)
        for i, g in enumerate(first):
            for j, h in enumerate(second):
                each = ours[i] * theirs[j] * _gaussian.matern(np.abs(ratios[g] - ratios[h]) / 0.75)
                single[i, j], pairs[i, j] = each.sum(), (each[1:] * each[:-1]).sum() * kernel.per_pair
        curve = kernel.shared(first, SHAPE) @ kernel.shared(second, SHAPE).T
        bent = 0.3 * np.exp(-0.5 * (a[:, None] - b[None, :]) ** 2) if predicts else 0.0
        return 1 + a[:, None] * b[None, :] + bent + 0.5 * single + 0.4 * pairs + 0.2 * curve

    inverse = np.linalg.inv(covariance(known, known) + (0.05 + 1e-8) * np.eye(len(known)))
    cross = covariance(new, known)
    scaled = (targets - targets.mean()) / targets.std()
    np.testing.assert_allclose(found[0], targets.mean() + targets.std() * cross @ inverse @ scaled, atol=1e-7)
    left = np.diag(covariance(new, new) - cross @ inverse @ cross.T)
    np.testing.assert_allclose(found[1], targets.std() * np.sqrt(left), atol=1e-7)


@pytest.mark.parametrize("predicts", [True, False])
def test_a_glance_has_the_means_of_a_prediction(predicts):
    """The tables that make it fast change nothing but the order of sums."""
    kernel, known, new = basis(predicts=predicts), genomes(30), genomes(40, seed=7)
    targets = np.random.default_rng(2).normal(size=len(known))
    process = GaussianProcess(kernel, Covariances(kernel), known, targets, Hyperparameters())
    np.testing.assert_allclose(process.glance(new)[0], process.predict(new)[0], atol=1e-9)


def test_the_gradient_of_the_likelihood_is_its_slope():
    """What the optimiser is told of the slope is what differences say."""
    kernel, known = basis(predicts=True), genomes(20)
    targets = np.random.default_rng(2).normal(size=len(known))
    parts = np.stack([*Covariances(kernel).among(known, SHAPE), np.eye(20), np.ones((20, 20))])
    likelihood = _gaussian._Likelihood(np.ones((20, 20)), parts, targets)
    at = np.log([0.2, 0.1, 0.4, 0.1, 0.3])
    np.testing.assert_allclose(likelihood(at)[1], approx_fprime(at, lambda x: likelihood(x)[0], 1e-6), rtol=1e-3)


def test_covariances_do_not_depend_on_when_they_were_asked_for():
    """A search that goes on meets its genomes in other portions, and has to choose the same: equal to the last bit."""
    kernel, known = basis(predicts=True, d=9), genomes(40, d=9)
    whole = Covariances(kernel).among(known, SHAPE)
    portions = Covariances(kernel)
    for n in (1, 7, 8, 40):
        portions.among(known[:n], SHAPE)
    np.testing.assert_array_equal(portions.among(known, SHAPE), whole)
    np.testing.assert_array_equal(portions.among(known[::-1], SHAPE), whole[:, ::-1, ::-1])


def test_the_likelihood_finds_what_made_the_figures():
    """Noise is found to be large where figures are noise, and small where they follow the prediction."""
    kernel, known = basis(predicts=True), genomes(60)
    noise = np.random.default_rng(3).normal(size=60)
    smooth = fitted(kernel, Covariances(kernel), known, kernel.prediction(known, SHAPE))
    noisy = fitted(kernel, Covariances(kernel), known, noise)
    assert np.exp(smooth.logs[-1]) < 1e-2 < 0.3 < np.exp(noisy.logs[-1])


def test_a_dozen_candidates_teach_the_prior_more_than_the_twin():
    """On the toy, whose damage is additive, the prior errs by less than a third of what the twin errs by."""
    setup = toy_setup(toy_space((16,) * 8), limits={"macs": "70%"})
    strategy = SurrogateStrategy(setup)
    told = [toy_outcome(setup, job) for job in drive(strategy, setup, 40)]
    known = np.array([outcome.genome for outcome in told])
    every = setup.space.sample(200, np.random.default_rng(9), setup.costs, setup.limits)
    truth = np.array([toy_outcome(setup, strategy._evaluate(0, tuple(g))).metrics["accuracy"] for g in every.tolist()])
    scale = Scale("logit")
    targets = scale.to(-np.array([outcome.metrics["accuracy"] for outcome in told]))
    errors = []
    for kernel in (strategy._basis, ZeroMeanStrategy(setup)._basis):
        covariances = Covariances(kernel)
        process = GaussianProcess(kernel, covariances, known, targets, fitted(kernel, covariances, known, targets))
        errors.append(np.sqrt(np.mean((process.predict(every)[0] - scale.to(-truth)) ** 2)))
    assert errors[0] < errors[1] / 3


def test_sixty_evaluations_are_worth_three_hundred_of_a_population():
    """On the toy, sixty dominate more than NSGA-II from the knapsack's points does with 300, and more than the twin."""
    space = toy_space(LEARNING_WIDTHS)

    def share(make, n):
        setup = toy_setup(space, limits={"macs": "70%"}, evaluations=n)
        return dominated_share(setup, drive(make(setup), setup, n))

    found = share(SurrogateStrategy, 60)
    assert found > share(lambda setup: WarmStartStrategy(setup, WarmStartSettings(strategy="pymoo:nsga2")), 300)
    assert found > share(ZeroMeanStrategy, 60)


def test_probes_then_optima_then_the_model():
    """Probes of another fidelity come first and are no candidates, then predicted optima, a fifth of what is left."""
    setup = replace(toy_setup(limits={"macs": "60%"}, evaluations=50), probe=PROBE)
    strategy = SurrogateStrategy(setup)
    jobs = drive(strategy, setup, 50)
    n = len(strategy._sensitivities.plan)
    assert [job.fidelity == PROBE for job in jobs] == [True] * n + [False] * (50 - n)
    candidates = genomes_of(jobs[n:])
    start = strategy._optima[: (50 - n) // 5]
    assert candidates[: len(start)] == start
    assert strategy.substitutes(jobs) == []


def test_what_is_in_flight_is_believed():
    """What is taken for measured as predicted leaves predictions as they are, and nothing to learn where it is."""
    kernel, known, new = basis(predicts=True), genomes(30), genomes(3, seed=7)
    targets = np.random.default_rng(2).normal(size=len(known)) + kernel.prediction(known, SHAPE)
    process = GaussianProcess(kernel, Covariances(kernel), known, targets, Hyperparameters())
    believing = process.believing(new)
    elsewhere = genomes(20, seed=8)
    np.testing.assert_allclose(believing.predict(elsewhere)[0], process.predict(elsewhere)[0], atol=0.05)
    assert (believing.predict(new)[1] < 0.9 * process.predict(new)[1]).all()


def test_costs_alone_and_one_objective_are_searched():
    """The twin needs no figure that is measured, and either takes a single one."""
    for objectives in (("macs", "params"), ("accuracy",)):
        setup = toy_setup(objectives=objectives, limits={"macs": "50%"}, evaluations=30)
        assert len(drive(ZeroMeanStrategy(setup), setup, 30)) == 30
    assert len(drive(SurrogateStrategy(setup), setup, 30)) == 30


def test_a_warm_start_is_for_the_twin():
    """The prior is a start of its own; the twin may have the same probes and optima, without learning from probes."""
    check_warm_start("gp:zero")
    with pytest.raises(InvalidArgumentError, match="'gp' has no start to seed"):
        check_warm_start("gp")


def test_what_it_cannot_do_is_refused():
    """Settings out of range, too small a budget, and nothing to measure are errors that say so."""
    with pytest.raises(InvalidArgumentError, match="front to be at least 1, got 0"):
        SurrogateSettings(front=0)
    with pytest.raises(InvalidArgumentError, match="n_startup to be at least 4, got 3"):
        ZeroMeanSettings(n_startup=3)
    with pytest.raises(BudgetError, match="6 variables"):
        make_strategy("gp", toy_setup(evaluations=6))
    with pytest.raises(InvalidArgumentError, match="an objective that is measured"):
        make_strategy("gp", toy_setup(objectives=("macs", "params")))
