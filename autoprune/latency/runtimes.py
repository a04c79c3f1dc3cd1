"""What runs a network whose time is taken: eager torch, `torch.compile` or ONNX Runtime.

A runtime makes a network ready to run one batch; what it returns is timed by whoever asked. Those that predictions can
be made for also tell where in a pass the time goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from autoprune.core.groups import FloatArray, Operator
from autoprune.cost.latency import clock_of
from autoprune.errors import TraceError
from autoprune.latency.settings import check_runtime
from autoprune.surgery.copying import copy_model
from autoprune.surgery.forward import forward

Pass = tuple[tuple[str, ...], FloatArray]
"""The modules that begin the segments of a pass, "" for the first; and (s,) seconds of each."""


class Marked(Protocol):
    """A network whose passes tell where their time goes."""

    def __call__(self) -> object:
        """Run one pass."""

    def passes(self) -> Sequence[Pass]:
        """Return what was noted of every pass, also of those while it was made ready; the last that is asked of it."""


class Runtime(Protocol):
    """Makes networks ready to run one batch.

    Attributes:
        most_marked: passes of a marked network from which on more are not worth their time.
    """

    most_marked: int

    def load(self, network: nn.Module) -> Callable[[], object]:
        """Return what runs one pass of a network, which is in evaluation mode.

        Raises:
            TraceError: the network cannot be run so.
        """

    def mark(self, network: nn.Module, operators: Sequence[Operator]) -> Marked:
        """Return what runs one pass and notes when the contractions begin.

        Args:
            network: see `load`.
            operators: the contractions of the dense model, in execution order.
        """


Load = Callable[[nn.Module], Callable[[], object]]
"""Makes a network ready to run one batch, see `Runtime.load`."""


def open_runtime(name: str, model: nn.Module, sample: Any, batch: Any, device: torch.device, threads: int) -> Runtime:
    """Return the runtime called ``name`` for networks that are cut from ``model``.

    Args:
        name: one of `RUNTIMES`.
        model: the dense model.
        sample: one sample of its input.
        batch: the batch that is run, on the device.
        device: device of the networks.
        threads: CPU threads, as torch has them set already.

    Raises:
        MissingDependencyError: packages are missing.
        TraceError: the model cannot be run so.
    """
    if name == "onnxruntime":
        from autoprune.latency.onnx_runtime import OnnxRuntime

        return OnnxRuntime(model, sample, batch, threads)
    return Eager(batch, device)


def open_timed(name: str, model: nn.Module, sample: Any, batch: Any, device: torch.device, threads: int) -> Load:
    """Return what makes networks ready to be timed as a whole; arguments and errors as of `open_runtime`.

    Raises:
        UnknownNameError: the runtime is not one of `TIMED_RUNTIMES`.
        InvalidArgumentError: it does not run on the device.
    """
    check_runtime(name, device.type)
    if name == "compile":
        return partial(_compiled, batch=batch)
    return open_runtime(name, model, sample, batch, device, threads).load


def _compiled(network: nn.Module, *, batch: Any) -> Callable[[], object]:
    """Compile a network with torch's default backend, which needs a C++ compiler on a CPU."""
    network = copy_model(network)
    network.compile()
    run = partial(forward, network, batch)
    try:
        run()
    except Exception as error:  # whatever the backend, or the compiler that it calls, raises
        first = next(iter(str(error).splitlines()), type(error).__name__)
        msg = f"torch.compile does not run the model of class {type(network).__name__} here: {first}"
        raise TraceError(msg) from error
    return run


def runtime_version(name: str) -> str:
    """Return a runtime with its version, as it stands beside times."""
    if name == "onnxruntime":
        from autoprune.latency.onnx_runtime import version

        return f"ONNX Runtime {version()}"
    return {"torch": "torch", "compile": "torch.compile"}[name]


class Eager:
    """Torch as it runs by itself.

    Args:
        batch: the batch that is run.
        device: device of the networks.
    """

    most_marked = 60

    def __init__(self, batch: Any, device: torch.device) -> None:
        self._batch = batch
        self._device = device

    def load(self, network: nn.Module) -> Callable[[], object]:
        """See `Runtime`."""
        return partial(forward, network, self._batch)

    def mark(self, network: nn.Module, operators: Sequence[Operator]) -> Marked:
        """See `Runtime`."""
        return _MarkedModule(network, self._batch, operators, self._device)


class _MarkedModule:
    """Notes the time whenever a module that runs a contraction is called.

    Args:
        network: the network.
        batch: the batch that is run.
        operators: the contractions of the model, in execution order.
        device: device that the network runs on.
    """

    def __init__(self, network: nn.Module, batch: Any, operators: Sequence[Operator], device: torch.device) -> None:
        named = dict.fromkeys(operator.module for operator in operators if operator.module)
        modules = {name: network.get_submodule(name) for name in named}
        # what stands around others begins before they do
        self._modules = {name: module for name, module in modules.items() if not any(module.children())}
        self._network = network
        self._batch = batch
        self._device = device
        self._passes: list[Pass] = []

    def __call__(self) -> None:
        noted: list[tuple[str, Any]] = []
        clock = self._event if self._device.type == "cuda" else clock_of(self._device)

        def mark(name: str, module: nn.Module, args: Any) -> None:  # noqa: ARG001
            noted.append((name, clock()))

        with ExitStack() as stack:
            for name, module in self._modules.items():
                stack.callback(module.register_forward_pre_hook(partial(mark, name)).remove)
            first = clock()
            forward(self._network, self._batch)
            last = clock()
        names = ("", *(name for name, _ in noted))
        moments = [first, *(moment for _, moment in noted), last]
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self._passes.append((names, np.array([a.elapsed_time(b) / 1e3 for a, b in pairwise(moments)])))
        else:
            self._passes.append((names, np.diff(np.array(moments))))

    def passes(self) -> Sequence[Pass]:
        return self._passes

    def _event(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))  # the current device may be another one
        return event
