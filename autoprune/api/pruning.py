"""`prune`: from a model and limits to smaller models, in one call."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from torch import nn

from autoprune.api.point import RunPoint
from autoprune.api.problem import Problem
from autoprune.api.progress import Given, check_progress, prune_progress
from autoprune.api.recovering import train_to_imitate
from autoprune.api.run import Run
from autoprune.api.searching import search
from autoprune.api.timing import time_in_turns
from autoprune.api.turning import has_streams
from autoprune.core.budget import Budget
from autoprune.core.jobs import PROBE, Status, evaluations
from autoprune.core.space import SearchSpace
from autoprune.cost.counter import count_peak_bytes
from autoprune.errors import InfeasibleError, InvalidArgumentError, MetricError, TraceError, shown, unknown_name, warn
from autoprune.evaluate.distance import DISTANCE
from autoprune.evaluate.evaluator import FEWEST_AT_ONCE
from autoprune.evaluate.reconstructed import ReconstructedSettings
from autoprune.latency.library import Wanted
from autoprune.latency.settings import LatencySettings
from autoprune.report.document import card
from autoprune.report.units import amount, title
from autoprune.store.meta import ROTATE
from autoprune.strategies.warm_start import USUAL
from autoprune.trace import AttentionCut
from autoprune.train.brought_tasks import FunctionTask
from autoprune.train.data import Data
from autoprune.train.door import check_learns, check_minutes, check_model
from autoprune.train.loop import Progress
from autoprune.train.tasks import Task

PROBES, FEWEST, MOST = 120, 4, 9
"""Probes of all variables together, but no fewer nor more levels of each than these: 9 are all that there are."""

ROOM = 2**26
"""Bytes of activations of the items that run at once: large images go faster few at a time (docs/reconstruction.md)."""

N_VALIDATION = 2000
"""Search-validation items that candidates and results are measured on, where there are so many."""

RECOVERIES = ("distill",)
"""Ways to train a polished model: to answer as the dense model does."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """A smaller model, its figures, and those of the dense model.

    Attributes:
        model: the smaller model: of the dense model's class with smaller tensors, in evaluation mode.
        point: the candidate of the search that it was built from.
        before: the dense model's metrics on the search-validation items.
        after: the same of ``model``.
        share: its costs as shares of the dense model's.
        speedup: how many times faster a forward pass is on this machine, lowest and highest likely value: of one item
            on one thread, or as latency is predicted for where it is.
        steps: metrics after each step that was taken: ``"cut"``, ``"polished"``, ``"recovered"``.
        seconds: how long the call took, with what it did for other limits.
    """

    model: nn.Module
    point: RunPoint
    before: Mapping[str, float]
    after: Mapping[str, float]
    share: Mapping[str, float]
    speedup: tuple[float, float, float]
    steps: Mapping[str, Mapping[str, float]]
    seconds: float

    @property
    def summary(self) -> str:
        """One line: the share of the costs that is left, the primary metric before and after, and the speed-up."""
        costs = ", ".join(f"{100 * share:.0f} % of the {title(name)}" for name, share in self.share.items())
        name, run = next(iter(self.after)), self.point.run
        meta = run.meta
        after, before = (amount(name, metrics[name], meta.rates) for metrics in (self.after, self.before))
        figures = f"{title(name)} {after} (dense {before})"
        middle, low, high = self.speedup
        faster = "no faster" if low <= 1 else f"{middle:.2f}x faster"
        items = " on held-out items" if meta.held_out else " on search-validation items, which are not held out"
        if run.problem is not None and isinstance(run.problem.task, FunctionTask):
            items = ""  # a function of the model brings its own items: what they are is not ours to say
        return f"{costs}; {figures}{items}; {faster} on this machine [{low:.2f}, {high:.2f}]"

    def save(self, path: str | Path) -> None:
        """Write the smaller model to one file that `autoprune.load` reads.

        Raises:
            ArtifactError: the file cannot be written.
        """
        self.point.save(path, self.model)

    def _repr_html_(self) -> str:
        """Return the summary and the metrics after each step, for a notebook."""
        rates = self.point.run.meta.rates
        steps = {"dense": self.before, **self.steps}
        rows = [
            [step, *(amount(name, found[name], rates) if name in found else "" for name in self.before)]
            for step, found in steps.items()
        ]
        return card("Pruned model", [self.summary], ["after", *map(title, self.before)], rows)

    def __repr__(self) -> str:
        """Say the summary."""
        return f"Pruned({self.summary})"


@dataclass(frozen=True)
class PruneProgress:
    """Where `prune` stands.

    Attributes:
        stage: ``"measuring"`` (probes, then candidates), ``"polishing"``, ``"recovering"``.
        done: probes and candidates, models, or training steps that are done.
        total: number of steps in all.
    """

    stage: str
    done: int
    total: int


@overload
def prune(
    model: nn.Module,
    data: Data,
    limits: Mapping[str, str | float],
    *,
    example_input: Any = None,
    task: Task | None = None,
    score: Callable[[nn.Module], float] | None = None,
    recover: str | None = None,
    minutes: float = 1.0,
    widths: Mapping[str, Sequence[int | float]] | None = None,
    divisor: int = 1,
    min_width: int = 1,
    min_keep_ratio: float = 0.1,
    drop_blocks: bool = False,
    rotate: bool | None = None,
    locks: Sequence[str] = (),
    ties: Sequence[str | Sequence[str]] = (),
    latency: Wanted = None,
    outputs: Sequence[str] = (),
    attention: AttentionCut = "heads",
    store: str | Path | None = None,
    seed: int = 0,
    progress: Given[PruneProgress] = None,
) -> Pruned: ...


@overload
def prune(
    model: nn.Module,
    data: Data,
    limits: Sequence[Mapping[str, str | float]],
    *,
    example_input: Any = None,
    task: Task | None = None,
    score: Callable[[nn.Module], float] | None = None,
    recover: str | None = None,
    minutes: float = 1.0,
    widths: Mapping[str, Sequence[int | float]] | None = None,
    divisor: int = 1,
    min_width: int = 1,
    min_keep_ratio: float = 0.1,
    drop_blocks: bool = False,
    rotate: bool | None = None,
    locks: Sequence[str] = (),
    ties: Sequence[str | Sequence[str]] = (),
    latency: Wanted = None,
    outputs: Sequence[str] = (),
    attention: AttentionCut = "heads",
    store: str | Path | None = None,
    seed: int = 0,
    progress: Given[PruneProgress] = None,
) -> list[Pruned]: ...


def prune(
    model: nn.Module,
    data: Data,
    limits: Mapping[str, str | float] | Sequence[Mapping[str, str | float]],
    *,
    example_input: Any = None,
    task: Task | None = None,
    score: Callable[[nn.Module], float] | None = None,
    recover: str | None = None,
    minutes: float = 1.0,
    widths: Mapping[str, Sequence[int | float]] | None = None,
    divisor: int = 1,
    min_width: int = 1,
    min_keep_ratio: float = 0.1,
    drop_blocks: bool = False,
    rotate: bool | None = None,
    locks: Sequence[str] = (),
    ties: Sequence[str | Sequence[str]] = (),
    latency: Wanted = None,
    outputs: Sequence[str] = (),
    attention: AttentionCut = "heads",
    store: str | Path | None = None,
    seed: int = 0,
    progress: Given[PruneProgress] = None,
) -> Pruned | list[Pruned]:
    """Make a model smaller: probe every layer by distance, solve for the limits, measure, polish.

    How much a layer's channels matter is measured as the distance of the outputs from the dense model's on 100 items,
    so that widths depend neither on a noisy accuracy nor on labels. Labels are used for the metrics that are reported,
    and to undo a polish that would raise the task's loss. Several sizes in one call share all of that. For a front of
    many sizes, or more time, see `search`.

    Args:
        model: the trained model; it is not changed.
        data: training items to calibrate on, and search-validation items to measure on.
        limits: hard upper limits by cost name, as shares of the dense model or absolute: ``{"macs": "50%"}``; or a list
            of such limits, ``[{"macs": "70%"}, {"macs": "50%"}]``, for one smaller model each.
        example_input: see `Problem`.
        task: loss and metrics; classification by default.
        score: instead of a task, a function of the model that returns one number, more of which is better.
        recover: ``"distill"`` trains each result to answer as the dense model does, without labels (see `recover`); the
            nearer of before and after is kept. None trains nothing.
        minutes: approximate minutes of recovery for each result.
        widths: explicit widths or keep ratios by layer pattern, see `Problem`.
        divisor: kept widths are multiples of it.
        min_width: fewest channels per group.
        min_keep_ratio: smallest fraction of a group to keep.
        drop_blocks: whether whole residual blocks may be dropped, see `Problem`.
        rotate: whether channels are turned into a better basis first where nothing non-linear stands in the way, as in
            the bottlenecks of MobileNetV2 and within heads of attention: subspaces are kept, not subsets (the recipe
            ``rotate``). Yes by default, by the rule of ``prepare="auto"``; a run in ``store`` goes on as it began.
        locks: layers, by name or pattern, that keep all their channels.
        ties: layers that keep equally many channels, beside those that the model itself ties.
        latency: how latency is measured where it is limited, see `Problem`.
        outputs: dotted names of the outputs that count, see `Problem`.
        attention: ``"heads"`` or ``"widths"`` within them, see `Problem`.
        store: folder of the run, with which the same call goes on after an interruption; a temporary one by default.
        seed: seed for every random choice.
        progress: function that is called now and then with how far it is; by default a bar in terminals and notebooks;
            False for none.

    Returns:
        One result, or for a list of limits a list, in its order.

    Raises:
        TraceError: the model cannot be traced, or nothing in it can be pruned.
        InfeasibleError: the limits cannot be met; the message names the smallest reachable value and what blocks.
        UnknownNameError: there is no such recovery.
        InvalidArgumentError: both a task and a score were given, or no limit, or no time to recover in.
    """
    started = time.monotonic()
    check_progress(progress)
    wanted = _checked_limits(limits)
    if rotate not in (None, True, False):
        msg = f"expected rotate= to be True, False or None, got {shown(rotate)}"
        raise InvalidArgumentError(msg)
    if task is not None and score is not None:
        msg = "expected a task or a score, got both"
        raise InvalidArgumentError(msg)
    if recover is not None and recover not in RECOVERIES:
        raise unknown_name("recovery", recover, RECOVERIES)
    if recover is not None:
        check_minutes(minutes)
        check_model(model)
        check_learns(model, "recover='distill'")
    if score is not None:
        task = FunctionTask(loss=None, metrics={"max:score": score})
    if latency is None and any("latency" in item for item in wanted):
        latency = LatencySettings()
    problem = Problem(
        model,
        example_input,
        data,
        task=task,
        objectives=("min:distance", next(iter(wanted[0]))),
        limits=limits if isinstance(limits, Mapping) else None,
        levels=10,
        widths=widths,
        divisor=divisor,
        min_width=min_width,
        min_keep_ratio=min_keep_ratio,
        drop_blocks=drop_blocks,
        locks=locks,
        ties=ties,
        criterion="obs",
        evaluator="reconstructed",
        evaluation=ReconstructedSettings(n_validation=N_VALIDATION, proxy_seed=seed),
        latency=latency,
        outputs=outputs,
        attention=attention,
        seed=seed,
    )
    if problem.latency is not None and problem.latency.disturbed and any("latency" in item for item in wanted):
        warn(problem.latency.disturbed, stacklevel=2)
    problem = problem.with_batch_size(_batch_size(problem))
    targets = [problem.resolve_limits(item) for item in wanted]
    budget = budget_of(problem.space, len(targets))
    n_evaluations = budget.evaluations or 0
    with prune_progress(progress) as tell:
        run = search(
            problem,
            "knapsack",
            budget,
            settings={"probes": _levels_probed(problem.space), "targets": targets},
            prepare=USUAL if rotate is None else ROTATE if rotate and has_streams(problem) else None,
            store=Path(tempfile.mkdtemp(prefix="autoprune-")) / "run" if store is None else store,
            seed=seed,
            progress=lambda now: tell(PruneProgress("measuring", now.evaluations, n_evaluations)),
        )
        if run.interrupted:  # what was measured so far would make a model, but not the one that was asked for
            msg = f"after {run.n_evaluations} of {n_evaluations} probes and candidates, before there was a model"
            raise KeyboardInterrupt(msg)
        points = [_nearest(run, target) for target in targets]
        found = []
        for i, point in enumerate(points):
            tell(PruneProgress("polishing", i, len(points)))
            found.append(_finished(problem, point, wanted[i]))
        tell(PruneProgress("polishing", len(points), len(points)))
        if recover is not None:
            found = [_recovered(problem, result, minutes, seed, tell) for result in found]
    seconds = time.monotonic() - started
    found = [replace(result, speedup=_speedup(problem, result.model, seed), seconds=seconds) for result in found]
    return found[0] if isinstance(limits, Mapping) else found


def _checked_limits(given: Any) -> list[Mapping[str, str | float]]:
    """Return the limits of every model that is asked for."""
    wanted = list(given) if isinstance(given, Sequence) else [given]
    if not wanted or not all(isinstance(item, Mapping) and item for item in wanted):
        msg = (
            "expected at least one limit such as limits={'macs': '50%'}, or a list of such limits, got "
            f"{shown(given) if given else 'none'}"
        )
        raise InvalidArgumentError(msg)
    for name, limit in (item for limits in wanted for item in limits.items()):
        if isinstance(limit, list | tuple):
            each = [{name: value} for value in limit]
            msg = (
                f"expected one limit on {name} for a model, got {shown(limit)}; for several models write limits={each}"
            )
            raise InvalidArgumentError(msg)
    return wanted


def budget_of(space: SearchSpace, n_limits: int = 1) -> Budget:
    """Return what `prune` spends on a space: its probes, and the predicted optimum of every limit."""
    probes = int(np.minimum(_levels_probed(space), space.n_levels - 1).sum())
    return Budget(evaluations=1 + probes + n_limits)


def _batch_size(problem: Problem) -> int:
    """Return how many items run at once: no more than leave most of the activations in the caches of a processor."""
    usual = problem.evaluation.batch_size
    try:
        peak = count_peak_bytes(problem.model, problem.example_input)
    except TraceError:  # it was traced by other means
        return usual
    return min(usual, max(FEWEST_AT_ONCE, ROOM // max(1, peak)))


def _levels_probed(space: SearchSpace) -> int:
    return min(MOST, max(FEWEST, PROBES // space.n_variables))


def _nearest(run: Run, limits: Mapping[str, int]) -> RunPoint:
    """Return the measured candidate within absolute limits whose outputs are nearest to the dense model's."""
    measured = [
        outcome
        for outcome in evaluations(run.outcomes)
        if outcome.job.fidelity != PROBE
        and outcome.status is Status.OK
        and all(outcome.costs[name] <= limit for name, limit in limits.items())
    ]
    if not measured:
        failed = next((outcome.message for outcome in run.outcomes if outcome.message), "nothing was measured")
        msg = f"no candidate within {dict(limits)} could be measured: {failed}"
        raise InfeasibleError(msg)
    return run.point(min(measured, key=lambda outcome: outcome.metrics[DISTANCE]).job.id)


