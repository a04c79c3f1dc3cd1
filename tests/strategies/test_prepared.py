"""One preparation before any strategy: its weights reach all that the strategy asks for, and it is counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace

import pytest

from autoprune.core.budget import Spending
from autoprune.core.jobs import Evaluate, Prepare, WeightSet
from autoprune.core.protocols import Ranking, SearchSetup
from autoprune.errors import BudgetError, InvalidArgumentError
from autoprune.strategies.prepared import PreparedSettings, PreparedStrategy, make_search
from autoprune.strategies.registry import STRATEGIES, StrategyInfo
from autoprune.strategies.warm_start import WarmStartSettings
from autoprune.testing.strategy_laws import StrategyLaws, drive
from autoprune.testing.toys import failed_outcome, toy_estimate, toy_outcome, toy_setup

PREPARATION = PreparedSettings(recipe="toy", preparation={"epochs": 2.0})


class TestPrepared(StrategyLaws):
    """The strategy laws, for a population on prepared weights."""

    @pytest.fixture
    def info(self) -> StrategyInfo:
        factory = "autoprune.strategies.prepared:PreparedStrategy"
        return StrategyInfo("prepared", "", factory, is_learning=False, recipes=("sparsify",))


def ranked(weight_set: WeightSet) -> Mapping[str, Ranking]:
    """Return the toy ranking of weights under another order."""
    return {"toy": Ranking(toy_setup().rankings["toy"].scores, WeightSet(weight_set.weights, "ranked again"))}


@pytest.mark.parametrize("name", [name for name, info in STRATEGIES.items() if info.fidelity == "proxy"])
def test_every_strategy_that_inherits_starts_from_what_was_made(name: str) -> None:
    """First the preparation alone; then all candidates, and all further preparations, come from its weights."""
    setup = replace(toy_setup(limits={"macs": "70%"}, evaluations=40), rank=ranked)
    strategy = make_search(name, setup, preparation=PREPARATION)
    (first,) = strategy.ask(4)
    assert isinstance(first, Prepare)
    assert (first.recipe, first.parent, first.settings) == ("toy", setup.weight_set, {"epochs": 2.0})
    assert strategy.ask(4) == []
    outcome = toy_outcome(setup, first)
    strategy.tell([outcome])
    assert outcome.weight_set is not None
    made = WeightSet(outcome.weight_set.weights, "ranked again")
    jobs = strategy.ask(4)
    assert jobs
    parents = {job.candidate.weight_set if isinstance(job, Evaluate) else job.parent for job in jobs}
    assert parents == {made}
    assert [job.id for job in jobs] == list(range(1, 1 + len(jobs)))


def test_where_nobody_ranks_the_order_is_that_which_was_made() -> None:
    """The order of nested widths, say, is part of the weights."""
    setup = toy_setup(evaluations=40)
    jobs = drive(make_search("random", setup, preparation=PREPARATION), setup, 5)
    made = toy_outcome(setup, jobs[0]).weight_set
    assert {job.candidate.weight_set for job in jobs[1:] if isinstance(job, Evaluate)} == {made}


def test_a_warm_start_comes_behind_the_preparation() -> None:
    """Its candidates are measured with the prepared weights."""
    setup = toy_setup(evaluations=40)
    genome = tuple(setup.space.min_genome.tolist())
    start = WarmStartSettings(genomes=(genome,))
    jobs = drive(make_search("pymoo:nsga2", setup, warm_start=start, preparation=PREPARATION), setup, 20)
    assert isinstance(jobs[0], Prepare)
    assert isinstance(jobs[1], Evaluate)
    assert jobs[1].candidate.genome == genome
    assert jobs[1].candidate.weight_set == toy_outcome(setup, jobs[0]).weight_set


def test_a_failure_is_tried_again_with_another_seed_once() -> None:
    """Two failures end the search; nothing is measured with weights that were not prepared."""
    setup = toy_setup(evaluations=40)
    strategy = make_search("random", setup, preparation=PREPARATION)
    (first,) = strategy.ask(1)
    strategy.tell([failed_outcome(first)])
    (second,) = strategy.ask(1)
    assert isinstance(first, Prepare)
    assert isinstance(second, Prepare)
    assert (second.recipe, second.settings) == (first.recipe, first.settings)
    assert second.seed != first.seed
    strategy.tell([failed_outcome(second)])
    assert strategy.ask(4) == []


@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_what_cannot_be_replayed_is_absorbed(n: int) -> None:
    """The first failed attempt, what was made and what was measured with it: nothing is prepared or measured twice."""
    setup = toy_setup(evaluations=40)
    original = make_search("random", setup, preparation=PREPARATION)
    outcomes = []
    for i in range(n):
        (job,) = original.ask(1)
        outcomes.append(failed_outcome(job) if i == 0 else toy_outcome(setup, job))
        original.tell(outcomes[-1:])
    again = make_search("random", setup, preparation=PREPARATION)
    again.absorb(outcomes)
    (job,) = again.ask(1)
    assert job.id == n
    assert isinstance(job, Prepare if n < 2 else Evaluate)
    if n >= 2:
        assert isinstance(job, Evaluate)
        assert job.candidate.weight_set == outcomes[1].weight_set
        known = [outcome.job.candidate.genome for outcome in outcomes if isinstance(outcome.job, Evaluate)]
        assert job.candidate.genome not in known


def test_the_length_that_is_left_open_takes_its_share() -> None:
    """Where the multiply-adds are limited; a length that was given stands, and must fit."""
    free = toy_setup()
    per_epoch = toy_estimate(free, Prepare(0, "toy", {"epochs": 1.0}, free.weight_set)).macs
    setup = replace(free, macs=10 * per_epoch)
    (job,) = make_search("random", setup, preparation=PreparedSettings(recipe="toy", epochs=30.0)).ask(1)
    assert isinstance(job, Prepare)
    assert job.settings["epochs"] == pytest.approx(5.0, rel=1e-3)
    with pytest.raises(BudgetError, match=r"'toy' takes .* MACs, and the budget leaves"):
        make_search("random", replace(free, macs=2 * per_epoch), preparation=PREPARATION)
    small = replace(free, macs=per_epoch // 10)
    with pytest.raises(BudgetError, match=r"needs at least .* \(0.25 epochs\)"):
        make_search("random", small, preparation=PreparedSettings(recipe="toy", epochs=30.0))


def test_the_strategy_knows_what_is_left() -> None:
    """A population is sized by what the preparation leaves of the multiply-adds."""
    setup = toy_setup()
    estimates: list[int | None] = []

    def estimate(job: object) -> Spending:
        return Spending(macs=600 if isinstance(job, Prepare) else 1)

    class Probe(PreparedStrategy):
        def _make(self, setup: SearchSetup):  # type: ignore[no-untyped-def]
            estimates.append(setup.macs)
            return super()._make(setup)

    Probe(replace(setup, macs=1000, estimate=estimate), PREPARATION)
    assert estimates == [400]


@pytest.mark.parametrize("wrong", [{"share": 1.0}, {"share": 0.0}, {"epochs": 0.1}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    """Out of range, or fewer epochs than the fewest."""
    with pytest.raises(InvalidArgumentError, match="expected"):
        dataclasses.replace(PREPARATION, **wrong)
