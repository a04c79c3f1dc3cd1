"""Timing segments in context: cut networks of random widths run in turns, with marks where a contraction begins.

Every network runs as it would for its user, from its input to its output with live activations; nothing is run alone
in a loop, whose caches would be warm. All take turns in a new random order each round, so that a slow moment of the
machine hits all alike, and the low quantile over rounds is kept.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.core.groups import FloatArray, IntArray, Operator
from autoprune.core.space import SearchSpace
from autoprune.cost.latency import clock_of, placed_batch
from autoprune.cost.samples import Samples, find_samples
from autoprune.errors import InvalidArgumentError
from autoprune.latency.runtimes import Marked, Runtime, open_runtime, runtime_version
from autoprune.latency.settings import LatencySettings
from autoprune.latency.table import LatencyTable, find_block, fit_segment, fit_table
from autoprune.surgery.cut import cut
from autoprune.train.devices import resolve_device

QUANTILE = 0.3
"""Which of the times over rounds is kept: low, because whatever else the machine does only adds."""

ROUNDS = (3, 60)
"""Fewest and most passes of every network."""

WHOLE_ROUNDS = 4
"""Fewest passes of every network that is timed as a whole: each half of them is compared with the other."""

WARMUP = 2
"""Passes of every network before the first that counts; 1 where that alone takes a tenth of the time there is."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, how many steps are, and of how many."""


