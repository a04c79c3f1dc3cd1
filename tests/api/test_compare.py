"""Strategies side by side on real digits: equal budgets, order, resumption, skipped runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import autoprune as ap
from autoprune.api import CompareProgress
from autoprune.api.comparing import aiming
from autoprune.api.stripping import has_given_weights, stripper
from autoprune.core.jobs import Evaluation, Outcome, Prepare
from autoprune.errors import BudgetError, InvalidArgumentError, StoreError, UnknownNameError
from autoprune.strategies.registry import STRATEGIES
from autoprune.surgery.cut import cut
from autoprune.train.named_data import load_data

MakeProblem = Callable[..., ap.Problem]

BUDGET = ap.Budget(macs=2.5e7)
BIG = ap.Budget(macs=2e8)


def identities(comparison: ap.Comparison) -> dict[tuple[str, int], list[Outcome]]:
    """Every outcome without times, and without whether the cache knew it: that depends on who came first."""
    return {
        key: [
            replace(outcome.identity(), cached=False) if isinstance(outcome, Evaluation) else outcome.identity()
            for outcome in run.outcomes
        ]
        for key, run in comparison.runs.items()
    }


def test_a_comparison_from_end_to_end(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Everyone spends at most the budget; the tables have a row per strategy and per run; the page is there."""
    comparison = ap.compare(
        make_problem(),
        ["pymoo:nsga2"],
        BIG,
        seeds=2,
        finetune=ap.FitSettings(steps=2, batch_size=32),
        retrain="dense",
        n_sampled=4,
        store=tmp_path,
    )
    table = comparison.table()
    seeded = {"pymoo:nsga2": 2, "random": 2, "uniform:trained": 2}
    assert dict(table["n"]) == {**seeded, "uniform": 1, "global_ranking": 1, "knapsack:front": 1}
    assert (table["macs_spent"] <= BIG.macs).all()
    assert len(comparison.seeds_table()) == 9
    for kind in ("", "_tuned", "_test", "_tuned_test", "_stripped", "_stripped_test"):
        assert table[f"accuracy{kind}@70%"].between(0, 1).all()
    run = comparison.runs["random", 0]
    point = run.pick(max_macs="50%")
    assert comparison.seeds_table().loc[("random", 0), "accuracy@50%"] == point.metrics["accuracy"]
    assert comparison.seeds_table().loc[("random", 0), "accuracy_test@50%"] == point.test()["accuracy"]
    assert comparison.summary.agreement is not None
    assert len(comparison.summary.agreement.points) == 4
    page = comparison.report()
    assert "Attainment surfaces" in page.read_text(encoding="utf-8")
    assert list(pd.read_csv(page.with_suffix(".csv"), index_col=0).index) == list(table.index)
    for made, frame in (
        ("gains", comparison.gains_table()),
        ("totals", comparison.totals_table()),
        ("differences", comparison.differences_table()),
    ):
        assert len(frame)
        assert len(pd.read_csv(page.with_name(f"compare-{made}.csv"))) == len(frame)
    comparison.to_csv(tmp_path / "table.csv")
    assert len(pd.read_csv(tmp_path / "table.csv")) == 6
    check_gains(comparison)
    check_totals(comparison)


def check_gains(comparison: ap.Comparison) -> None:
    """A search's gain is its structures against uniform's, a weight gain own weights against dense ones; n, test."""
    seeds, gains = comparison.seeds_table(), comparison.gains_table()
    for share in (0.7, 0.5, 0.3):
        stripped, tuned = (seeds[f"accuracy_{name}_test@{100 * share:g}%"] for name in ("stripped", "tuned"))
        for strategy in ("random", "uniform:trained"):
            expected = stripped[strategy].mean() - stripped["uniform"].mean()
            assert gains.loc[(strategy, share, "search"), "mean"] == pytest.approx(expected)
            assert comparison.table().loc[strategy, f"search_gain@{100 * share:g}%"] == pytest.approx(expected)
        of_weights = (tuned - stripped)["uniform:trained"].mean()
        assert gains.loc[("uniform:trained", share, "weights"), "mean"] == pytest.approx(of_weights)
    assert {strategy for strategy, _, of in gains.index if of == "weights"} == {"uniform:trained"}  # who trains
    assert "uniform" not in gains.index.get_level_values(0)
    for table in (gains, comparison.differences_table()):
        assert (table["n"] >= 1).all()
        assert set(table["test"]) == {"none, fewer than 6 seeds"}


