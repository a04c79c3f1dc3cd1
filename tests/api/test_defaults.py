"""What a newcomer gets who says nothing, and runs that were started under other defaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import autoprune as ap
from autoprune.errors import InfeasibleError, StoreError
from autoprune.store.identity import Identity

MakeProblem = Callable[..., ap.Problem]


def test_nothing_said_is_reconstruction_and_the_knapsack(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Consumers are re-solved, channels in the order of obs, widths by the knapsack."""
    problem = make_problem()
    assert (problem.evaluator.name, problem.criterion) == ("reconstructed", "obs")
    run = ap.search(problem, budget=8, store=tmp_path / "run")
    assert run.meta.strategy == "knapsack"
    assert run.meta.settings["evaluator"] == "reconstructed"
    assert len(run.front)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"evaluator": "inherited"}, ("inherited", "l2")),
        ({"evaluator": "short_training"}, ("short_training", "l2")),
        ({"criterion": "l1"}, ("reconstructed", "l1")),
        ({"evaluator": "inherited", "criterion": "obs"}, ("inherited", "obs")),
    ],
)
def test_an_evaluator_brings_its_criterion(
    given: dict[str, str], found: tuple[str, str], make_problem: MakeProblem
) -> None:
    """What was said counts; what was not suits it."""
    problem = make_problem(**given)
    assert (problem.evaluator.name, problem.criterion) == found


def test_a_run_goes_on_under_the_defaults_that_it_started_with(make_problem: MakeProblem, tmp_path: Path) -> None:
    """A problem that chooses neither evaluator nor criterion takes those of the run: to build, test and search on."""
    folder = tmp_path / "run"
    first = ap.search(make_problem(evaluator="inherited", criterion="l2"), "random", 2, store=folder).outcomes
    opened = ap.open_run(folder, make_problem())
    point = opened.front[0]
    problem = opened.problem
    assert problem is not None
    assert (problem.evaluator.name, problem.criterion) == ("inherited", "l2")
    assert problem.evaluator.measure(point.build())["accuracy"] == point.metrics["accuracy"]
    longer = ap.search(make_problem(), "random", 3, store=folder)
    assert longer.n_evaluations == 3
    assert longer.outcomes[:2] == first
    assert Identity.from_json(longer.meta.identity).decided["the evaluator"] == "inherited"


def test_what_was_chosen_is_not_replaced(make_problem: MakeProblem, tmp_path: Path) -> None:
    """A problem that names another evaluator than the run's is refused, with what differs."""
    ap.search(make_problem(evaluator="inherited"), "random", 2, store=tmp_path / "run")
    with pytest.raises(StoreError, match="the evaluator"):
        ap.open_run(tmp_path / "run", make_problem(evaluator="reconstructed"))
    with pytest.raises(StoreError, match="the evaluator"):
        ap.search(make_problem(evaluator="reconstructed"), "random", 3, store=tmp_path / "run")


def test_limits_on_three_costs_hold_for_everything_measured(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Every candidate of the default search is within all of them, and one that nothing meets is named at the door."""
    limits = {"macs": "70%", "params": "60%", "peak_bytes": "95%"}
    problem = make_problem(limits=limits, levels=8)
    run = ap.search(problem, budget=30, store=tmp_path / "run")
    measured = [outcome for outcome in run.outcomes if outcome.job.fidelity == "proxy"]
    assert len(measured) > 10
    assert all(outcome.costs[name] <= problem.limits[name] for outcome in measured for name in limits)
    with pytest.raises(InfeasibleError, match=r"params"):
        make_problem(limits={**limits, "params": "1%"})


def test_a_budget_that_is_left_out_suits_the_network(
    make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is at least four evaluations a variable, so that the default strategy can probe deep networks, too."""
    monkeypatch.setattr("autoprune.api.searching.EVALUATIONS", 5)
    problem = make_problem()
    run = ap.search(problem)
    assert run.meta.budget.evaluations == max(5, 4 * problem.space.n_variables)
