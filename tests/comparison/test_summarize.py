"""The figures of a comparison, from made-up runs."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace

import numpy as np
import pytest

from autoprune.comparison.plan import Entry
from autoprune.comparison.statistics import Difference
from autoprune.comparison.summarize import agreement, contestants, differences, gains
from autoprune.comparison.summary import SampledCandidate, Trial
from autoprune.comparison.tables import totals_table
from autoprune.core.budget import Budget, Spending
from autoprune.pareto.convergence import Convergence
from autoprune.strategies import registry
from autoprune.strategies.registry import StrategyInfo
from tests.report.made_up import make_rich_run, make_run
from tests.report.made_up_comparison import make_comparison, make_trial


def test_the_largest_mean_comes_first() -> None:
    """Strategies are ranked by the mean over seeds, each of which is there."""
    summary = make_comparison(n_seeds=3)
    means = [float(np.mean(item.hypervolumes)) for item in summary.contestants]
    assert means == sorted(means, reverse=True)
    assert {len(item.trials) for item in summary.contestants if item.is_random} == {3}
    assert {len(item.trials) for item in summary.contestants if not item.is_random} == {1}


def test_preparation_is_counted_apart_and_failures_are_charged() -> None:
    """A trial's spending holds preparations, failed jobs and what was spent before the first one."""
    run = make_rich_run(30, limits={}, prior=Spending(macs=7))
    trial = make_trial(Entry("random", 0), run)
    assert trial.spent.macs == 7 + sum(outcome.spent.macs for outcome in run.ran)
    assert trial.prepared == 7 + 4 * 10**10
    assert trial.evaluations == 31
    assert trial.failed == 1
    assert trial.convergence.macs[-1] == trial.spent.macs


def test_hypervolume_at_a_cost() -> None:
    """Between two steps of a curve the hypervolume is that of the last one; before the first it is 0."""
    curve = Convergence((10, 20), (1, 2), (0.25, 0.5), {})
    assert [curve.after(macs) for macs in (9, 10, 19, 20, 1e9)] == [0.0, 0.25, 0.25, 0.5, 0.5]


def test_differences_are_of_all_seeds() -> None:
    """Two strategies with streams of their own are not paired; one that runs once stands beside every seed."""
    runs = {
        Entry(key, seed): make_trial(Entry(key, seed), make_run(20, seed=10 * i + seed, limits={}))
        for i, key in enumerate(("acp", "random", "uniform"))
        for seed in ((0, 1, 2) if key != "uniform" else (0,))
    }
    found = {(item.first, item.second): item for item in differences(contestants(runs))}
    volume = {entry: trial.hypervolume for entry, trial in runs.items()}
    unpaired = found["acp", "random"]
    assert unpaired.of_first == tuple(volume[Entry("acp", seed)] for seed in range(3))
    assert unpaired.of_second == tuple(volume[Entry("random", seed)] for seed in range(3))
    assert not unpaired.is_paired
    assert found["uniform", "random"].values == tuple(
        volume[Entry("uniform", 0)] - volume[Entry("random", seed)] for seed in range(3)
    )
    assert set(found) == {("acp", "random"), ("uniform", "random")}


def test_a_family_and_its_twin_are_paired_by_seed() -> None:
    """They draw the same random numbers; the figures of the seeds that both have belong together."""
    runs = {
        Entry(key, seed): make_trial(Entry(key, seed), make_run(20, seed=10 * i + seed, limits={}))
        for i, (key, seeds) in enumerate({"dais": (0, 1, 2), "dais:frozen": (2, 1)}.items())
        for seed in seeds
    }
    (found,) = differences(contestants(runs))
    volume = {entry: trial.hypervolume for entry, trial in runs.items()}
    assert found.is_paired
    assert found.values == tuple(volume[Entry("dais", s)] - volume[Entry("dais:frozen", s)] for s in (1, 2))


