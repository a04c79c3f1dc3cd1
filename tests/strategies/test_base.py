"""The seam: what the base class checks for every strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from autoprune.core.jobs import Evaluation, Job
from autoprune.errors import InvalidArgumentError
from autoprune.strategies._base import BaseStrategy, NoSettings, child_seeds, feasible, spread_cost
from autoprune.testing.toys import failed_outcome, toy_outcome, toy_setup


@dataclass(frozen=True)
class FixedSettings:
    genome: tuple[int, ...] = (7, 7, 7, 7, 7, 7)


class FixedStrategy(BaseStrategy):
    """Proposes one genome for ever and keeps what it hears."""

    Settings = FixedSettings

    def __init__(self, setup, settings=None):
        super().__init__(setup, settings)
        self.learned: list[int] = []

    def _propose(self, ids: range) -> Sequence[Job]:
        return [self._evaluate(id_, self.settings.genome) for id_ in ids]

    def _learn(self, told: Sequence[Evaluation]) -> None:
        self.learned += [evaluation.job.id for evaluation in told]


def test_settings_of_another_type_are_refused():
    """Settings must be the strategy's own dataclass, or a mapping of its fields; the error names it and them."""
    assert FixedStrategy(toy_setup(), {"genome": (0,)}).settings == FixedSettings((0,))
    with pytest.raises(
        InvalidArgumentError, match=r"settings of FixedStrategy as FixedSettings\(genome\) or a mapping"
    ):
        FixedStrategy(toy_setup(), NoSettings())
    with pytest.raises(InvalidArgumentError, match=r"unknown setting 'genom' .*did you mean 'genome'"):
        FixedStrategy(toy_setup(), {"genom": (0,)})


def test_genome_outside_the_space_is_caught_at_the_door():
    """A strategy that proposes nonsense is stopped before the job leaves, and no id is lost."""
    strategy = FixedStrategy(toy_setup(), FixedSettings((0, 0, 0, 0, 0, 8)))
    with pytest.raises(InvalidArgumentError, match="levels 0 to 7, got 8"):
        strategy.ask(1)


def test_outcomes_are_learned_in_order_of_their_ids():
    """What is told at once is learned in one order, however it arrives."""
    setup = toy_setup()
    strategy = FixedStrategy(setup)
    strategy.tell([toy_outcome(setup, job) for job in strategy.ask(3)[::-1]])
    assert strategy.learned == [0, 1, 2]


def test_refused_call_teaches_nothing():
    """One outcome at fault refuses the whole call; the others can be told afterwards."""
    setup = toy_setup()
    strategy = FixedStrategy(setup)
    good = toy_outcome(setup, strategy.ask(1)[0])
    with pytest.raises(InvalidArgumentError, match="told before"):
        strategy.tell([good, good])
    assert strategy.learned == []
    strategy.tell([good])
    assert strategy.learned == [0]


def test_absorb_refuses_two_outcomes_of_one_job():
    """A ledger with two outcomes of one job is not a run."""
    setup = toy_setup()
    job = FixedStrategy(setup).ask(1)[0]
    with pytest.raises(InvalidArgumentError, match=r"several of \[0\]"):
        FixedStrategy(setup).absorb([toy_outcome(setup, job), failed_outcome(job)])


def test_failed_outcome_has_no_values():
    """Objective values exist for measured candidates only, and are minimized."""
    setup = toy_setup()
    strategy = FixedStrategy(setup)
    (job,) = strategy.ask(1)
    assert strategy._values(failed_outcome(job)) is None
    dense = setup.costs(setup.space.full_genome[None, :])["macs"][0]
    np.testing.assert_allclose(strategy._values(toy_outcome(setup, job)), [-0.95, dense])


def test_child_seeds_leave_the_parent_alone():
    """Children differ from each other and are the same every time they are asked for."""
    seed = np.random.SeedSequence(3, spawn_key=(1, 2))
    draws = [[int(child.generate_state(1)[0]) for child in child_seeds(seed, 3)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) == 3
    assert seed.n_children_spawned == 0


@pytest.mark.parametrize(
    ("objectives", "limits", "expected"),
    [
        (("accuracy", "params", "macs"), {"macs": "50%"}, "params"),
        (("accuracy",), {"params": "50%"}, "params"),
        (("accuracy",), {}, "macs"),
    ],
)
def test_spread_cost(objectives, limits, expected):
    """Baselines spread over the first counted objective, else over the first limit, else over the first cost."""
    assert spread_cost(toy_setup(objectives=objectives, limits=limits)) == expected


def test_feasible_is_one_answer_per_genome():
    """With limits or without, the mask has one entry per genome."""
    for limits, expected in (({}, [True, True]), ({"macs": "50%"}, [True, False])):
        setup = toy_setup(limits=limits)
        mask = feasible(setup, np.stack([setup.space.min_genome, setup.space.full_genome]))
        assert mask.tolist() == expected
