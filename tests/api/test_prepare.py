"""`prepare=` and `warm_start=` from end to end: with every evaluator, resumed, built, saved, refused at the door."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import autoprune as ap
from autoprune.core.jobs import Evaluation, Preparation, Prepare, Status
from autoprune.core.orders import decode_orders
from autoprune.criteria.scoring import order, scores
from autoprune.errors import AutopruneError, BudgetError, InvalidArgumentError
from autoprune.prepare.registry import RECIPES
from autoprune.prepare.statistics import dense_model
from autoprune.report.summarize import summarize
from autoprune.store.ledger import EventKind
from autoprune.strategies import STRATEGIES, StrategyInfo
from autoprune.testing.digits_network import digits_network
from autoprune.train.named_data import load_data
from autoprune.weight_sets import WeightReader, unpack_weights

SPARSIFY = ("sparsify", {"epochs": 1.0, "batch_size": 130, "regularizer": "growing"})

MakeProblem = Callable[..., ap.Problem]


@pytest.fixture(scope="module")
def make_problem() -> MakeProblem:
    """Return what makes a small problem on the digits."""

    def make(**changed: Any) -> ap.Problem:
        evaluation = changed.pop("evaluation", {"n_calibration": 64, "n_validation": 64, "batch_size": 32})
        return ap.Problem(digits_network(), data=load_data("digits"), levels=4, evaluation=evaluation, **changed)

    return make


def weights_of(run: ap.Run) -> set[Any]:
    """Return the sets of weights that the candidates of a run inherit."""
    return {item.job.candidate.weight_set for item in run.outcomes if isinstance(item, Evaluation)}


def made_by(run: ap.Run) -> Preparation:
    """Return the one preparation of a run."""
    (found,) = [item for item in run.outcomes if isinstance(item, Preparation)]
    return found


@pytest.mark.parametrize("evaluator", ["inherited", "reconstructed", "short_training"])
@pytest.mark.parametrize("criterion", ["l2", "obs"])
def test_candidates_inherit_what_was_prepared(
    make_problem: MakeProblem, tmp_path: Path, evaluator: str, criterion: str
) -> None:
    """One job first; its weights, ranked again by the problem's criterion; a saved point gives the recorded figures."""
    small = {"n_calibration": 64, "n_validation": 64, "batch_size": 32}
    extra = {"fit": {"steps": 2, "batch_size": 32}} if evaluator == "short_training" else {}
    problem = make_problem(evaluator=evaluator, criterion=criterion, evaluation=small | extra)
    run = ap.search(problem, "random", 4, prepare=SPARSIFY, store=tmp_path / "run")
    prepared = made_by(run)
    assert prepared.job.id == 0
    assert prepared.weight_set is not None
    (inherited,) = weights_of(run)
    assert inherited.weights == prepared.weight_set.weights
    weights = WeightReader(run.record.weights, problem.structure, "cpu")(inherited)
    assert not torch.equal(weights.weights["conv1.weight"], problem.weights["conv1.weight"])
    if criterion == "l2":
        model = dense_model(problem._setup, weights.weights, torch.device("cpu"))
        expected = order(scores("l2", model, problem.structure))
        found = decode_orders(problem.structure, run.record.weights.get(inherited.order))
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    point = run.pick()
    point.save(tmp_path / "small.autoprune")
    loaded = ap.load(tmp_path / "small.autoprune", model=digits_network(seed=5))
    for model in (point.build(), loaded):
        assert problem.evaluator.measure(model) == dict(point.metrics)


@pytest.mark.parametrize("strategy", ["pymoo:nsga2", "optuna:tpe", "uniform", "global_ranking:l1", "knapsack"])
def test_any_strategy_that_inherits_goes_on(make_problem: MakeProblem, tmp_path: Path, strategy: str) -> None:
    """Populations, models, curves and thresholds all start from the weights that were made."""
    run = ap.search(make_problem(), strategy, 12, prepare=SPARSIFY, store=tmp_path / "run")
    prepared = made_by(run).weight_set
    assert prepared is not None
    assert {weight_set.weights for weight_set in weights_of(run)} == {prepared.weights}
    assert run.n_evaluations > 3