def test_a_family_is_compared_with_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The difference is family minus twin, and the twin knows whose twin it is."""
    info = StrategyInfo("mine:off", "mine", "autoprune.strategies.random:RandomStrategy", twin_of="knapsack")
    monkeypatch.setattr(registry, "MINE", info, raising=False)
    point = importlib.metadata.EntryPoint("mine:off", "autoprune.strategies.registry:MINE", registry.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [point] if group == point.group else [])
    summary = make_comparison(("knapsack", "mine:off", "random"))
    twin = summary.contestant("mine:off")
    assert twin is not None
    assert twin.twin_of == "knapsack"
    (found,) = (item for item in summary.differences if item.second == "mine:off")
    assert found.first == "knapsack"


def test_agreement_knows_pairs_of_equal_cost() -> None:
    """Candidates that differ only in size agree over all pairs, and say nothing about equal sizes."""
    sample = [SampledCandidate("random", 0, i, cost=0.2 * i, before=0.2 * i, after=0.1 * i) for i in range(5)]
    spread = agreement(sample)
    assert (spread.tau, spread.tau_near, spread.n_near) == (1.0, None, 0)
    swapped = [*sample, SampledCandidate("random", 0, 9, cost=0.41, before=0.39, after=0.9)]
    assert agreement(swapped).n_near == 1
    assert agreement(swapped).tau_near == -1.0


def test_agreement_compares_only_what_inherits_the_same_weights() -> None:
    """Better weights for the larger half would look like agreement; within each set the ranks are reversed."""
    sample = [
        SampledCandidate(
            "random", 0, i, cost=0.2 * i, before=1.0 * (i > 2) - 0.1 * i, after=1.0 * (i > 2) + 0.1 * i, weights=w
        )
        for i, w in enumerate("aaabbb")
    ]
    assert agreement(sample).tau == -1.0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"held_out": False}, "Not held out"),
        ({"held_out": True}, "no difference is called significant"),
    ],
)
def test_warnings_say_what_limits_the_figures(changes: dict[str, object], text: str) -> None:
    """Weights that saw the validation images and too few seeds are said first."""
    assert any(text in warning for warning in make_comparison(("random",), n=5, **changes).warnings)


def test_a_budget_of_evaluations_is_said_to_leave_out_preparation() -> None:
    """Equal evaluations are not equal cost."""
    summary = make_comparison(("random",), n=5, budget=Budget(evaluations=5))
    assert any("counts evaluations" in warning for warning in summary.warnings)


def test_verdicts_need_six_seeds() -> None:
    """With six seeds the summary dares a verdict."""
    summary = make_comparison(("knapsack", "random"), n_seeds=6, n=10)
    verdicts = {item.verdict for item in summary.differences}
    assert all("too few seeds for" in verdict or "significant" in verdict for verdict in verdicts)
    assert all(isinstance(item, Difference) for item in summary.differences)


def made_up(strategy: str, stripped: list[float], own: list[float] | None = None) -> dict[Entry, Trial]:
    """Return trials of a strategy whose point within 50 % reaches these test figures after the fine-tune.

    Args:
        strategy: its key.
        stripped: from the dense weights, one per seed.
        own: from its own weights; None for a strategy that trains nothing.
    """
    return {
        Entry(strategy, seed): replace(
            make_trial(Entry(strategy, seed), make_run(20, seed=seed, limits={}), with_points=False),
            points={0.5: {"tuned_test": (own or stripped)[seed], "stripped_test": figure}},
            has_own_weights=own is not None,
        )
        for seed, figure in enumerate(stripped)
    }


def test_search_and_weights_are_worth_something_apart() -> None:
    """The structure against uniform's on the same dense weights; own weights against dense ones, paired by seed.

    What a strategy delivers is the sum of both beyond uniform; who trains nothing has no gain of weights, and uniform
    none of a search.
    """
    stripped, own = [0.80, 0.82, 0.81, 0.79, 0.83, 0.80], [0.85, 0.86, 0.87, 0.84, 0.86, 0.85]
    trials = {**made_up("dais", stripped, own), **made_up("random", [0.75] * 6), **made_up("uniform", [0.74])}
    found = {(item.strategy, item.of): item.difference for item in gains(contestants(trials), [0.7, 0.5])}
    assert set(found) == {("dais", "search"), ("dais", "weights"), ("random", "search")}
    search, weights = found["dais", "search"], found["dais", "weights"]
    assert search.mean == pytest.approx(np.mean(stripped) - 0.74)
    assert weights.mean == pytest.approx(np.mean(own) - np.mean(stripped))
    assert search.mean + weights.mean == pytest.approx(np.mean(own) - 0.74)
    assert (search.n, weights.n) == (6, 6)
    assert search.test_used == "one-sample permutation test, Holm"
    assert weights.test_used == "paired permutation test, Holm"
    assert weights.values == pytest.approx([a - b for a, b in zip(own, stripped, strict=True)])
    assert weights.adjusted_p == pytest.approx(2 / 64)  # the only test of weights: all six signs agree
    assert search.adjusted_p == pytest.approx(4 / 64)  # one of two tests of searches


def test_a_gain_needs_the_structures_of_both() -> None:
    """Without retraining there is no gain; a share that uniform does not reach has none of a search."""
    trials = {**made_up("dais", [0.8, 0.8], [0.9, 0.9]), **made_up("uniform", [0.7])}
    bare = {entry: replace(trial, points={0.5: {"tuned_test": 0.5}}) for entry, trial in trials.items()}
    assert gains(contestants(bare), [0.5]) == ()
    without = {entry: trial for entry, trial in trials.items() if entry.strategy != "uniform"}
    assert {item.of for item in gains(contestants(without), [0.5])} == {"weights"}


def test_total_cost_is_search_and_training() -> None:
    """Strategies are listed by all that was charged until their points have their weights; n and k stand beside it."""
    table = totals_table(make_comparison(n_seeds=2))
    assert list(table["macs_total"]) == sorted(table["macs_total"])
    assert (table["macs_total"] == table["macs_search"] + table["macs_training"]).all()
    assert (table["macs_training"] == 7e9 * table["k"]).all()
    assert table.loc["random", "n"] == 2