def measure_table(
    model: nn.Module,
    space: SearchSpace,
    example_input: Any,
    settings: LatencySettings | None = None,
    *,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure how long networks of a space take, and fit what predicts it.

    On a CPU with one thread the time is that of the thread, which other processes do not add to; elsewhere it is the
    wall clock's (CUDA: that of its events).

    Args:
        model: the dense model that the space was traced from; left as it is.
        space: the search space with the allowed widths.
        example_input: its first sample is repeated to the batch.
        settings: settings that say what a forward pass is and how much is measured.
        progress: called after every network that was made and every round.

    Raises:
        InvalidArgumentError: the input is one sample as a whole and the batch size is not 1, or the device is not here.
    """
    settings = settings or LatencySettings()
    device = device_of(settings)
    samples = find_samples(model, example_input)
    if samples.form == "whole" and settings.batch_size > 1:
        msg = f"the example input is one sample as a whole: expected batch_size=1, got {settings.batch_size}"
        raise InvalidArgumentError(msg)
    rng = np.random.default_rng(settings.seed)
    genomes = spread_genomes(space, settings.candidates + settings.checks, rng)
    fitted, checked = slice(0, settings.candidates), slice(settings.candidates, None)
    # a layer that was dropped runs nothing to be timed, and a graph without it takes seconds to export
    least = fitted if settings.runtime == "torch" else slice(None)
    genomes[least] = np.maximum(genomes[least], space.least_levels)
    widths = space.widths(genomes)
    operators = space.structure.operators
    with _running(settings.threads):
        runtime = _runtime(model, samples, settings, device)
        marked: list[Marked] = []
        runs: list[Callable[[], object]] = []
        for i, genome in enumerate(genomes):
            network = _network(model, space, genome, settings)
            if i < settings.candidates:
                marked.append(runtime.mark(network, operators))
            else:
                runs.append(runtime.load(network))
            if progress is not None:
                progress("networks", i + 1, len(genomes))
        rounds = _rounds([*marked, *runs], device, settings.seconds)
        modules, seconds = _segment_times(marked, min(rounds, runtime.most_marked), rng, progress)
        whole, busy = _whole_times(runs, device, max(rounds, WHOLE_ROUNDS), rng, progress)
    segments = [
        fit_segment(module, operators, widths[fitted], seconds[:, i])
        for i, (module, operators) in enumerate(_segments(operators, modules))
    ]
    measured = np.quantile(whole, QUANTILE, axis=0)
    return fit_table(
        segments,
        widths[checked],
        measured,
        noise=noise_of(whole),
        busy=busy,
        conditions=settings.conditions,
        made_on=made_on(device, settings.runtime),
        structure=space.structure.fingerprint,
        block=find_block(segments, widths[fitted], seconds, widths[checked], measured),
    )


def time_networks(
    model: nn.Module, space: SearchSpace, example_input: Any, genomes: IntArray, settings: LatencySettings | None = None
) -> FloatArray:
    """Return the (n,) seconds per batch of the networks of (n, d) ``genomes``, timed in turns as `measure_table` does.

    Args:
        model: see `measure_table`.
        space: see `measure_table`.
        example_input: see `measure_table`.
        genomes: genomes of the networks to time.
        settings: see `measure_table`; the numbers of candidates and checks do not matter.
    """
    settings = settings or LatencySettings()
    device = device_of(settings)
    with _running(settings.threads):
        runtime = _runtime(model, find_samples(model, example_input), settings, device)
        runs = [runtime.load(_network(model, space, genome, settings)) for genome in genomes]
        rounds = max(_rounds(runs, device, settings.seconds), WHOLE_ROUNDS)
        seconds, _ = _whole_times(runs, device, rounds, np.random.default_rng(settings.seed), None)
    return np.asarray(np.quantile(seconds, QUANTILE, axis=0))


def spread_genomes(space: SearchSpace, n: int, rng: np.random.Generator) -> IntArray:
    """Draw (n, d) genomes from the dense to the smallest network, even and uneven in width; those two come first."""
    centre = rng.uniform(0, 1, size=(n, 1))
    spread = rng.uniform(0.05, 0.5, size=(n, 1))
    position = np.clip(centre + spread * rng.standard_normal((n, space.n_variables)), 0, 1)
    genomes = np.rint(position * (space.n_levels - 1)).astype(np.int64)
    genomes[0] = space.full_genome
    genomes[min(1, n - 1)] = space.min_genome
    return genomes


def device_of(settings: LatencySettings) -> torch.device:
    """Return the device that is measured on.

    Raises:
        InvalidArgumentError: it is not here, or its clock is not known.
    """
    device = resolve_device(settings.device, auto=False)
    if device.type not in ("cpu", "cuda"):
        msg = f"latency is measured on a device such as 'cpu' or 'cuda:0', got {settings.device!r}"
        raise InvalidArgumentError(msg)
    return device


def made_on(device: torch.device, runtime: str = "torch") -> dict[str, str]:
    """Return what machine and what versions times belong to."""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else _processor()
    return {"machine": name, "torch": torch.__version__, "runtime": runtime_version(runtime)}


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _network(model: nn.Module, space: SearchSpace, genome: IntArray, settings: LatencySettings) -> nn.Module:
    structure = space.structure
    orders = [np.arange(group.width) for group in structure.groups]
    kept = structure.kept_genes(orders, space.widths(genome[None, :])[0])
    network = cut(model, structure, kept).to(settings.device).eval()
    return network.to(memory_format=torch.channels_last) if settings.channels_last else network


def _runtime(model: nn.Module, samples: Samples, settings: LatencySettings, device: torch.device) -> Runtime:
    batch = placed_batch(samples.take(settings.batch_size), device, channels_last=settings.channels_last)
    sample = samples.take(1)
    return open_runtime(settings.runtime, model, sample, batch, device, settings.threads)


@contextmanager
def _running(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)


def _rounds(runs: Sequence[Callable[[], object]], device: torch.device, seconds: float) -> int:
    """Warm up, and return how many passes of every network fit into ``seconds``."""
    fewest, most = ROUNDS
    for _ in range(WARMUP):
        start = time.perf_counter()
        for run in runs:
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elapsed = time.perf_counter() - start
        if elapsed > seconds / 10:
            break
    return int(np.clip(seconds / max(elapsed, 1e-9), fewest, most))


def _segment_times(
    marked: Sequence[Marked], rounds: int, rng: np.random.Generator, progress: Progress | None
) -> tuple[tuple[str, ...], FloatArray]:
    """Return what begins each segment ("" for the first), and an (n, s) array of their seconds.

    Where the marks of two networks differ (a forward that branches on a width), all of a pass is one segment.
    """
    for turn in range(rounds):
        for i in rng.permutation(len(marked)):
            marked[i]()
        if progress is not None:
            progress("segments", turn + 1, rounds)
    noted = [network.passes()[-rounds:] for network in marked]
    orders = {names for own in noted for names, _ in own}
    rows = [
        np.stack([seconds if len(orders) == 1 else seconds.sum(keepdims=True) for _, seconds in own]) for own in noted
    ]
    return orders.pop() if len(orders) == 1 else ("",), np.stack([np.quantile(own, QUANTILE, axis=0) for own in rows])


def _whole_times(
    runs: Sequence[Callable[[], object]],
    device: torch.device,
    rounds: int,
    rng: np.random.Generator,
    progress: Progress | None,
) -> tuple[FloatArray, float]:
    """Return the (rounds, n) seconds of whole passes, and the share of the time that the processor was not ours.

    The share is known where one CPU thread does all the work; elsewhere it is 0.
    """
    clock = clock_of(device)
    seconds = np.empty((rounds, len(runs)))
    began, began_to_wait = clock(), time.perf_counter()
    for turn in range(rounds):
        for i in rng.permutation(len(runs)):
            start = clock()
            runs[i]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[turn, i] = clock() - start
        if progress is not None:
            progress("whole networks", turn + 1, rounds)
    busy = 1 - (clock() - began) / max(time.perf_counter() - began_to_wait, 1e-9)
    return seconds, max(0.0, busy)


def noise_of(seconds: FloatArray) -> float:
    """Return by how much the times of the first half of the (rounds, n) ``seconds`` differ from those of the second."""
    first, second = (np.quantile(half, QUANTILE, axis=0) for half in np.array_split(seconds, 2))
    return float(np.mean(np.abs(first / second - 1)))


def _segments(operators: Sequence[Operator], modules: Sequence[str]) -> list[tuple[str, tuple[Operator, ...]]]:
    """Give every contraction to the segment that runs it.

    A module that is called c times and has k * c contractions runs k of them in each call. What a function or a module
    without a mark runs belongs to the segment of the contraction before.

    Args:
        operators: the operators in execution order.
        modules: module that begins each segment, in execution order, "" first.
    """
    calls: dict[str, list[int]] = {}
    for i, module in enumerate(modules):
        calls.setdefault(module, []).append(i)
    total = Counter(operator.module for operator in operators)
    seen: Counter[str] = Counter()
    found: list[list[Operator]] = [[] for _ in modules]
    at = 0
    for operator in operators:
        own = calls.get(operator.module, []) if operator.module else []
        if own:
            at = own[min(seen[operator.module] * len(own) // total[operator.module], len(own) - 1)]
            seen[operator.module] += 1
        found[at].append(operator)
    return [(module, tuple(own)) for module, own in zip(modules, found, strict=True)]