def _finished(problem: Problem, point: RunPoint, limits: Mapping[str, object]) -> Pruned:
    """Return a point polished, as far as that brings it nearer to the dense model, and its figures."""
    small = point.build(polish=True)
    after = problem.evaluator.measure(small)
    return Pruned(
        small,
        point,
        problem.dense_metrics,
        after,
        {name: point.costs[name] / problem.dense_costs[name] for name in limits},
        (1.0, 1.0, 1.0),
        {"cut": point.metrics, "polished": after},
        0.0,
    )


def _recovered(
    problem: Problem, found: Pruned, minutes: float, seed: int, tell: Callable[[PruneProgress], None]
) -> Pruned:
    """Return a result trained to answer as the dense model does; itself where that brought it no nearer."""

    def say(now: Progress) -> None:
        tell(PruneProgress("recovering", now.step, now.n_steps))

    try:
        outputs = problem.structure.outputs
        trained = train_to_imitate(found.model, problem.model, problem.data, outputs, minutes, None, seed, say)
        after = problem.evaluator.measure(trained)
    except MetricError:  # it diverged
        return found
    if not after[DISTANCE] < found.after[DISTANCE]:
        return found
    return replace(found, model=trained, after=after, steps={**found.steps, "recovered": after})


def _speedup(problem: Problem, small: nn.Module, seed: int) -> tuple[float, float, float]:
    timings, _ = time_in_turns(problem, {"dense": problem.model, "small": small}, seed=seed)
    found = timings.speedup("dense", "small")
    return found.value, found.low, found.high
