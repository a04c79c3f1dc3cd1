"""MetaPruning: its operators, and what it does before the evolution begins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.budget import Spending
from autoprune.core.jobs import Evaluate, Job, Prepare
from autoprune.core.protocols import SearchSetup
from autoprune.errors import BudgetError, InvalidArgumentError, UnknownNameError
from autoprune.strategies._curve import uniform_start
from autoprune.strategies._evolution import crowding, mutate, select, uniform_crossover
from autoprune.strategies.metapruning import (
    EvolutionSettings,
    MetaPruningInheritedStrategy,
    MetaPruningSettings,
    MetaPruningStrategy,
    SlimmableSettings,
    SlimmableStrategy,
)
from autoprune.strategies.registry import STRATEGIES, make_strategy, twins_of
from autoprune.testing.strategy_laws import drive
from autoprune.testing.toys import failed_outcome, toy_outcome, toy_setup

EPOCH = 1000
"""Multiply-adds of an epoch of preparation, in these tests."""

EVALUATION = 10
"""Multiply-adds of an evaluation, in these tests."""


def priced_setup(macs: int | None, *, evaluations: int | None = 40) -> SearchSetup:
    """Return a toy setup in which a preparation costs `EPOCH` an epoch."""

    def estimate(job: Job) -> Spending:
        return Spending(macs=int(EPOCH * job.settings["epochs"]) if isinstance(job, Prepare) else EVALUATION)

    return replace(toy_setup(evaluations=evaluations), macs=macs, estimate=estimate)


def test_a_tenth_of_the_genes_mutates() -> None:
    """Every gene changes with the given probability, and a changed gene takes all other levels equally often."""
    rng = np.random.default_rng(0)
    genomes, n_levels = np.full((4000, 3), 2), np.array([3, 8, 31])
    mutants = mutate(genomes, n_levels, 0.1, rng)
    changed = mutants != genomes
    np.testing.assert_allclose(changed.mean(axis=0), 0.1, atol=0.02)
    assert (mutants < n_levels).all()
    levels, counts = np.unique(mutants[changed[:, 1], 1], return_counts=True)
    np.testing.assert_array_equal(levels, [0, 1, 3, 4, 5, 6, 7])
    assert counts.max() < 2 * counts.min()


def test_a_variable_of_one_level_never_mutates() -> None:
    """There is nothing else that it could be."""
    genomes = np.zeros((50, 2), dtype=np.int64)
    assert not mutate(genomes, np.array([1, 4]), 1.0, np.random.default_rng(0))[:, 0].any()


def test_children_have_the_genes_of_both_parents() -> None:
    """Each gene comes from either parent, about as often from one as from the other."""
    first, second = np.zeros((500, 6), dtype=np.int64), np.ones((500, 6), dtype=np.int64)
    np.testing.assert_allclose(uniform_crossover(first, second, np.random.default_rng(0)).mean(axis=0), 0.5, atol=0.1)


def test_rank_comes_before_crowding() -> None:
    """The front is chosen first; of a front that is too large, the extremes and the loneliest between them."""
    front = np.array([[0.0, 1.0], [0.1, 0.9], [0.15, 0.85], [0.6, 0.3], [1.0, 0.0]])
    dominated = front + 2.0
    values = np.concatenate([dominated, front])
    assert set(select(values, 5)) == {5, 6, 7, 8, 9}
    assert set(select(values, 3)) == {5, 8, 9}
    chosen = select(values, 7)
    assert set(chosen[:5]) == {5, 6, 7, 8, 9}
    assert set(chosen[5:]) == {0, 4}
    assert len(select(values, 99)) == 10


def test_crowding_of_few_and_of_equal_points() -> None:
    """Two points are both extremes; equal points divide by nothing."""
    assert np.isinf(crowding(np.array([[0.0, 1.0], [1.0, 0.0]]))).all()
    assert not np.isnan(crowding(np.ones((4, 2)))).any()


@pytest.mark.parametrize(
    ("generator", "recipe", "chosen"),
    [
        ("fc", "pruningnet", {"generator": "fc"}),
        ("low_rank", "pruningnet", {"generator": "low_rank"}),
        ("slimmable", "supernet", {}),
    ],
)
def test_candidates_wait_for_their_weights(generator: str, recipe: str, chosen: dict[str, str]) -> None:
    """First one preparation alone; then everything is measured with what it made, by the evaluator that knows how."""
    setup = priced_setup(None)
    settings = MetaPruningSettings(generator=generator, preparation={"learning_rate": 0.1})
    strategy = MetaPruningStrategy(setup, settings)
    (job,) = strategy.ask(5)
    assert isinstance(job, Prepare)
    assert job.recipe == recipe
    assert job.settings.items() >= {**chosen, "learning_rate": 0.1, "epochs": settings.epochs}.items()
    assert strategy.ask(5) == []
    outcome = toy_outcome(setup, job)
    strategy.tell([outcome])
    for evaluation in strategy.ask(5):
        assert isinstance(evaluation, Evaluate)
        assert evaluation.fidelity == "generated"
        assert evaluation.candidate.weight_set == outcome.weight_set != setup.weight_set


def test_names_say_where_weights_come_from() -> None:
    """``metapruning`` is the paper's PruningNet, ``slimmable`` a supernet; the latter's weights need no generators."""
    setup = priced_setup(None)
    recipes = {}
    for key in ("metapruning", "metapruning:low_rank", "metapruning:slimmable", "slimmable"):
        (job,) = make_strategy(key, setup).ask(1)
        assert isinstance(job, Prepare)
        recipes[key] = (job.recipe, job.settings.get("generator"))
    assert recipes == {
        "metapruning": ("pruningnet", "fc"),
        "metapruning:low_rank": ("pruningnet", "low_rank"),
        "metapruning:slimmable": ("supernet", None),
        "slimmable": ("supernet", None),
    }
    (job,) = SlimmableStrategy(setup, SlimmableSettings(preparation={"n_random": 2})).ask(1)
    assert isinstance(job, Prepare)
    assert job.settings["n_random"] == 2


@pytest.mark.parametrize("twin", [name for family in ("metapruning", "slimmable") for name in twins_of(family)])
def test_twins_test_the_evolution_on_the_same_weights(twin: str) -> None:
    """From one seed a family and its twins ask for the very same preparation; what they measure on it differs.

    All are measured by the same evaluator, and random widths begin with the first generation of the evolution. The one
    twin that leaves out the weights instead prepares nothing.
    """
    setup, family = priced_setup(None), STRATEGIES[twin].twin_of
    theirs, ours = (drive(make_strategy(name, setup), setup, 40) for name in (family, twin))
    if twin == "metapruning:inherited":
        assert not any(isinstance(job, Prepare) for job in ours)
        return
    assert theirs[0] == ours[0]
    assert isinstance(ours[0], Prepare)
    evaluations = [[job for job in jobs if isinstance(job, Evaluate)] for jobs in (theirs, ours)]
    assert {job.fidelity for jobs in evaluations for job in jobs} == {"generated"}
    assert len({job.candidate.weight_set for jobs in evaluations for job in jobs}) == 1
    first, mine = ([job.candidate.genome for job in jobs] for jobs in evaluations)
    assert first != mine
    if twin.endswith(":random"):
        n = MetaPruningSettings().size(setup.evaluations)
        assert first[:n] == mine[:n]
        assert first[n:] != mine[n:]
        assert set(uniform_start(setup, n)) <= set(first[:n])
    else:
        uniform = [job.candidate.genome for job in drive(make_strategy("uniform", setup), setup, 40)]
        assert mine == uniform[: len(mine)]


def test_the_preparation_takes_its_share() -> None:
    """As many epochs as its share of the multiply-adds pays for, and never more than the settings say."""
    share = MetaPruningSettings().share
    for macs, epochs in ((20 * EPOCH, 20 * share), (10**9, MetaPruningSettings().epochs)):
        (job,) = MetaPruningStrategy(priced_setup(macs)).ask(1)
        assert isinstance(job, Prepare)
        assert job.settings["epochs"] == pytest.approx(epochs, rel=0.01)


def test_a_budget_in_multiply_adds_lasts_for_a_dozen_generations() -> None:
    """Generations are sized by how many candidates the multiply-adds pay for, beside the preparation."""
    n_paid = 240
    setup = priced_setup(n_paid * EVALUATION, evaluations=None)
    assert MetaPruningInheritedStrategy(setup).window == n_paid // 12
    setup = priced_setup(round(n_paid * EVALUATION / (1 - MetaPruningSettings().share)), evaluations=None)
    assert MetaPruningStrategy(setup).window == n_paid // 12
    assert MetaPruningStrategy(priced_setup(None, evaluations=None)).window == 32


def test_a_budget_too_small_to_prepare_is_refused() -> None:
    """Before any work, with what one epoch would need."""
    with pytest.raises(BudgetError, match=rf"needs at least {EPOCH:,} MACs"):
        MetaPruningStrategy(priced_setup(EPOCH))


def test_a_failed_preparation_is_tried_again_with_what_is_left() -> None:
    """Once, from another seed, within its share of what the failure has not spent; then the search is finished."""
    setup = priced_setup(20 * EPOCH)
    strategy = MetaPruningStrategy(setup)
    (first,) = strategy.ask(3)
    strategy.tell([replace(failed_outcome(first), spent=Spending(macs=10 * EPOCH))])
    (second,) = strategy.ask(3)
    assert isinstance(first, Prepare)
    assert isinstance(second, Prepare)
    assert second.seed != first.seed
    assert second.settings["epochs"] == pytest.approx(10 * MetaPruningSettings().share, rel=0.01)
    strategy.tell([failed_outcome(second)])
    assert strategy.ask(3) == []


def test_a_preparation_that_cannot_be_paid_any_more_ends_the_search() -> None:
    """A failure may leave less than an epoch: no second try, and no error in the middle of a run."""
    setup = priced_setup(2 * EPOCH)
    strategy = MetaPruningStrategy(setup)
    (job,) = strategy.ask(3)
    strategy.tell([replace(failed_outcome(job), spent=Spending(macs=EPOCH))])
    assert strategy.ask(3) == []


def test_the_generator_may_stand_in_the_name() -> None:
    """``metapruning:fc`` is the paper's PruningNet; the twin keeps its own name."""
    strategy = make_strategy("metapruning:fc", toy_setup())
    assert strategy.settings.generator == "fc"
    assert type(make_strategy("metapruning:inherited", toy_setup())) is MetaPruningInheritedStrategy
    with pytest.raises(UnknownNameError, match="generator"):
        make_strategy("metapruning:nothing", toy_setup())


def test_an_heir_goes_on_with_the_weights_of_its_ancestor() -> None:
    """A preparation that was absorbed is not repeated."""
    setup = priced_setup(None)
    past = [toy_outcome(setup, job) for job in drive(MetaPruningStrategy(setup), setup, 9)]
    heir = MetaPruningStrategy(setup)
    heir.absorb(past)
    (job,) = heir.ask(1)
    assert isinstance(job, Evaluate)
    assert job.candidate.weight_set == past[0].weight_set


def test_settings_out_of_range_are_refused() -> None:
    """Each names what it expected."""
    with pytest.raises(UnknownNameError, match="did you mean 'slimmable'"):
        MetaPruningSettings(generator="slimable")
    for wrong in ({"share": 1.0}, {"epochs": 0.0}, {"mutation": 0.0}, {"n_parents": 1}):
        with pytest.raises(InvalidArgumentError, match=next(iter(wrong)).removeprefix("n_")):
            MetaPruningSettings(**wrong)
    with pytest.raises(InvalidArgumentError, match="population"):
        EvolutionSettings(population=2)
