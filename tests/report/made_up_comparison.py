"""Made-up comparisons: runs of plausible shapes under the names of registered strategies, no claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.comparison.plan import Entry
from autoprune.comparison.summarize import summarize, trial
from autoprune.comparison.summary import ComparisonSummary, SampledCandidate, SkippedRun, Trial
from autoprune.core.budget import Budget
from autoprune.store.ledger import Event, EventKind
from autoprune.strategies.registry import find_strategy
from tests.report.made_up import MadeUpRun, make_meta, make_run

STRATEGIES = ("pymoo:nsga2", "optuna:tpe", "knapsack", "uniform", "random", "global_ranking")
SHARES = (0.7, 0.5, 0.3)


def make_trial(entry: Entry, run: MadeUpRun, *, stop: str = "macs", with_points: bool = True) -> Trial:
    """The figures of one run; the points are tested and fine-tuned by adding a little."""
    stopped = Event(EventKind.STOP, text=stop)
    record = replace(run.record, folder=Path("runs/compare", entry.folder), events=[stopped])
    points: dict[float, dict[str, float]] = {}
    for share in SHARES if with_points else ():
        small = [o for o in record.front if o.costs["macs"] <= share * record.meta.dense.costs["macs"]]
        best = max(small, key=lambda o: o.metrics["accuracy"], default=None)
        if best is not None:
            shifts = {"searched": 0.0, "test": -0.01, "tuned": 0.02, "tuned_test": 0.01}
            shifts |= {"stripped": 0.01, "stripped_test": 0.003}
            points[share] = {name: best.metrics["accuracy"] + shift for name, shift in shifts.items()}
    own = entry.strategy != "random"
    return trial(entry, record, points, training=[7 * 10**9] * len(points), has_own_weights=own)


def make_comparison(
    strategies: Sequence[str] = STRATEGIES, n_seeds: int = 3, n: int = 60, budget: Budget | None = None, **changes: Any
) -> ComparisonSummary:
    """A comparison with every part: several seeds, a finite baseline, a refusal, a short fine-tune.

    Args:
        strategies: registered names.
        n_seeds: of every strategy that depends on one.
        n: evaluations of a run.
        budget: of every run; a little more than was spent by default.
        changes: of what the runs say about themselves.
    """
    trials: dict[Entry, Trial] = {}
    for place, key in enumerate(strategies):
        for seed in range(n_seeds if find_strategy(key)[0].is_random else 1):
            run = make_run(n, seed=100 * place + seed, **({"strategy": key, "limits": {}} | changes))
            finite = key == "uniform"
            if finite:
                del run.ran[n // 4 :]
            trials[Entry(key, seed)] = make_trial(Entry(key, seed), run, stop="finished" if finite else "macs")
    rng = np.random.default_rng(0)
    sample = [
        SampledCandidate(
            "random", i % n_seeds, i, 0.2 + 0.04 * i, 0.5 + 0.02 * i, 0.7 + 0.012 * i + 0.02 * rng.standard_normal()
        )
        for i in range(20)
    ]
    reason = "optuna:gp takes at most 20 width variables and 200 evaluations, got 27 and 400"
    return summarize(
        trials,
        make_meta(**({"limits": {}} | changes)),
        folder="runs/compare",
        budget=budget or Budget(macs=max(found.spent.macs for found in trials.values()) * 1.02),
        seeds=range(n_seeds),
        shares=SHARES,
        skipped=[SkippedRun("optuna:gp", 0, reason)],
        sample=sample,
        tuned="1 epoch of sgd, batch 128, learning rate 0.02",
    )
