"""The points of a comparison: which ones stand for a run, and what they are worth after a short fine-tune."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.api.finetuning import TunedPoint, finetune
from autoprune.api.point import RunPoint
from autoprune.api.run import Run
from autoprune.api.stripping import has_given_weights
from autoprune.comparison.plan import Entry
from autoprune.comparison.summary import SampledCandidate
from autoprune.core.streams import stream
from autoprune.errors import InfeasibleError
from autoprune.execute.settings import RaySettings
from autoprune.pareto.front import successful_evaluations
from autoprune.train.settings import FitSettings

Runs = Mapping[Entry, Run]
Points = Mapping[Entry, Sequence[RunPoint]]
Picks = Mapping[Entry, Mapping[float, RunPoint | None]]


@dataclass(frozen=True, eq=False)
class ShortFinetune:
    """The same short training for every point that is compared; figures that a run has already are not made again.

    Attributes:
        settings: settings of the training.
        executor: executor that runs the trainings.
        tell: called with how many points are done and how many there are.
    """

    settings: FitSettings
    executor: str | RaySettings | None
    tell: Callable[[int, int], None]

    def __call__(
        self, runs: Runs, points: Points, *, test: bool, weights: str = "own"
    ) -> dict[tuple[Entry, int], TunedPoint]:
        """Return the trained points by run and job id.

        Args:
            runs: the runs that the points come from.
            points: the points to train, for each run.
            test: whether to look at test items.
            weights: weights that the training starts from, see `finetune`.
        """
        found: dict[tuple[Entry, int], TunedPoint] = {}
        n, done = sum(map(len, points.values())), 0
        for entry, chosen in points.items():
            self.tell(done, n)
            if chosen:
                tuned = finetune(
                    runs[entry],
                    chosen,
                    self.settings.epochs,
                    settings=self.settings,
                    weights=weights,
                    executor=self.executor,
                    test=test,
                    progress=False,  # the bar is the comparison's
                )
                found |= {(entry, point.id): point for point in tuned}
            done += len(chosen)
        self.tell(done, n)
        return found


def retrained_structures(
    tuner: ShortFinetune, runs: Runs, points: Points, tuned: Mapping[tuple[Entry, int], TunedPoint], *, test: bool
) -> dict[tuple[Entry, int], TunedPoint]:
    """Return the structures of points on the dense weights, trained as the points were.

    Where a point inherits the dense weights anyway, its structure on them is the point itself, and is not trained
    twice.

    Args:
        tuner: the training.
        runs: the runs that the points come from.
        points: the points, for each run.
        tuned: the points after the training, tested if ``test``.
        test: whether to look at test items.
    """
    others = {entry: [point for point in chosen if not has_given_weights(point)] for entry, chosen in points.items()}
    trained = tuner(runs, {entry: chosen for entry, chosen in others.items() if chosen}, test=test, weights="dense")
    return {**tuned, **trained}


def pick_points(runs: Runs, shares: Sequence[float]) -> dict[Entry, dict[float, RunPoint | None]]:
    """Return the best point of every run within each share of the dense model's MACs, by what the search measured."""
    return {entry: {share: _pick(run, share) for share in shares} for entry, run in runs.items()}


def distinct_points(picks: Picks) -> dict[Entry, list[RunPoint]]:
    """Return the points that were picked, those of several shares once."""
    return {
        entry: list({point.id: point for point in chosen.values() if point is not None}.values())
        for entry, chosen in picks.items()
    }


def draw_points(runs: Runs, n: int) -> dict[Entry, list[RunPoint]]:
    """Draw ``n`` different candidates that inherit the same weights, spread over cost, good ones and bad ones.

    They are of all runs that inherit those weights which most candidates have; fewer if there are.
    """
    pools: dict[object, dict[object, tuple[Entry, RunPoint]]] = {}
    for entry, run in runs.items():
        for outcome in successful_evaluations(run.outcomes, fidelity=run.meta.fidelity):
            pool = pools.setdefault((outcome.job.candidate.weight_set, outcome.job.fidelity), {})
            pool.setdefault(outcome.genome, (entry, RunPoint(run, outcome)))
    largest = max(pools.values(), key=len, default={})
    by_cost = sorted(largest.values(), key=lambda item: item[1].costs["macs"])
    rng = stream(0, "compared points")
    drawn: dict[Entry, list[RunPoint]] = {}
    edges = np.linspace(0, len(by_cost), min(n, len(by_cost)) + 1).astype(np.int64)
    for first, end in itertools.pairwise(edges.tolist()):
        entry, point = by_cost[int(rng.integers(first, end))]
        drawn.setdefault(entry, []).append(point)
    return drawn


def share_points(
    picks: Picks,
    quality: str,
    *,
    tuned: Mapping[tuple[Entry, int], TunedPoint],
    tested: Mapping[tuple[Entry, int], Mapping[str, float]],
    stripped: Mapping[tuple[Entry, int], TunedPoint] | None = None,
) -> dict[Entry, dict[float, dict[str, float]]]:
    """Return the figures of the points that were picked, see `autoprune.comparison.summary.Trial`.

    Args:
        picks: per run and share of the MACs.
        quality: the metric that is compared.
        tuned: after the short fine-tune, where there was one.
        tested: their metrics on test items, where they were looked at.
        stripped: their structures on the dense weights after the same fine-tune, where there was one.
    """

    def figures(entry: Entry, point: RunPoint | None) -> dict[str, float]:
        if point is None:
            return {}
        found = {"searched": point.metrics[quality]}
        if (entry, point.id) in tested:
            found["test"] = tested[entry, point.id][quality]
        for name, known in (("tuned", tuned), ("stripped", stripped or {})):
            if (trained := known.get((entry, point.id))) is not None:
                found[name] = trained.metrics[quality]
                if quality in trained.test_metrics:
                    found[f"{name}_test"] = trained.test_metrics[quality]
        return found

    return {entry: {share: figures(entry, point) for share, point in chosen.items()} for entry, chosen in picks.items()}


def sampled_candidates(
    points: Points, tuned: Mapping[tuple[Entry, int], TunedPoint], quality: str, cost: str
) -> list[SampledCandidate]:
    """Return the drawn candidates before and after the short fine-tune, with their share of the dense ``cost``."""
    return [
        SampledCandidate(
            entry.strategy,
            entry.seed,
            point.id,
            point.costs[cost] / point.run.dense[cost],
            point.metrics[quality],
            tuned[entry, point.id].metrics[quality],
            _weights(point),
        )
        for entry, chosen in points.items()
        for point in chosen
    ]


def _weights(point: RunPoint) -> str:
    """Return the name of what a point inherits."""
    inherits = point.outcome.job.candidate.weight_set
    return f"{inherits.weights} {inherits.order}"


def _pick(run: Run, share: float) -> RunPoint | None:
    if not len(run.front):
        return None
    try:
        return run.pick(max_macs=f"{100 * share:g}%")
    except InfeasibleError:
        return None