def check_totals(comparison: ap.Comparison) -> None:
    """What was charged until k points were trained: the search and each training, three passes over every batch."""
    totals = comparison.totals_table()
    assert list(totals["macs_total"]) == sorted(totals["macs_total"])
    pd.testing.assert_series_equal(
        totals["macs_search"] + totals["macs_training"], totals["macs_total"], check_names=False
    )
    run = comparison.runs["uniform", 0]
    points = {run.pick(max_macs=f"{share}%").id: run.pick(max_macs=f"{share}%") for share in (70, 50, 30)}
    assert totals.loc["uniform", "k"] == len(points)
    assert totals.loc["uniform", "macs_training"] == sum(3 * 2 * 32 * point.costs["macs"] for point in points.values())


@pytest.mark.parametrize("evaluator", ["inherited", "reconstructed"])
def test_a_structure_on_the_dense_weights(evaluator: str, make_problem: MakeProblem, tmp_path: Path) -> None:
    """Of a run that trains nothing it is the point itself; of one that trains, the dense weights in its channels.

    Training from it is the same for both, recorded, and not done twice; reports of the run do not show it as theirs.
    """
    problem = make_problem(evaluator=evaluator)
    untrained = ap.search(problem, "random", 4, store=tmp_path / "random")
    settings = {"epochs": 1.0, "preparation": {"batch_size": 130, "learning_rate": 0.1}}
    trained = ap.search(problem, "slimmable", 4, settings=settings, store=tmp_path / "slimmable")
    point = min(untrained.front, key=lambda item: item.costs["macs"])
    theirs = min(trained.front, key=lambda item: item.costs["macs"])
    assert has_given_weights(point)
    assert not has_given_weights(theirs)
    polish = evaluator == "reconstructed"
    with untrained._writing() as store:
        same_bits(stripper(untrained, [point], store)(point), point.build(polish=polish))
    with trained._writing() as store:
        structure = stripper(trained, [theirs], store)(theirs)
    own = theirs.build()
    assert [p.shape for p in structure.parameters()] == [p.shape for p in own.parameters()]
    kept = theirs.kept
    cut_dense = cut(problem.model, problem.structure, kept, problem.weights)
    first = next(iter(cut_dense.parameters()))  # nobody re-solves what reads the input
    assert torch.equal(next(iter(structure.parameters())), first)
    assert not torch.equal(next(iter(own.parameters())), first)
    if evaluator == "inherited":
        for (name, mine), dense in zip(structure.named_parameters(), cut_dense.parameters(), strict=True):
            assert torch.equal(mine, dense), name
    tuned = ap.finetune(trained, [theirs], settings=ap.FitSettings(), epochs=0.1, weights="dense", progress=False)
    before = tuned[0].file.stat().st_mtime_ns
    again = ap.finetune(trained, [theirs], settings=ap.FitSettings(), epochs=0.1, weights="dense", progress=False)
    assert again[0].file.stat().st_mtime_ns == before
    assert again[0].metrics == tuned[0].metrics
    assert tuned[0].macs > 0
    assert not trained.record.records("finetune")
    others = ap.finetune(trained, [theirs], settings=ap.FitSettings(), epochs=0.1, progress=False)
    assert others[0].file != tuned[0].file
    with pytest.raises(UnknownNameError, match="did you mean 'dense'"):
        ap.finetune(trained, [theirs], weights="dens")


