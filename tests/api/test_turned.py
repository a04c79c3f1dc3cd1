"""A search turns channels into a better basis first unless told otherwise: where it does, and that its figures hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autoprune as ap
from autoprune.api.beginning import Beginning
from autoprune.api.stripping import has_given_weights, stripper
from autoprune.core.budget import Budget
from autoprune.core.jobs import Status, evaluations, preparations
from autoprune.criteria.registry import CRITERIA
from autoprune.errors import InvalidArgumentError
from autoprune.evaluate.distance import DISTANCE
from autoprune.evaluators import measure
from autoprune.execute.in_process import InProcessExecutor
from autoprune.store.blobs import BlobStore
from autoprune.store.ledger import EventKind
from autoprune.store.run import RunStore
from autoprune.strategies.registry import STRATEGIES
from autoprune.testing.digits_bottlenecks import Inverted
from autoprune.testing.digits_network import digits_network
from autoprune.train.settings import FitSettings

TURNED = {"recipe": "rotate", "settings": {}}

SMALL = {"n_calibration": 64, "n_validation": 64, "batch_size": 32}


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, ap.Data]:
    """A small network with bottlenecks that has learned the digits."""
    torch.manual_seed(0)
    data = ap.load_data("digits", held_out=True)
    model = Inverted(channels=8, blocks=1)
    ap.fit(model, data, ap.Classification(), FitSettings(epochs=2, batch_size=64, learning_rate=0.1))
    return model.eval(), data


def problem_of(trained: tuple[nn.Module, ap.Data], **changed: Any) -> ap.Problem:
    """Return a problem with something to turn."""
    return ap.Problem(trained[0], data=trained[1], levels=4, **{"evaluation": SMALL, **changed})


@pytest.fixture(scope="module")
def problem(trained: tuple[nn.Module, ap.Data]) -> ap.Problem:
    """The problem that says nothing."""
    return problem_of(trained)


@pytest.fixture(scope="module")
def run(problem: ap.Problem, tmp_path_factory: pytest.TempPathFactory) -> ap.Run:
    """A search that says nothing."""
    return ap.search(problem, budget=12, store=tmp_path_factory.mktemp("turned") / "run")


def begun(problem: ap.Problem, strategy: str = "knapsack", budget: Any = 60, **given: Any) -> Any:
    """Return what the folder of a new search would say of its weights: recipe and settings, "" for the given ones."""
    allowed = Budget.of(budget)
    arguments = {"settings": None, "prepare": "auto", "warm_start": "auto", **given}
    beginning = Beginning.of(problem, strategy, evaluations=allowed.evaluations, **arguments)
    return beginning.settled(problem, allowed).to_json()["prepare"]


def test_figures_are_those_of_the_files(run: ap.Run, problem: ap.Problem, tmp_path: Path) -> None:
    """Weights were turned, once; what the table says of a point its model gives, built, saved and loaded elsewhere."""
    assert [made.job.recipe for made in preparations(run.outcomes)] == ["rotate"]
    assert preparations(run.outcomes)[0].metrics["streams"] > 0
    images = problem.data.example_batch(8)[0]
    for point in (run.front[0], run.front[len(run.front) // 2], run.front[-1]):
        built = point.build()
        assert problem.evaluator.measure(built) == pytest.approx(point.metrics, abs=1e-5)
        point.save(tmp_path / "small")
        torch.manual_seed(1)
        loaded = ap.load(tmp_path / "small", Inverted(channels=8, blocks=1))
        polished = point.build(polish=True)
        point.save(tmp_path / "polished", polished)
        again = ap.load(tmp_path / "polished", Inverted(channels=8, blocks=1))
        with torch.no_grad():
            assert torch.equal(loaded(images), built(images))
            assert torch.equal(again(images), polished(images))
        assert problem.evaluator.measure(polished)[DISTANCE] <= 1.1 * point.metrics[DISTANCE] + 1e-6
    whole = run.front[-1]
    assert whole.genome == tuple(problem.space.full_genome.tolist())
    assert whole.metrics["accuracy"] == problem.dense_metrics["accuracy"]
    assert whole.metrics[DISTANCE] < 1e-6


def test_a_report_tests_and_times_them(run: ap.Run, problem: ap.Problem) -> None:
    """Test figures are those of the saved model; every page and summary says which weights these are."""
    point = run.front[len(run.front) // 2]
    assert point.test()["accuracy"] == measure(point.build(), problem.data.test, problem.task)["accuracy"]
    words = "weights turned into a better basis first by rotate"
    assert words in run.summary()
    page = point.report()
    assert words in page.read_text(encoding="utf-8")
    assert words in Path(run.report(measure=False).html).read_text(encoding="utf-8")


def test_what_it_costs_is_charged(run: ap.Run, problem: ap.Problem) -> None:
    """As where the recipe was asked for: the same outcomes, the same multiply-adds."""
    asked = ap.search(problem, budget=12, prepare="rotate")
    assert [o.metrics for o in asked.outcomes] == [o.metrics for o in run.outcomes]
    assert asked.spent.macs == run.spent.macs > ap.search(problem, budget=12, prepare="none").spent.macs


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies_that_make_weights_begin_with_the_given_ones(strategy: str, problem: ap.Problem) -> None:
    """All others, twins and baselines included, with turned ones."""
    info = STRATEGIES[strategy]
    makes_its_own = bool(info.recipes) or info.fidelity != "proxy"
    assert begun(problem, strategy) == ("" if makes_its_own else TURNED)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_channels_are_ranked_by_what_they_are_worth(
    criterion: str, trained: tuple[nn.Module, ap.Data], problem: ap.Problem
) -> None:
    """Left to chance, the best directions would go as others do: the given weights are better then."""
    expected = "" if criterion == "random" else TURNED
    assert begun(problem_of(trained, criterion=criterion)) == expected
    assert begun(problem, f"global_ranking:{criterion}") == expected


@pytest.mark.parametrize(
    ("changed", "given", "expected"),
    [
        ({"evaluator": "inherited"}, {}, ""),
        ({"evaluator": "short_training"}, {}, ""),
        ({}, {"prepare": None}, ""),
        ({}, {"prepare": "none"}, ""),
        ({}, {"prepare": ""}, ""),
        ({}, {"prepare": ("rotate", {"n_items": 40})}, {"recipe": "rotate", "settings": {"n_items": 40}}),
        ({}, {"budget": Budget(macs=10**8)}, ""),
        ({}, {"budget": Budget(macs=10**12)}, TURNED),
        ({}, {"budget": Budget(seconds=1)}, TURNED),
        ({"locks": ["stem.0"]}, {}, ""),
        ({"objectives": ("min:distance", "params")}, {}, TURNED),
        ({"evaluation": {**SMALL, "batch_size": 4}}, {}, {"recipe": "rotate", "settings": {"batch_size": 4}}),
    ],
)
def test_where_it_is_done(
    changed: dict[str, Any], given: dict[str, Any], expected: Any, trained: tuple[nn.Module, ap.Data]
) -> None:
    """Where nothing is trained, something can be turned, nobody chose otherwise and the budget is large enough."""
    assert begun(problem_of(trained, **changed), **given) == expected


def test_networks_without_bottlenecks_stay(tmp_path: Path) -> None:
    """There is nothing to turn, and no word of it."""
    data = ap.load_data("digits")
    run = ap.search(ap.Problem(digits_network(), data=data, levels=4, evaluation=SMALL), "random", 2, store=tmp_path)
    assert run.meta.method == "random"
    assert not preparations(run.outcomes)


def test_populations_have_their_start_behind_it(problem: ap.Problem) -> None:
    """The weights are turned first, then the sensitivities are measured, then the population goes on."""
    run = ap.search(problem, "pymoo:nsga2", 14)
    assert run.meta.method == (
        "pymoo:nsga2, weights turned into a better basis first by rotate, warm start from knapsack"
    )
    kinds = [getattr(outcome.job, "fidelity", "made") for outcome in run.outcomes]
    assert kinds == sorted(kinds, key=["made", "probe", "proxy"].index)
    assert (kinds.count("made"), len(kinds)) == (1, 15)
    assert kinds.count("probe") > problem.space.n_variables


def test_a_run_goes_on_as_it_began(problem: ap.Problem, tmp_path: Path) -> None:
    """Turned or not, also of versions that turned nothing unasked: what was measured stays, nothing is turned twice."""
    for prepare in ("none", "rotate"):
        first = ap.search(problem, budget=10, prepare=prepare, store=tmp_path / prepare)
        longer = ap.search(problem, budget=12, store=tmp_path / prepare)
        assert longer.outcomes[: len(first.outcomes)] == first.outcomes
        assert longer.n_evaluations == 12
        assert len(preparations(longer.outcomes)) == (prepare == "rotate")
        assert len({item.job.candidate.weight_set for item in evaluations(longer.outcomes)}) == 1
        assert not [event for event in longer.record.events if event.kind is EventKind.FORK]
    with pytest.raises(InvalidArgumentError, match="searched by knapsack, weights turned into a better basis first by"):
        ap.search(problem, budget=16, prepare=None, store=tmp_path / "rotate")
    with pytest.raises(InvalidArgumentError, match="not knapsack, weights turned into a better basis first by rotate"):
        ap.search(problem, budget=16, prepare="rotate", store=tmp_path / "none")


def test_a_run_without_a_word_of_it_goes_on_without(problem: ap.Problem, tmp_path: Path) -> None:
    """Of versions before preparations: nothing is recorded."""
    first = ap.search(problem, budget=10, prepare=None, store=tmp_path)
    with RunStore(tmp_path, problem=problem.fingerprint) as store:
        settings = {name: value for name, value in first.meta.settings.items() if name != "prepare"}
        store.ledger.update_meta({"settings": settings})
    longer = ap.search(problem, budget=12, store=tmp_path)
    assert (longer.meta.method, longer.n_evaluations) == ("knapsack", 12)
    assert not preparations(longer.outcomes)


def test_behind_a_run_the_weights_are_what_they_were_there(problem: ap.Problem, run: ap.Run) -> None:
    """Candidates of a run with given weights are measured on these again, those of a turned one on turned ones."""
    plain = ap.search(problem, "uniform", 3, prepare=None)
    assert begun(problem, "pymoo:nsga2", warm_start=plain) == ""
    assert begun(problem, "pymoo:nsga2", warm_start=run) == TURNED


def test_an_executor_of_ones_own_is_given_no_job_that_it_may_not_know(problem: ap.Problem, tmp_path: Path) -> None:
    """It may have no recipes: the weights are the given ones."""
    runner = problem.runner(BlobStore(tmp_path / "run" / "weights"))
    run = ap.search(problem, "random", 2, executor=InProcessExecutor(runner), store=tmp_path / "run")
    assert run.meta.method == "random"
    assert all(item.status is Status.OK for item in run.outcomes)


def test_the_model_is_left_alone(trained: tuple[nn.Module, ap.Data]) -> None:
    """One in training mode stays in it, and its BatchNorm statistics are not touched."""
    model = Inverted(channels=8, blocks=1)
    model.load_state_dict(trained[0].state_dict())
    model.train()
    problem = ap.Problem(model, data=trained[1], levels=4, evaluation=SMALL)
    assert begun(problem) == TURNED
    assert model.training
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), trained[0].state_dict().values(), strict=True)
    )


def test_a_structure_on_given_weights_is_the_point_itself(run: ap.Run, problem: ap.Problem, tmp_path: Path) -> None:
    """Turned weights are the given ones in another basis, whose channels mean nothing in the given one.

    So what is cut from the "dense" weights to be trained is cut from the turned ones, also by a run that took them.
    """
    taken = ap.search(problem, "uniform", 2, prepare=run, store=tmp_path / "taken")
    for searched in (run, taken):
        point = searched.front[0]
        assert has_given_weights(point)
        with searched._writing() as store:
            stripped = stripper(searched, [point], store)(point).state_dict()
        own = point.build(polish=True).state_dict()
        assert all(torch.equal(own[name], stripped[name]) for name in own)


def test_training_starts_from_turned_points(run: ap.Run, problem: ap.Problem) -> None:
    """From the point as it is, polished; the trained file gives the figures that are told."""
    point = run.front[len(run.front) // 2]
    tuned = ap.finetune(run, [point], 1, settings=FitSettings(batch_size=64, learning_rate=0.01), progress=False)
    assert measure(tuned[0].build(), problem.data.score, problem.task)["accuracy"] == pytest.approx(
        tuned[0].metrics["accuracy"], abs=1e-6
    )


def test_comparisons_begin_with_the_given_weights(problem: ap.Problem, tmp_path: Path) -> None:
    """All rows alike, whatever a search would choose for one of them; that choice is refused."""
    found = ap.compare(problem, [], 3, seeds=1, test=False, store=tmp_path / "a")
    assert all(not run.meta.settings["prepare"] for run in found.runs.values())
    with pytest.raises(InvalidArgumentError, match="the runs of a comparison all begin with the same weights"):
        ap.compare(problem, [], 3, seeds=1, prepare="auto", store=tmp_path / "c")