def test_a_preparation_is_charged_and_said(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Multiply-adds of the training are those of the budget; the report names recipe and settings."""
    problem = make_problem()
    run = ap.search(problem, "random", 4, prepare=SPARSIFY, store=tmp_path / "run")
    steps, items = 10, 130
    training = 3 * steps * items * problem.dense_costs["macs"]
    assert made_by(run).spent.macs >= training
    assert "weights prepared by sparsify (batch_size=130, epochs=1.0, regular" in summarize(run.record).meta.method
    assert "weights prepared by sparsify" in Path(run.report().html).read_text()


def test_a_prepared_run_resumes(make_problem: MakeProblem, tmp_path: Path) -> None:
    """In one go and in two it has the same jobs; nothing is prepared twice; another beginning is refused."""
    problem = make_problem()
    whole = ap.search(problem, "pymoo:nsga2", 8, prepare=SPARSIFY, store=tmp_path / "a" / "run")
    ap.search(problem, "pymoo:nsga2", 4, prepare=SPARSIFY, store=tmp_path / "b" / "run")
    both = ap.search(problem, "pymoo:nsga2", 8, prepare=SPARSIFY, store=tmp_path / "b" / "run")
    assert [o.job for o in both.outcomes] == [o.job for o in whole.outcomes]
    assert not [event for event in both.record.events if event.kind is EventKind.FORK]
    assert len([o for o in both.outcomes if isinstance(o.job, Prepare)]) == 1
    for other in (None, ("sparsify", {"epochs": 2.0}), "supernet"):
        with pytest.raises(InvalidArgumentError, match=r"was searched by pymoo:nsga2, weights prepared by sparsify"):
            ap.search(problem, "pymoo:nsga2", 8, prepare=other, store=tmp_path / "b" / "run")


def test_a_supernet_keeps_the_order_it_was_trained_in(make_problem: MakeProblem, tmp_path: Path) -> None:
    """The best channels of every width were trained to be so; a criterion would not know."""
    given = ("supernet", {"epochs": 0.5, "batch_size": 130})
    for strategy in ("random", "global_ranking:l1"):
        run = ap.search(make_problem(), strategy, 4, prepare=given, store=tmp_path / strategy / "run")
        assert weights_of(run) == {made_by(run).weight_set}


def test_clusters_order_the_channels(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Weights stay those of the model; the order is that of the clusters."""
    run = ap.search(make_problem(), "random", 4, prepare=("clusters", {"images": 100}), store=tmp_path / "run")
    assert weights_of(run) == {made_by(run).weight_set}


def test_an_open_length_takes_half_of_the_budget(make_problem: MakeProblem, tmp_path: Path) -> None:
    """A length that was given has to fit, which is said before anything is trained."""
    problem = make_problem()
    budget = ap.Budget(macs=20_000 * problem.dense_costs["macs"])
    run = ap.search(problem, "random", budget, prepare="sparsify", store=tmp_path / "run")
    assert 0.4 < made_by(run).spent.macs / budget.macs <= 0.5
    assert run.spent.macs <= budget.macs
    with pytest.raises(BudgetError, match=r"'sparsify' takes .* MACs, and the budget leaves"):
        ap.search(problem, "random", budget, prepare=("sparsify", {"epochs": 90.0}), store=tmp_path / "long")


def test_a_preparation_that_fails_is_said(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Both attempts are in the record, nothing was measured, and a warning says why."""
    wrong = ("sparsify", {"epochs": 1.0, "learning_rate": 1e30})
    with pytest.warns(UserWarning, match=r"before anything was evaluated.*2 jobs failed, the first with: .*loss"):
        run = ap.search(make_problem(), "random", 4, prepare=wrong, store=tmp_path / "run")
    assert [o.status for o in run.outcomes] == [Status.FAILED] * 2


def test_the_weights_of_an_earlier_run(make_problem: MakeProblem, tmp_path: Path) -> None:
    """The same weights and order, under other limits, another seed and strategy; from the run or from its folder."""
    first = ap.search(make_problem(), "random", 4, prepare=SPARSIFY, store=tmp_path / "first" / "run")
    problem = make_problem(limits={"macs": "60%"}, criterion="l1")
    for i, given in enumerate((first, first.folder, str(first.folder))):
        run = ap.search(problem, "pymoo:nsga2", 4, prepare=given, seed=3, store=tmp_path / str(i) / "run")
        assert weights_of(run) == weights_of(first)
        assert all(not isinstance(outcome.job, Prepare) for outcome in run.outcomes)
        assert "weights of an earlier run" in run.meta.method
        assert problem.evaluator.measure(run.pick().build()) == dict(run.pick().metrics)
    resumed = ap.search(problem, "pymoo:nsga2", 6, prepare=first, seed=3, store=tmp_path / "0" / "run")
    assert resumed.n_evaluations == 6


def test_a_warm_start_from_an_earlier_run(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Its best candidates within the new limits come first, from the cache; another problem measures them again."""
    first = ap.search(make_problem(), "random", 8, store=tmp_path / "first" / "run")
    problem = make_problem(limits={"macs": "60%"})
    run = ap.search(problem, "pymoo:nsga2", 9, warm_start=first, store=tmp_path / "second" / "run")
    measured = [item for item in run.outcomes if isinstance(item, Evaluation)]
    assert len(measured) == 9
    known = {item.genome: item.metrics for item in first.outcomes if isinstance(item, Evaluation)}
    seeds = measured[:3]
    assert any(item.cached for item in seeds)
    for item in seeds:
        assert item.costs["macs"] <= problem.limits["macs"]
        assert item.cached is (item.genome in known)
        if item.cached:
            assert item.metrics == known[item.genome]
    other = make_problem(limits={"macs": "60%"}, evaluation={"n_calibration": 32, "n_validation": 48, "batch_size": 16})
    again = ap.search(other, "pymoo:nsga2", 9, warm_start=first.folder, store=tmp_path / "third" / "run")
    assert not any(item.cached for item in again.outcomes if isinstance(item, Evaluation))
    assert again.outcomes[0].job.candidate.genome == seeds[0].genome
    more = ap.search(problem, "pymoo:nsga2", 10, warm_start=first, store=tmp_path / "second" / "run")
    assert more.n_evaluations == 10
    assert not [event for event in more.record.events if event.kind is EventKind.FORK]
    with pytest.raises(InvalidArgumentError, match="warm start from the run"):
        ap.search(problem, "pymoo:nsga2", 10, store=tmp_path / "second" / "run")


def test_both_together_on_the_weights_of_one_run(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Weights and candidates of one run: all that fits the limits is in the cache."""
    first = ap.search(make_problem(), "random", 12, prepare=SPARSIFY, store=tmp_path / "first" / "run")
    run = ap.search(make_problem(), "pymoo:nsga2", 12, prepare=first, warm_start=first, store=tmp_path / "new" / "run")
    assert all(item.cached for item in run.outcomes[:4] if isinstance(item, Evaluation))


@pytest.mark.parametrize(
    ("strategy", "given", "message"),
    [
        ("random", {"prepare": "sparsfy"}, r"expected prepare= to be a recipe \(.*did you mean 'sparsify'"),
        ("random", {"prepare": 3}, r"expected prepare= to be a recipe"),
        ("random", {"prepare": ("sparsify",)}, "expected prepare= as a name, or as a name and settings such as"),
        ("random", {"prepare": ("sparsify", {"epoch": 1})}, r"unknown setting 'epoch' of the recipe 'sparsify'"),
        ("random", {"prepare": ("sparsify", {"regularizer": "x"})}, "unknown regularizer 'x'"),
        ("random", {"prepare": "dais"}, r"'dais' trains one network for one budget.*strategy='dais'"),
        ("random", {"prepare": "pruningnet"}, r"read by the evaluator 'generated'.*evaluator='generated'"),
        ("pymoo:nsga2", {"warm_start": "knapsak"}, r"expected warm_start= to be the name of.*did you mean 'knapsack'"),
        ("pymoo:nsga2", {"warm_start": ("knapsack", {"fronts": 3})}, "did you mean 'front'"),
        ("pymoo:nsga2+knapsack", {"warm_start": "knapsack"}, "expected one warm start"),
        ("uniform", {"warm_start": "knapsack"}, "has no start to seed"),
    ],
)
def test_what_cannot_be_combined_is_refused_at_the_door(
    make_problem: MakeProblem, tmp_path: Path, strategy: str, given: dict[str, Any], message: str
) -> None:
    """Before a folder is made."""
    with pytest.raises((AutopruneError, ValueError), match=message):
        ap.search(make_problem(), strategy, 4, store=tmp_path / "run", **given)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_another_network_is_refused(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Its weights do not fit, and its candidates mean nothing."""
    first = ap.search(make_problem(), "random", 2, store=tmp_path / "run")
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 20), torch.nn.ReLU(), torch.nn.Linear(20, 10))
    other = ap.Problem(net.eval(), data=load_data("digits"), evaluation={"n_calibration": 32, "n_validation": 32})
    for given in ({"prepare": first}, {"warm_start": first}):
        with pytest.raises(InvalidArgumentError, match="searched another network"):
            ap.search(other, "pymoo:nsga2", 4, store=tmp_path / "new", **given)


def test_pruningnet_with_the_evaluator_that_reads_it(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Generated weights for any strategy."""
    problem = make_problem(evaluator="generated")
    given = ("pruningnet", {"epochs": 0.5, "batch_size": 130, "hidden": 4, "rank": 2})
    run = ap.search(problem, "random", 4, prepare=given, store=tmp_path / "run")
    assert weights_of(run) == {made_by(run).weight_set}
    with pytest.raises(InvalidArgumentError, match="read by the evaluator 'generated'"):
        ap.search(make_problem(), "random", 4, prepare=run, store=tmp_path / "new" / "run")


def test_settings_of_a_criterion_are_part_of_the_problem(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Another order, another fingerprint, said in the report; prepared weights are ranked with them, too."""
    plain, squared = make_problem(criterion="l1"), make_problem(criterion=("l1", {"readers": False}))
    assert plain.fingerprint != squared.fingerprint
    assert make_problem(criterion=("l1", {"readers": True})).fingerprint == plain.fingerprint
    lasso = ("sparsify", {"epochs": 0.5, "batch_size": 130})  # which does not look at the order
    found = [
        ap.search(p, "random", 3, prepare=lasso, store=tmp_path / n / "run") for p, n in ((plain, "a"), (squared, "b"))
    ]
    (first,), (second,) = map(weights_of, found)
    assert first.weights == second.weights
    assert first.order != second.order
    assert found[1].meta.settings["criterion"] == "l1 (readers=false)"
    with pytest.raises(InvalidArgumentError, match=r"unknown setting 'reader' of the criterion 'l1'"):
        make_problem(criterion=("l1", {"reader": False}))
    with pytest.raises(AutopruneError, match="the criterion"):
        ap.search(plain, "random", 3, prepare=lasso, store=tmp_path / "b" / "run")


def test_a_strategy_that_inherits_nothing_is_refused(
    make_problem: MakeProblem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would measure other weights than those that were paid for."""
    info = StrategyInfo("own", "weights of its own", "autoprune.strategies.random:RandomStrategy", inherits=False)
    monkeypatch.setattr(STRATEGIES, "built_in", {**STRATEGIES.built_in, "own": info})
    with pytest.raises(InvalidArgumentError, match="the strategy 'own' inherits none"):
        ap.search(make_problem(), "own", 4, prepare=SPARSIFY, store=tmp_path / "run")


def test_a_criterion_in_the_settings_of_global_ranking_is_ranked(make_problem: MakeProblem, tmp_path: Path) -> None:
    """By its settings as by the suffix of its name."""
    runs = [
        ap.search(make_problem(), name, 4, settings=settings, store=tmp_path / str(i) / "run")
        for i, (name, settings) in enumerate((("global_ranking:l1", None), ("global_ranking", {"criterion": "l1"})))
    ]
    assert [o.job for o in runs[0].outcomes] == [o.job for o in runs[1].outcomes]


def test_sparsity_training_without_labels_learns_from_the_dense_model(tmp_path: Path) -> None:
    """Where there are no labels a recipe that needs them says so, unless all of its loss is distillation."""
    images = load_data("digits").train.source.inputs[:300]
    problem = ap.Problem(digits_network(), data=ap.Data(images), levels=4, evaluation={"n_calibration": 64})
    with pytest.raises(InvalidArgumentError, match=r"the recipe 'sparsify' needs a loss"):
        ap.search(problem, "random", 3, prepare=SPARSIFY, store=tmp_path / "no")
    given = (SPARSIFY[0], {**SPARSIFY[1], "distillation": 1.0, "batch_size": 50})
    run = ap.search(problem, "random", 3, prepare=given, store=tmp_path / "run")
    assert made_by(run).status is Status.OK
    assert run.n_evaluations == 3


@pytest.mark.parametrize("name", [name for name, info in RECIPES.items() if "loss" in info.needs])
def test_nothing_is_trained_where_everything_is_frozen(name: str, tmp_path: Path) -> None:
    """What trains says so before a folder is made; so do the strategies, the evaluator and the calls that train."""
    model = digits_network().requires_grad_(requires_grad=False)
    problem = ap.Problem(model, data=ap.load_data("digits"), name="frozen")
    with pytest.raises(InvalidArgumentError, match="none of its parameters requires gradients"):
        problem.check_recipe(name, {"distillation": 1} if name == "supernet" else {})
    if name == "sparsify":
        for call in (
            lambda: ap.search(problem, "random", 3, prepare=name, store=tmp_path / "run"),
            lambda: ap.search(problem, "slimmable", 3, store=tmp_path / "run"),
            lambda: ap.Problem(model, data=problem.data, evaluator="short_training"),
            lambda: ap.prune(model, problem.data, {"macs": "50%"}, recover="distill", store=tmp_path / "run"),
        ):
            with pytest.raises(InvalidArgumentError, match="none of its parameters requires gradients"):
                call()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("regularizer", "why"), [("bn_l1", "use 'group_lasso'"), ("ffr", "try path='all'")])
def test_a_regularizer_that_finds_nothing_to_push_makes_no_run(regularizer: str, why: str, tmp_path: Path) -> None:
    """It is refused at the door, with what else to take; it was a finished run of failed jobs, with a warning."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval()
    problem = ap.Problem(model, data=ap.load_data("digits"))
    with pytest.raises(InvalidArgumentError, match=why):
        ap.search(problem, "random", 3, prepare=("sparsify", {"regularizer": regularizer}), store=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", ["supernet", "sparsify"])
def test_frozen_layers_stay_as_they_are(recipe: str, tmp_path: Path) -> None:
    """Weights that the user froze are those of the dense model in what a recipe makes, and the others are not."""
    model = digits_network()
    frozen = next(iter(dict(model.named_parameters())))
    dict(model.named_parameters())[frozen].requires_grad_(requires_grad=False)
    problem = ap.Problem(model, data=ap.load_data("digits"), evaluator="inherited")
    run = ap.search(problem, "random", 2, prepare=(recipe, {"epochs": 0.1}), store=tmp_path / "run")
    [made] = weights_of(run)
    weights = run.record.weights.get(made.weights)
    assert weights is not None
    learned, own = unpack_weights(weights), model.state_dict()
    assert torch.equal(learned[frozen], own[frozen])
    assert sum(not torch.equal(learned[name], own[name]) for name in dict(model.named_parameters())) > 1
