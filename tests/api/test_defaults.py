"""What a newcomer gets who says nothing, and runs that were started under other defaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import autoprune as ap
from autoprune.core.jobs import Evaluation
from autoprune.errors import InfeasibleError, InvalidArgumentError, StoreError
from autoprune.store.identity import Identity
from autoprune.store.ledger import EventKind
from autoprune.store.run import RunStore
from autoprune.strategies.registry import STRATEGIES

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


def test_a_run_goes_on_with_its_way_of_batchnorm_statistics(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Where the problem leaves that to us, a run that moved them in one way opens and goes on in that way."""
    evaluation = ap.ProxySettings(n_calibration=64, n_validation=64, batch_size=32, batchnorm="difference")
    ap.search(make_problem(evaluation=evaluation), "random", 2, store=tmp_path / "run")
    opened = ap.open_run(tmp_path / "run", make_problem())
    assert opened.problem is not None
    assert opened.problem.evaluation.batchnorm == "difference"
    longer = ap.search(make_problem(), "random", 3, store=tmp_path / "run")
    plain = ap.search(make_problem(evaluation=evaluation), "random", 3)
    assert [outcome.metrics for outcome in longer.outcomes] == [outcome.metrics for outcome in plain.outcomes]


def test_what_was_chosen_is_not_replaced(make_problem: MakeProblem, tmp_path: Path) -> None:
    """A problem that names another evaluator than the run's is refused, with what differs."""
    ap.search(make_problem(evaluator="inherited"), "random", 2, store=tmp_path / "run")
    with pytest.raises(StoreError, match="the evaluator"):
        ap.open_run(tmp_path / "run", make_problem(evaluator="reconstructed"))
    with pytest.raises(StoreError, match="the evaluator"):
        ap.search(make_problem(evaluator="reconstructed"), "random", 3, store=tmp_path / "run")


@pytest.mark.parametrize("strategy", [name for name, info in STRATEGIES.items() if info.usual_start])
def test_a_search_by_samples_begins_with_the_knapsack(strategy: str, make_problem: MakeProblem, tmp_path: Path) -> None:
    """Of reconstructed weights; its probes come first, and are no more than half of what may be spent."""
    problem = make_problem()
    n_probes = problem.space.n_variables + 1
    run = ap.search(problem, strategy, 2 * n_probes, store=tmp_path / "run")
    assert run.meta.method == f"{strategy}, warm start from knapsack"
    measured = [outcome.job.fidelity for outcome in run.outcomes if isinstance(outcome, Evaluation)]
    assert [fidelity == "probe" for fidelity in measured] == [True] * n_probes + [False] * n_probes


def test_probes_count_at_what_they_cost(make_problem: MakeProblem, tmp_path: Path) -> None:
    """A budget in multiply-adds for all of them and as many evaluations has the usual start, a smaller one none."""
    problem = make_problem()
    evaluator, dense = problem.evaluator, problem.dense_costs["macs"]
    macs = (problem.space.n_variables + 1) * (evaluator.probe_macs(dense) + evaluator.evaluation_macs(dense))
    assert evaluator.probe_macs(dense) < evaluator.evaluation_macs(dense)
    enough = ap.search(problem, "pymoo:nsga2", ap.Budget(macs=macs), store=tmp_path / "enough")
    less = ap.search(problem, "pymoo:nsga2", ap.Budget(macs=macs - 1), store=tmp_path / "less")
    assert (enough.meta.warm_start, less.meta.warm_start) == ("knapsack", "")
    n_probes = sum(outcome.job.fidelity == "probe" for outcome in enough.outcomes if isinstance(outcome, Evaluation))
    assert enough.n_evaluations > n_probes > problem.space.n_variables


@pytest.mark.parametrize(
    ("problem", "strategy", "given"),
    [
        ({}, "pymoo:nsga2", {"warm_start": None}),
        ({}, "pymoo:nsga2", {"warm_start": "none"}),
        ({}, "pymoo:nsga2", {"budget": 5}),
        ({}, "pymoo:nsga2", {"budget": ap.Budget(macs=10**7)}),
        ({}, "random", {}),
        ({}, "metapruning:inherited", {}),
        ({"evaluator": "inherited"}, "pymoo:nsga2", {}),
        ({"objectives": ("params", "macs")}, "pymoo:nsga2", {}),
    ],
)
def test_a_search_without_a_start(
    problem: dict[str, Any], strategy: str, given: dict[str, Any], make_problem: MakeProblem, tmp_path: Path
) -> None:
    """None is chosen, or nothing suits: controls, other evaluators, nothing measured, too small a budget."""
    run = ap.search(make_problem(**problem), strategy, **{"budget": 8, "store": tmp_path / "run", **given})
    assert run.meta.method == strategy
    assert all(outcome.job.fidelity == "proxy" for outcome in run.outcomes)


def test_comparisons_say_in_the_name_how_a_search_begins(make_problem: MakeProblem, tmp_path: Path) -> None:
    """A strategy without a plus sign starts from nothing there, as its rivals and controls do."""
    found = ap.compare(make_problem(), ["pymoo:nsga2", "pymoo:nsga2+knapsack"], 8, seeds=1, test=False, store=tmp_path)
    assert found.runs["pymoo:nsga2", 0].meta.warm_start == ""
    assert found.runs["pymoo:nsga2+knapsack", 0].meta.warm_start == "knapsack"


@pytest.mark.parametrize("recorded", [{"warm_start": ""}, {}])
def test_a_run_without_a_start_goes_on_without(
    recorded: dict[str, str], make_problem: MakeProblem, tmp_path: Path
) -> None:
    """Runs of versions in which no start was usual resume as they were, and so do those that have one."""
    problem, old, new = make_problem(), tmp_path / "old", tmp_path / "new"
    first = ap.search(problem, "pymoo:nsga2", 8, warm_start=None, store=old)
    with RunStore(old, problem=problem.fingerprint) as store:
        settings = {name: value for name, value in first.meta.settings.items() if name != "warm_start"}
        store.ledger.update_meta({"settings": {**settings, **recorded}})
    ap.search(problem, "pymoo:nsga2", 8, store=new)
    for folder, method in ((old, "pymoo:nsga2"), (new, "pymoo:nsga2, warm start from knapsack")):
        before = ap.open_run(folder, problem).outcomes
        longer = ap.search(problem, "pymoo:nsga2", 12, store=folder)
        assert (longer.meta.method, longer.n_evaluations) == (method, 12)
        assert longer.outcomes[: len(before)] == before
        assert not [event for event in longer.record.events if event.kind is EventKind.FORK]
    with pytest.raises(InvalidArgumentError, match="searched by pymoo:nsga2, warm start from knapsack"):
        ap.search(problem, "pymoo:nsga2", 13, warm_start="none", store=new)


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
