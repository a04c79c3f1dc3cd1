"""From the runs of a comparison to its `ComparisonSummary`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from autoprune.comparison.plan import BASELINES, Entry, controls_of
from autoprune.comparison.statistics import MIN_SEEDS, Difference, judged
from autoprune.comparison.summary import (
    Agreement,
    ComparisonSummary,
    Contestant,
    Gain,
    SampledCandidate,
    SkippedRun,
    Trial,
)
from autoprune.core.budget import Budget
from autoprune.core.jobs import Status, evaluations
from autoprune.orchestrator import Stop
from autoprune.pareto.rank_correlation import kendall_tau
from autoprune.store.meta import RunMeta
from autoprune.store.record import RunRecord
from autoprune.strategies.registry import find_strategy
from autoprune.strategies.warm_start import split_key

NEAR = 0.1
"""Candidates whose costs differ by less than this share of the dense model count as equally large."""


def trial(
    entry: Entry,
    record: RunRecord,
    points: Mapping[float, Mapping[str, float]],
    *,
    training: Sequence[int] = (),
    has_own_weights: bool = False,
) -> Trial:
    """Return the figures of one finished run.

    Args:
        entry: the entry of the run.
        record: everything that the run recorded, with the reference point of the comparison.
        points: figures of its best point per share of the MACs, see `Trial`.
        training: multiply-adds of each of the fine-tunings of these points.
        has_own_weights: whether one of these points inherits other weights than the dense model's.
    """
    prepared = record.spent.macs - sum(outcome.spent.macs for outcome in evaluations(record.outcomes))
    return Trial(
        seed=entry.seed,
        folder=str(record.folder),
        fidelity=record.meta.fidelity,
        convergence=record.convergence,
        front=record.front.values,
        evaluations=record.n_evaluations,
        failed=sum(outcome.status is Status.FAILED for outcome in record.outcomes),
        spent=record.spent,
        prepared=prepared,
        space_exhausted=record.stop == Stop.FINISHED,
        points=points,
        n_trained=len(training),
        training=sum(training),
        has_own_weights=has_own_weights,
        settings=record.meta.strategy_settings or {},
        planned=(record.meta.settings.get("planned_macs"), record.meta.settings.get("planned_evaluations")),
    )


def contestants(trials: Mapping[Entry, Trial], *, is_trained: bool = False) -> tuple[Contestant, ...]:
    """Gather the runs of every strategy, the largest mean hypervolume first.

    Args:
        trials: the runs.
        is_trained: whether every run first made weights by a recipe, from its seed.
    """
    by_strategy: dict[str, list[Trial]] = {}
    for entry, found in trials.items():
        by_strategy.setdefault(entry.strategy, []).append(found)
    family = {twin: key for key in by_strategy for twin in controls_of(key)}
    everyone = [
        Contestant(
            strategy=key,
            twin_of=family.get(key, ""),
            is_baseline=key in BASELINES,
            is_random=is_trained or find_strategy(split_key(key)[0])[0].is_random,
            trials=tuple(sorted(found, key=lambda item: item.seed)),
        )
        for key, found in by_strategy.items()
    ]
    return tuple(sorted(everyone, key=lambda item: -item.mean))


def differences(everyone: Sequence[Contestant]) -> tuple[Difference, ...]:
    """Return every strategy against ``random``, and every family against its twins, tested together.

    A family and its twin draw the same random numbers from a seed, so that they are paired by it; others are not.
    """
    known = {item.strategy: item for item in everyone}
    pairs = [(item, known["random"]) for item in everyone if item.strategy != "random" and "random" in known]
    pairs += [(known[item.twin_of], item) for item in everyone if item.twin_of in known]
    return judged([_difference(first, second) for first, second in pairs])


def gains(everyone: Sequence[Contestant], shares: Sequence[float]) -> tuple[Gain, ...]:
    """Return what searches and what trained weights are worth, apart, on test items where these were looked at.

    A search: the strategy's structures on the dense weights against ``uniform``'s, all after the same fine-tune.
    Weights: a run's points as delivered against the same structures on the dense weights, after it; paired by seed, and
    not of strategies that train nothing. The p-values of each of the two are adjusted for all strategies and shares.
    """
    uniform = next((item for item in everyone if item.strategy == "uniform"), None)
    suffix = "_test" if any(item.at(share, "stripped_test") for item in everyone for share in shares) else ""
    found: list[tuple[str, float, str, Difference]] = []
    for item in everyone:
        for share in shares:
            stripped = item.by_seed(share, f"stripped{suffix}")
            theirs = {} if uniform is None or item is uniform else uniform.by_seed(share, f"stripped{suffix}")
            if stripped and theirs and uniform is not None:
                is_fixed = not (item.is_random and uniform.is_random)
                sides = tuple(stripped.values()), tuple(theirs.values())
                found.append(
                    (item.strategy, share, "search", Difference(item.strategy, "uniform", *sides, is_fixed=is_fixed))
                )
            tuned = item.by_seed(share, f"tuned{suffix}")
            both = sorted(tuned.keys() & stripped.keys())
            if both and any(found.has_own_weights for found in item.trials):
                sides = tuple(tuned[seed] for seed in both), tuple(stripped[seed] for seed in both)
                found.append(
                    (
                        item.strategy,
                        share,
                        "weights",
                        Difference("as delivered", "from dense weights", *sides, is_paired=True),
                    )
                )
    kinds = dict.fromkeys(of for *_, of, _ in found)
    known = {of: iter(judged([difference for *_, kind, difference in found if kind == of])) for of in kinds}
    return tuple(Gain(strategy, share, of, next(known[of])) for strategy, share, of, _ in found)


def agreement(sample: Sequence[SampledCandidate]) -> Agreement:
    """Return how far the ranks before and after fine-tuning agree."""
    before, after = [item.before for item in sample], [item.after for item in sample]
    cost = np.array([item.cost for item in sample])
    weights = np.array([item.weights for item in sample])
    alike = weights[:, None] == weights[None, :]
    near = alike & (np.abs(cost[:, None] - cost[None, :]) < NEAR)
    return Agreement(
        points=tuple(sample),
        tau=kendall_tau(before, after, among=alike),
        tau_near=kendall_tau(before, after, among=near),
        n_near=int(np.triu(near, k=1).sum()),
    )


def summarize(
    trials: Mapping[Entry, Trial],
    meta: RunMeta,
    *,
    folder: str,
    budget: Budget,
    seeds: Sequence[int],
    shares: Sequence[float],
    skipped: Iterable[SkippedRun],
    sample: Sequence[SampledCandidate] | None,
    tuned: str,
) -> ComparisonSummary:
    """Compute everything that a comparison says.

    Args:
        trials: its runs.
        meta: description of one of the runs.
        folder: folder of the run.
        budget: budget of every run.
        seeds: number of seeds of every strategy that depends on one.
        shares: shares of the MACs at which points are compared.
        skipped: runs that there are not.
        sample: candidates that were fine-tuned to compare ranks; None without a fine-tune.
        tuned: the short fine-tune in words.
    """
    prepare = meta.settings.get("prepare", "")
    everyone = contestants(trials, is_trained="recipe" in prepare)
    summary = ComparisonSummary(
        meta=meta,
        folder=folder,
        objectives=meta.parsed_objectives,
        budget=budget,
        seeds=tuple(seeds),
        shares=tuple(sorted(shares, reverse=True)),
        contestants=everyone,
        differences=differences(everyone),
        agreement=None if sample is None else agreement(sample),
        tuned=tuned,
        skipped=tuple(skipped),
        gains=gains(everyone, sorted(shares, reverse=True)),
    )
    return replace(summary, warnings=tuple(_warnings(summary)))


def _difference(first: Contestant, second: Contestant) -> Difference:
    """Return how two strategies differ; a family and its twin by the seeds that both have."""
    one = {item.seed: item.hypervolume for item in first.trials}
    two = {item.seed: item.hypervolume for item in second.trials}
    both = sorted(one.keys() & two.keys())
    if second.twin_of == first.strategy and first.is_random and second.is_random and both:
        sides = [tuple(side[seed] for seed in both) for side in (one, two)]
        return Difference(first.strategy, second.strategy, sides[0], sides[1], is_paired=True)
    fixed = not (first.is_random and second.is_random)
    return Difference(first.strategy, second.strategy, first.hypervolumes, second.hypervolumes, is_fixed=fixed)


def _warnings(summary: ComparisonSummary) -> Iterable[str]:
    if summary.skipped:
        names = ", ".join(dict.fromkeys(item.strategy for item in summary.skipped))
        yield f"Not everyone could run: {names}; the reasons are below."
    if summary.budget.macs is None:
        yield (
            "The budget counts evaluations, not multiply-adds: what preparation costs, and that small candidates cost "
            "less than large ones, is not part of it."
        )
    if len(summary.seeds) < MIN_SEEDS:
        yield (
            f"{_plural(len(summary.seeds), 'seed')}: no difference is called significant with fewer than {MIN_SEEDS}, "
            "whatever it looks like."
        )
    most = (summary.budget.macs, summary.budget.evaluations)
    begun = [item for item in summary.contestants if any(_began_smaller(found, most) for found in item.trials)]
    if begun:
        names = ", ".join(item.strategy for item in begun)
        yield (
            f"Begun with a smaller budget: {names}. Lengths of trainings, sizes of populations, numbers of probes are "
            "as planned then, so this budget serves some better than others; in another folder all plan for it."
        )
    fidelities = {found.fidelity for item in summary.contestants for found in item.trials}
    if len(fidelities) > 1:
        yield (
            f"The fronts were measured at several fidelities ({', '.join(sorted(fidelities))}): hypervolumes compare "
            "what each of them says; the test accuracies compare models."
        )
    if not summary.meta.held_out:
        yield (
            "Not held out: the given weights were trained on the search-validation images, so figures on them rank "
            "models but do not predict their quality."
        )
    if not any(item.at(share, "test") for item in summary.contestants for share in summary.shares):
        yield "No point was measured on test images."
    failed = {item.strategy: sum(found.failed for found in item.trials) for item in summary.contestants}
    if any(failed.values()):
        yield "Jobs failed: " + ", ".join(f"{n} of {name}" for name, n in failed.items() if n) + "."


def _began_smaller(found: Trial, most: Sequence[float | None]) -> bool:
    """Say whether a run that still had something to propose planned for less than the budget."""
    pairs = zip(found.planned, most, strict=True)
    return not found.space_exhausted and any(p is not None and m is not None and p < m for p, m in pairs)


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
