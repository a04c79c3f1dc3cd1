"""One start for all searches, and what they draw at random instead of choosing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.jobs import Evaluate
from autoprune.core.streams import seed_sequence
from autoprune.strategies._base import feasible
from autoprune.strategies.random import initial_design
from autoprune.strategies.registry import make_strategy
from autoprune.testing.strategy_laws import drive, genomes_of
from autoprune.testing.toys import toy_outcome, toy_setup, toy_space

STARTING = (
    "random",
    "pymoo:nsga2",
    "pymoo:smsemoa",
    "metapruning:inherited",
    "optuna:tpe",
    "optuna:gp",
    "optuna:nsgaii",
    "gp:zero",
)


@pytest.mark.parametrize("seed", [0, 1])
def test_all_searches_share_one_start(seed: int) -> None:
    """From one seed of a run, the first eight candidates of every strategy with a start are the same."""
    setup = toy_setup(limits={"macs": "60%"}, evaluations=40)
    starts = {
        name: genomes_of(make_strategy(name, replace(setup, seed=seed_sequence(seed, "strategy", name))).ask(8))
        for name in STARTING
    }
    design = initial_design(replace(setup, seed=seed_sequence(seed, "another")), 8)
    assert {name for name, genomes in starts.items() if sorted(genomes) != sorted(design)} == set()


def test_fewer_are_the_first_of_more_and_all_are_feasible() -> None:
    """A longer start goes on where a shorter one ends; a small space gives all it has; another seed another start."""
    setup = toy_setup(limits={"macs": "60%"})
    design = initial_design(setup, 30)
    assert initial_design(setup, 11) == design[:11]
    assert len(set(design)) == 30
    assert feasible(setup, np.array(design)).all()
    assert design != initial_design(replace(setup, seed=seed_sequence(5, "x")), 30)
    small = toy_setup(toy_space((2, 2), levels=2))
    assert len(initial_design(small, 50)) == small.space.size


@pytest.mark.parametrize(
    ("name", "window"), [("optuna:tpe", 4), ("optuna:gp", 4), ("gp", 4), ("gp:zero", 4), ("optuna:nsgaii", 8)]
)
def test_models_have_few_candidates_in_flight(name: str, window: int) -> None:
    """The default window of a model-based search is small; that of a genetic one its generation."""
    assert make_strategy(name, toy_setup(evaluations=40)).window == window


@pytest.mark.parametrize("name", ["optuna:tpe", "optuna:gp", "gp:zero"])
def test_after_the_start_the_model_chooses(name: str) -> None:
    """With four in flight no candidate after the start is drawn for want of figures, as long as there is room."""
    setup = toy_setup(toy_space((16,) * 6, levels=8), evaluations=26)
    strategy = make_strategy(name, setup)
    jobs = strategy.ask(4)
    for place in range(22):
        strategy.tell([toy_outcome(setup, jobs[place])])
        jobs += strategy.ask(1)
    assert len(jobs) == 26
    assert strategy.substitutes(jobs) == []


@pytest.mark.parametrize("name", ["optuna:tpe", "pymoo:nsga2", "metapruning:inherited"])
def test_what_is_drawn_instead_is_counted(name: str) -> None:
    """Towards the end of a small space nearly everything that a method chooses was proposed before; it says so."""
    setup = toy_setup(toy_space((3, 3, 3), levels=3), evaluations=27)
    strategy = make_strategy(name, setup)
    jobs = drive(strategy, setup, 27)
    assert all(isinstance(job, Evaluate) for job in jobs)
    assert 0 < len(strategy.substitutes(jobs)) < 20
