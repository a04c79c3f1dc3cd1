"""`prune`: from a model and limits to smaller models, in one call."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from torch import nn

from autoprune.api.point import RunPoint
from autoprune.api.problem import FAR, Problem
from autoprune.api.progress import Given, check_progress, prune_progress
from autoprune.api.recorded_problem import recorded_settings
from autoprune.api.run import Run
from autoprune.api.searching import search
from autoprune.api.timing import time_in_turns
from autoprune.core.budget import Budget
from autoprune.core.jobs import PROBE, Status, evaluations
from autoprune.core.space import SearchSpace
from autoprune.cost.counter import count_peak_bytes
from autoprune.errors import InfeasibleError, InvalidArgumentError, MetricError, TraceError, shown, unknown_name, warn
from autoprune.evaluate.distance import DISTANCE, measure_with_distance
from autoprune.evaluate.evaluator import FEWEST_AT_ONCE
from autoprune.evaluate.measure import MeasureSettings
from autoprune.evaluate.reconstructed import ReconstructedSettings
from autoprune.latency.library import Wanted
from autoprune.latency.settings import LatencySettings
from autoprune.prepare.rotate import streams_of
from autoprune.report.document import card
from autoprune.report.units import amount, title
from autoprune.surgery.copying import copy_model
from autoprune.trace import AttentionCut
from autoprune.train.brought_tasks import FunctionTask
from autoprune.train.data import Data
from autoprune.train.devices import placed, resolve_device
from autoprune.train.loop import Progress, fit
from autoprune.train.recalibrate import batch_norms, recalibrate, statistics_kept
from autoprune.train.settings import IMITATION, FitSettings
from autoprune.train.tasks import Task, Unlabelled

PROBES, FEWEST, MOST = 120, 4, 9
"""Probes of all variables together, but no fewer nor more levels of each than these: 9 are all that there are."""

ROOM = 2**26
"""Bytes of activations of the items that run at once: large images go faster few at a time (docs/reconstruction.md)."""

N_COMPARED = 1000
"""Search-validation items at most that say whether a recovery helped."""

N_VALIDATION = 2000
"""Search-validation items that candidates and results are measured on, where there are so many."""

RECOVERIES = ("distill",)
"""Ways to train a polished model: to answer as the dense model does."""

TIMED_STEPS = 4
"""Training steps that are timed to see how many fit into the minutes of a recovery."""

FEW_STEPS, FEWEST_ITEMS = 100, 16
"""A recovery has so many steps at least, as far as the time suffices for steps of so many items."""

RATES = (3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
"""Learning rates that a recovery tries: networks differ by two orders of magnitude in what they stand."""

FEWEST_TRIED, TRIED_SHARE = 3, 20
"""Steps in which a learning rate is tried: so many, or one in so many."""

N_TRIED, LITTLE_HARM = 64, 1.2
"""Search-validation items that say what these steps did; the distance may grow by this factor."""

N_JUDGED = 200
"""Items on which BatchNorm statistics are taken, and judged, before a recovery."""

SETTLED_STATISTICS, FEWEST_SETTLING = 3, 32
"""Momentum times steps with which running statistics forget what they were; items of a batch that say enough."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """A smaller model, its figures, and those of the dense model.

    Attributes:
        model: the smaller model: of the dense model's class with smaller tensors, in evaluation mode.
        point: the candidate of the search that it was built from.
        before: the dense model's metrics on the search-validation items.
        after: the same of ``model``.
        share: its costs as shares of the dense model's.
        speedup: how many times faster a forward pass of one item is on this machine, lowest and highest likely value.
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
            the bottlenecks of MobileNetV2: subspaces are kept, not subsets (the recipe ``rotate``). Yes by default; a
            run in ``store`` goes on as it began.
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
    wanted = list(limits) if isinstance(limits, Sequence) else [limits]
    if not wanted or not all(isinstance(item, Mapping) and item for item in wanted):
        msg = (
            "expected at least one limit such as limits={'macs': '50%'}, or a list of such limits, got "
            f"{shown(limits) if limits else 'none'}"
        )
        raise InvalidArgumentError(msg)
    if task is not None and score is not None:
        msg = "expected a task or a score, got both"
        raise InvalidArgumentError(msg)
    if recover is not None and recover not in RECOVERIES:
        raise unknown_name("recovery", recover, RECOVERIES)
    if recover is not None and not (minutes > 0 and math.isfinite(minutes)):
        msg = f"expected minutes of recovery above 0, got {minutes!r}"
        raise InvalidArgumentError(msg)
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
    problem = problem.with_batch_size(_batch_size(problem))
    if rotate is None:
        recorded = None if store is None else recorded_settings(Path(store))
        rotate = recorded is None or bool(recorded.get("prepare"))
    targets = [problem.resolve_limits(item) for item in wanted]
    budget = budget_of(problem.space, len(targets))
    n_evaluations = budget.evaluations or 0
    with prune_progress(progress) as tell:
        run = search(
            problem,
            "knapsack",
            budget,
            settings={"probes": _levels_probed(problem.space), "targets": targets},
            prepare="rotate" if rotate and streams_of(problem.evaluator.setup, problem.model, seed) else None,
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
        trained = _learned(found.model, problem.model, problem.data, outputs, minutes, None, seed, say)
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


def recover(
    model: nn.Module,
    dense: nn.Module,
    data: Data,
    *,
    minutes: float = 1.0,
    settings: FitSettings | None = None,
    outputs: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> nn.Module:
    """Train a smaller model to give the dense model's outputs: squared error of the outputs, no labels.

    Args:
        model: the model to train; it is not changed.
        dense: the dense model, whose outputs are learned.
        data: its training items are used.
        minutes: approximate duration; the number of steps is found by timing a few. Not looked at where ``settings``
            name a number of steps.
        settings: settings of the training; by default AdamW, at the best of some learning rates that are tried for a
            few steps each, with smaller batches where the time suffices for few steps only.
        outputs: dotted names of the outputs that count, see `Problem`; all by default.
        seed: seed for the order and the transforms.
        progress: called now and then with how far the training is.

    Returns:
        The trained model, in evaluation mode; a copy of the given one, with a warning, where the training brought the
        outputs on up to 1,000 search-validation items no nearer to the dense model's.
    """
    device = "cpu" if settings is None else settings.device
    try:
        trained = _learned(model, dense, data, outputs, minutes, settings, seed, progress)
        before, after = (_distance(small, dense, data, device, outputs) for small in (model, trained))
    except MetricError as error:  # it diverged
        why = str(error)
    else:
        if after < before:
            return trained
        why = (
            f"it brought the outputs from a distance of {before:.4g} from the dense model's to {after:.4g}; more steps "
            "or a smaller learning rate (settings=) may help"
        )
    warn(f"the training was not taken: {why}", stacklevel=2)
    return copy_model(model).eval()


def _learned(
    model: nn.Module,
    dense: nn.Module,
    data: Data,
    outputs: Sequence[str],
    minutes: float,
    settings: FitSettings | None,
    seed: int,
    progress: Callable[[Progress], None] | None = None,
) -> nn.Module:
    """Return a copy of a model that was trained to answer as the dense one does, in evaluation mode.

    Raises:
        MetricError: the training diverged.
    """
    chosen = settings or IMITATION
    if settings is None:
        chosen = _affordable(model, dense, data, outputs, minutes)
    elif not chosen.steps:
        chosen = replace(chosen, steps=_affordable_steps(model, dense, data, outputs, minutes, chosen))
    settles = _statistics_settle(dense, data, chosen, outputs)

    def trained(how: FitSettings, tell: Callable[[Progress], None] | None = None) -> nn.Module:
        small = copy_model(model)
        with nullcontext() if settles else statistics_kept(small):
            fit(small, data, Unlabelled(), how, teacher=dense, outputs=outputs, seed=seed, progress=tell)
        return small.eval()

    def distance_after(how: FitSettings) -> float:
        return _distance(trained(how), dense, data, how.device, outputs, N_TRIED)

    if settings is None:
        start = _distance(model, dense, data, chosen.device, outputs, N_TRIED)
        chosen = _with_rate(chosen, start, distance_after)
    return trained(chosen, progress)


def _affordable(model: nn.Module, dense: nn.Module, data: Data, outputs: Sequence[str], minutes: float) -> FitSettings:
    """Return the usual settings with as many steps as fit into a time.

    Where it does not suffice for `FEW_STEPS` of the usual size, steps have fewer items.
    """
    usual, smallest = IMITATION, replace(IMITATION, batch_size=FEWEST_ITEMS)
    steps = _affordable_steps(model, dense, data, outputs, minutes, smallest)
    size = min(usual.batch_size, FEWEST_ITEMS * 2 ** int(math.log2(max(1, steps // FEW_STEPS))))
    if size == FEWEST_ITEMS:
        return replace(smallest, steps=steps)
    chosen = replace(usual, batch_size=size)  # larger steps take less time per item
    return replace(chosen, steps=_affordable_steps(model, dense, data, outputs, minutes, chosen))


def _with_rate(chosen: FitSettings, start: float, distance_after: Callable[[FitSettings], float]) -> FitSettings:
    """Return settings with the largest learning rate that does little harm in a few steps, which count.

    Even the best rate may do some at first, so that the least harm would choose far too low a rate.

    Args:
        chosen: settings with a number of steps.
        start: distance before the training.
        distance_after: trains from the start and returns the distance then.
    """
    steps = chosen.steps or 1
    n = max(FEWEST_TRIED, steps // TRIED_SHARE)
    for tried, rate in enumerate(RATES if steps >= n * len(RATES) else (), start=1):
        chosen = replace(chosen, steps=max(1, steps - n * tried), learning_rate=rate)
        try:
            if distance_after(replace(chosen, steps=n)) <= LITTLE_HARM * start:
                break
        except MetricError:  # it diverged
            pass
    return chosen


def _statistics_settle(dense: nn.Module, data: Data, settings: FitSettings, outputs: Sequence[str]) -> bool:
    """Say whether BatchNorm may run on the statistics of batches in a recovery, and end with those of the items.

    Not where these are far from the dense model's own (images from elsewhere), for which a small model would first have
    to make up, nor where running statistics follow too slowly to arrive, or batches are too small to say.
    """
    momenta = [norm.momentum or 0.0 for norm in batch_norms(dense)]
    if not momenta:
        return True
    if settings.batch_size < FEWEST_SETTLING or (settings.steps or 1) * min(momenta) < SETTLED_STATISTICS:
        return False
    device, few = resolve_device(settings.device), data.train.subset(N_JUDGED, 0)
    fresh = copy_model(dense)
    with placed(fresh, device, training=False, channels_last=False):
        recalibrate(fresh, few.loader(settings.batch_size, device=device, augment=True))
    try:
        return _distance(fresh, dense, data, settings.device, outputs, N_JUDGED) < FAR
    except MetricError:  # not finite
        return False


def _distance(
    model: nn.Module, dense: nn.Module, data: Data, device: str, outputs: Sequence[str], n: int = N_COMPARED
) -> float:
    """Return the distance on a few search-validation items.

    Raises:
        MetricError: the outputs are not finite.
    """
    items = data.score.subset(n, 0)
    measuring = MeasureSettings(device=device)
    return measure_with_distance(model, dense, items, Unlabelled(), measuring, outputs)[DISTANCE]


def _affordable_steps(
    model: nn.Module, dense: nn.Module, data: Data, outputs: Sequence[str], minutes: float, settings: FitSettings
) -> int:
    """Return how many steps fit into a time, by the pace of a few."""
    started = time.monotonic()
    fit(copy_model(model), data, Unlabelled(), replace(settings, steps=TIMED_STEPS), teacher=dense, outputs=outputs)
    pace = (time.monotonic() - started) / TIMED_STEPS
    return max(1, int(60 * minutes / pace) - TIMED_STEPS)
