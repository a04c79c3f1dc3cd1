"""Measuring how long models take, in turns on one machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from autoprune.core.settings import as_integer
from autoprune.cost.samples import find_samples
from autoprune.cost.timings import MIN_ROUNDS, Timings
from autoprune.errors import InvalidArgumentError, shown
from autoprune.surgery.forward import evaluating, forward


def measure_latency(
    models: Mapping[str, nn.Module],
    example_input: Any,
    *,
    batch_size: int = 1,
    threads: int = 1,
    channels_last: bool = False,
    rounds: int = 30,
    warmup: int = 3,
    seed: int = 0,
    runtime: Callable[[nn.Module, Any, Any], Callable[[nn.Module], Callable[[], object]]] | None = None,
) -> Timings:
    """Time the forward passes of ``models``, each once per round in a new random order.

    Taking turns makes a slow minute of the machine hit all models alike; `Timings.speedup` then compares within
    rounds. Models run in evaluation and inference mode, timed by `clock_of`.

    Args:
        models: the models by name, all on the device of the input, where they are measured.
        example_input: its first sample is repeated to the batch.
        batch_size: samples per forward pass.
        threads: CPU threads within operators; restored afterwards.
        channels_last: whether images are laid out with the channels last; the models are as they are given.
        rounds: timed passes per model, at least six.
        warmup: passes per model before.
        seed: seed for the order of the models in each round.
        runtime: opens what runs the models, given the first of them, one sample and the batch; it returns what makes a
            model ready to run. Torch as it runs by itself when left out.

    Raises:
        InvalidArgumentError: no model, too few rounds, or a model is on another device than the input.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("threads", threads, 1), ("rounds", rounds, MIN_ROUNDS)):
        if (as_integer(value) or 0) < least:
            msg = f"expected {name} to be an integer of at least {least}, got {shown(value)}"
            raise InvalidArgumentError(msg)
    device = _common_device(models, example_input)
    samples = find_samples(next(iter(models.values())), example_input)
    if samples.form == "whole" and batch_size > 1:
        msg = f"the example input is one sample as a whole: expected batch_size=1, got {batch_size}"
        raise InvalidArgumentError(msg)
    batch = placed_batch(samples.take(batch_size), device, channels_last=channels_last)
    names = list(models)
    seconds = {name: np.empty(rounds) for name in names}
    rng = np.random.default_rng(seed)
    with ExitStack() as stack:
        stack.enter_context(_threads(threads))
        stack.enter_context(torch.inference_mode())
        for model in models.values():
            stack.enter_context(evaluating(model))
        runs: dict[str, Callable[[], object]] = {name: partial(forward, model, batch) for name, model in models.items()}
        if runtime is not None:
            load = runtime(next(iter(models.values())), samples.take(1), batch)
            runs = {name: load(model) for name, model in models.items()}
        clock = clock_of(device)
        for i in range(-warmup, rounds):
            for turn in rng.permutation(len(names)):
                name = names[turn]
                elapsed = _time(runs[name], device, clock)
                if i >= 0:
                    seconds[name][i] = elapsed
    return Timings(seconds, str(device), threads, batch_size)


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return what tells seconds: where one CPU thread does all the work its own clock, which others do not advance."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


def placed_batch(batch: Any, device: torch.device, *, channels_last: bool = False) -> Any:
    """Return a batch on a device, if asked with the channels of images, tensors of four dimensions, last in memory."""

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        moved = leaf.to(device)
        return moved.contiguous(memory_format=torch.channels_last) if channels_last and moved.dim() == 4 else moved

    return tree_map(place, batch)


def _time(run: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    _wait(device)
    start = clock()
    run()
    _wait(device)
    return clock() - start


def _wait(device: torch.device) -> None:
    """Wait for the work queued on ``device``, so that a clock reading includes it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _common_device(models: Mapping[str, nn.Module], batch: Any) -> torch.device:
    devices = {leaf.device for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)}
    devices |= {parameter.device for model in models.values() for parameter in model.parameters()}
    if not models or len(devices) != 1:
        where = ", ".join(sorted(map(str, devices))) or "no tensor"
        msg = f"expected at least one model, and all models and the input on one device, got {len(models)} on {where}"
        raise InvalidArgumentError(msg)
    return devices.pop()


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