def same_bits(one: nn.Module, other: nn.Module) -> None:
    """Two models have the same parameters and buffers."""
    theirs = other.state_dict()
    assert one.state_dict().keys() == theirs.keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def test_retraining_is_the_same_whoever_was_there(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Own weights first and dense ones later, or both at once: every figure is the same, and nothing is made twice."""
    problem = make_problem()
    tuning = ap.FitSettings(steps=2, batch_size=32)
    common: dict[str, object] = {"seeds": 1, "shares": [0.5], "finetune": tuning, "n_sampled": 0}
    own = ap.compare(problem, ["slimmable"], BIG, store=tmp_path / "a", **common)  # type: ignore[arg-type]
    assert not any("stripped" in name or "gain" in name for name in own.table().columns)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("a/*/models/*")}
    later = ap.compare(problem, ["slimmable"], BIG, retrain="dense", store=tmp_path / "a", **common)  # type: ignore[arg-type]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    at_once = ap.compare(problem, ["slimmable"], BIG, retrain="dense", store=tmp_path / "b", **common)  # type: ignore[arg-type]
    assert identities(later) == identities(at_once)
    for name in ("table", "seeds_table", "gains_table", "totals_table"):
        pd.testing.assert_frame_equal(getattr(later, name)(), getattr(at_once, name)())


def test_the_order_of_the_runs_changes_nothing(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Runs share a cache, and a hit costs what it cost at first: whoever comes first, all figures are the same."""
    problem = make_problem()
    one = ap.compare(problem, ["knapsack", "pymoo:nsga2"], BUDGET, seeds=[0, 1], store=tmp_path / "one")
    other = ap.compare(problem, ["pymoo:nsga2", "knapsack"], BUDGET, seeds=[1, 0], store=tmp_path / "other")
    assert any(outcome.cached for run in one.runs.values() for outcome in run.outcomes)
    mine, theirs = identities(one), identities(other)
    random_ones = [key for key in mine if key[0] not in ("uniform", "global_ranking", "knapsack:front")]
    assert len(random_ones) == 6
    assert all(mine[key] == theirs[key] for key in random_ones)
    assert mine["uniform", 0] == theirs["uniform", 1]
    columns = ["n", "hypervolume", "evaluations", "macs_spent"]
    assert one.table()[columns].sort_index().equals(other.table()[columns].sort_index())


def test_without_a_cache_it_is_the_same(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Runs whose cache was deleted before each of them have the outcomes of runs that shared one."""
    problem = make_problem()
    shared = ap.compare(problem, ["knapsack"], BUDGET, seeds=1, store=tmp_path / "shared")

    def forget(where: CompareProgress) -> None:
        if where.search is None:
            (tmp_path / "alone" / "evaluations.sqlite").unlink(missing_ok=True)

    alone = ap.compare(problem, ["knapsack"], BUDGET, seeds=1, store=tmp_path / "alone", progress=forget)
    assert not any(outcome.cached for run in alone.runs.values() for outcome in run.outcomes)
    assert identities(shared) == identities(alone)


def test_what_is_done_is_not_done_again(make_problem: MakeProblem, tmp_path: Path) -> None:
    """The same call measures and trains nothing; more seeds and another strategy measure only what is theirs."""
    problem = make_problem()
    tuning = ap.FitSettings(steps=2, batch_size=32)
    first = ap.compare(problem, ["random"], BUDGET, seeds=1, finetune=tuning, n_sampled=3, store=tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/models/*")}
    assert kept
    seen: list[CompareProgress] = []
    again = ap.compare(
        problem, ["random"], BUDGET, seeds=1, finetune=tuning, n_sampled=3, store=tmp_path, progress=seen.append
    )
    assert not any(where.search for where in seen)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/models/*")} == kept
    assert again.table().equals(first.table())
    more = ap.compare(problem, ["knapsack"], BUDGET, seeds=2, store=tmp_path, progress=seen.append)
    searched = {(where.entry.strategy, where.entry.seed) for where in seen if where.search and where.entry}
    assert searched == {("knapsack", 0), ("knapsack", 1), ("random", 1)}
    assert identities(more)["random", 0] == identities(first)["random", 0]


def test_a_larger_budget_goes_on_and_a_smaller_one_is_refused(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Runs are continued to the new budget; runs that have spent more than it cannot be compared at it.

    Who plans by its budget has planned for the smaller one, and the page says that it is not compared at its best.
    """
    problem = make_problem()
    first = ap.compare(problem, [], ap.Budget(evaluations=3), seeds=1, store=tmp_path)
    small = identities(first)
    assert not any("Begun with a smaller budget" in text for text in first.summary.warnings)
    large = ap.compare(problem, [], ap.Budget(evaluations=6), seeds=1, store=tmp_path)
    assert identities(large)["random", 0][:3] == small["random", 0]
    assert large.runs["random", 0].n_evaluations == 6
    assert any(text.startswith("Begun with a smaller budget: ") and "random" in text for text in large.summary.warnings)
    with pytest.raises(StoreError, match="more than the budget of this comparison"):
        ap.compare(problem, [], ap.Budget(evaluations=3), seeds=1, store=tmp_path)


def test_who_cannot_run_is_named_and_the_others_go_on(make_problem: MakeProblem, tmp_path: Path) -> None:
    """A budget too small for one strategy refuses that one, with its reason, in the figures and on the page."""
    comparison = ap.compare(make_problem(), ["knapsack"], ap.Budget(evaluations=2), seeds=2, store=tmp_path)
    skipped = {("knapsack", 0), ("knapsack", 1), ("knapsack:front", 0)}
    assert {(item.strategy, item.seed) for item in comparison.skipped} == skipped
    assert "2 evaluations" in comparison.skipped[0].reason
    assert set(comparison.table().index) == {"uniform", "random", "global_ranking"}
    assert "Not runnable" in comparison.report().read_text(encoding="utf-8")


def test_every_run_starts_from_prepared_weights(make_problem: MakeProblem, tmp_path: Path) -> None:
    """A recipe makes them in every run, at its charge; a run hands on its own; a folder of other weights is refused."""
    problem = make_problem()
    recipe = ("sparsify", {"epochs": 0.1, "batch_size": 130})
    few = ap.Budget(evaluations=4)
    made = ap.compare(problem, [], few, seeds=2, prepare=recipe, store=tmp_path / "made")
    assert dict(made.table()["n"]) == dict.fromkeys(("uniform", "random", "global_ranking", "knapsack:front"), 2)
    weights = [item.weight_set.weights for run in made.runs.values() for item in run.outcomes if item.job.id == 0]
    assert len(set(weights)) == 8  # each from a seed of its own
    assert all(trial.prepared for item in made.summary.contestants for trial in item.trials)
    given = ap.compare(problem, [], few, seeds=1, prepare=made.runs["random", 0], store=tmp_path / "given")
    inherited = {item.job.candidate.weight_set.weights for run in given.runs.values() for item in run.outcomes}
    assert inherited == {item.weight_set.weights for item in made.runs["random", 0].outcomes if item.job.id == 0}
    for other in (None, ("sparsify", {"epochs": 0.2}), made.runs["random", 1]):
        with pytest.raises(StoreError, match=r"with weights prepared by sparsify \(batch_size=130, epochs=0.1\), and"):
            ap.compare(problem, [], few, seeds=2, prepare=other, store=tmp_path / "made")


def test_data_without_test_items(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Without test items, and where they are not asked for, there is no test figure, and the page says so."""
    tuning = ap.FitSettings(steps=1)
    untested = ap.compare(
        make_problem(), [], BUDGET, seeds=1, test=False, finetune=tuning, n_sampled=2, store=tmp_path / "untested"
    )
    without = ap.compare(
        make_problem(data=load_data("digits").without_test()), [], BUDGET, seeds=1, store=tmp_path / "b"
    )
    for comparison in (untested, without):
        assert not any("test" in column for column in comparison.table().columns)
        assert any("No point was measured on test images" in warning for warning in comparison.summary.warnings)
    assert not untested.runs["random", 0].record.records("metrics")
    assert all(record["role"] == "val" for record in untested.runs["random", 0].record.records("finetune"))


def test_sweeps_aim_at_the_shares(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Nobody is shown at a share with a network that was made for another size, unless its own sizes are asked for."""
    quick = {"min_epochs": 0.01, "preparation": {"batch_size": 32}}
    comparison = ap.compare(
        make_problem(),
        ["dais", "dsa"],
        BIG,
        seeds=1,
        shares=(0.45, 0.8),
        settings={"dsa": {**quick, "targets": (0.6,)}},
        store=tmp_path,
        progress=False,
    )
    found = {
        key: sorted({job.settings["target"] for outcome in run.outcomes if isinstance(job := outcome.job, Prepare)})
        for (key, _), run in comparison.runs.items()
    }
    assert found["dsa"] == [0.6]
    for key in ("dais", "dais:frozen", "dsa:uniform", "uniform:trained"):
        assert found[key] == pytest.approx([0.45, 0.8], abs=1e-3), key


def test_who_aims_at_shares(make_problem: MakeProblem) -> None:
    """All whose sizes can be said, within the limit, and not below the smallest network.

    Where the budgets of sweeps are in another cost than MACs, shares of these say nothing about them.
    """
    keys = [*STRATEGIES]
    sweeps = {"dais", "dais:frozen", "dsa", "dsa:uniform", "synthesis", "synthesis:uniform", "uniform:trained"}
    limited = make_problem(limits={"macs": "70%"})
    found = aiming(limited, (0.8, 0.45, 1e-6), [*keys, "dais+knapsack"])
    assert set(found) == sweeps | {"knapsack:front", "dais+knapsack"}
    assert all(found[key].targets == pytest.approx([0.7, 0.45], abs=1e-3) for key in {*sweeps, "dais+knapsack"})
    dense = limited.dense_costs["macs"]
    assert [target["macs"] / dense for target in found["knapsack:front"].targets] == pytest.approx(
        [0.7, 0.45], abs=1e-3
    )
    assert set(aiming(make_problem(objectives=("accuracy", "params")), (0.8,), keys)) == {"knapsack:front"}
    assert aiming(make_problem(), (1e-6,), keys) == {}


def test_a_run_of_other_settings_is_not_shown(make_problem: MakeProblem, tmp_path: Path) -> None:
    """The same folder with other settings, or with other shares to aim at, is refused, and with the same it opens."""
    problem = make_problem()
    given = {"knapsack": {"probes": 1}}
    first = ap.compare(problem, ["knapsack"], BIG, seeds=1, settings=given, store=tmp_path)
    with pytest.raises(StoreError, match=r"by knapsack \(probes=1\), and this comparison is of knapsack \(probes=2\)"):
        ap.compare(problem, ["knapsack"], BIG, seeds=1, settings={"knapsack": {"probes": 2}}, store=tmp_path)
    with pytest.raises(StoreError, match=r"and this comparison is of knapsack; choose another folder"):
        ap.compare(problem, ["knapsack"], BIG, seeds=1, store=tmp_path)
    with pytest.raises(StoreError, match=r"searched by knapsack:front \(targets=.* and shares= it had"):
        ap.compare(problem, ["knapsack"], BIG, seeds=1, settings=given, shares=(0.6,), store=tmp_path)
    again = ap.compare(problem, ["knapsack"], BIG, seeds=1, settings=given, store=tmp_path)
    assert identities(again) == identities(first)
    page = again.report().read_text(encoding="utf-8")
    assert "settings of knapsack</" in page
    assert "probes = 1" in page


class CtrlC:
    """Interrupts the first search of a strategy, once."""

    def __init__(self, strategy: str) -> None:
        self.strategy = strategy
        self.is_done = False

    def __call__(self, where: CompareProgress) -> None:
        if where.entry is not None and where.entry.strategy == self.strategy and where.search and not self.is_done:
            self.is_done = True
            raise KeyboardInterrupt


def test_an_interrupted_comparison_says_so_and_goes_on(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Ctrl-C in a search leaves a comparison of what is finished; the same call ends like an undisturbed one."""
    problem = make_problem()
    stop = CtrlC("global_ranking")
    broken = ap.compare(problem, [], BUDGET, seeds=1, store=tmp_path / "broken", progress=stop)
    assert broken.interrupted
    assert set(broken.table().index) == {"uniform", "random"}  # in the order of the roster
    resumed = ap.compare(problem, [], BUDGET, seeds=1, store=tmp_path / "broken")
    whole = ap.compare(problem, [], BUDGET, seeds=1, store=tmp_path / "whole")
    assert not resumed.interrupted
    assert identities(resumed) == identities(whole)


def test_interrupted_before_anything_is_finished(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Where there is nothing to show yet, the interruption passes through."""
    with pytest.raises(KeyboardInterrupt):
        ap.compare(make_problem(), [], BUDGET, seeds=1, store=tmp_path, progress=CtrlC("uniform"))


WRONG: dict[str, tuple[dict[str, object], type[Exception], str]] = {
    "unknown strategy among many": ({"strategies": ["random", "knapsak"]}, UnknownNameError, "did you mean 'knapsack'"),
    "zero seeds": ({"seeds": 0}, InvalidArgumentError, "one seed or more"),
    "a budget in seconds": ({"budget": ap.Budget(seconds=5)}, BudgetError, "seconds depend on the machine"),
    "unknown executor": ({"executor": "spark"}, UnknownNameError, "in-process"),
    "a share of nothing": ({"shares": [0.0]}, InvalidArgumentError, "expected shares"),
    "an unknown recipe": ({"prepare": "sparsfy"}, InvalidArgumentError, "did you mean 'sparsify'"),
    "a network for one budget": ({"prepare": "dsa"}, InvalidArgumentError, "one network for one budget"),
    "nothing to retrain by": ({"retrain": "dense"}, InvalidArgumentError, "expected finetune="),
    "weights that there are not": ({"retrain": "dens"}, UnknownNameError, "did you mean 'dense'"),
    "settings of someone else": ({"settings": {"knapsack": None}}, InvalidArgumentError, "takes no part"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_comparison_is_refused_before_any_work(name: str, make_problem: MakeProblem, tmp_path: Path) -> None:
    """Every mistake has its own error, and no folder was made."""
    changes, error, message = WRONG[name]
    arguments: dict[str, object] = {"strategies": ["random"], "budget": BUDGET, "seeds": 1, **changes}
    with pytest.raises(error, match=message):
        ap.compare(make_problem(), store=tmp_path / "c", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "c").exists()


def test_objectives_that_are_all_counted_cannot_be_compared(make_problem: MakeProblem) -> None:
    """Without a measured objective there is no quality to compare."""
    with pytest.raises(InvalidArgumentError, match="an objective that is measured"):
        ap.compare(make_problem(objectives=("macs", "params")), ["random"], BUDGET)


def test_the_default_budget_counts_macs(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Left out, the budget is that of a hundred evaluations of the dense model."""
    problem = make_problem()
    comparison = ap.compare(problem, [], seeds=1, store=tmp_path)
    assert comparison.summary.budget == ap.Budget(
        macs=100 * problem.evaluator.evaluation_macs(problem.dense_costs["macs"])
    )
