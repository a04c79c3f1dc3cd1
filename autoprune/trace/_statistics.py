"""Statistics over channels: which calls take them, named so that another run of the same model finds them again."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

APPLIED = {"normalize", "batch_norm"}
"""Plain names of functions that take a statistic and apply it."""

AVERAGES = {"mean", "nanmean", "var", "std", "var_mean", "std_mean"}
"""Plain names of functions whose result has the same scale over fewer elements."""

STATISTICS = {
    *("sum", "nansum", "norm", "vector_norm", "linalg_vector_norm"),
    *AVERAGES,
    *APPLIED,
}
"""Plain names of functions that take a statistic."""

Call = tuple[str, str, int]  # module, place in the code, how many such calls ran there before

_NO_PLACE = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parent))


class StatisticCalls:
    """Names the calls of statistics of one run, in their order.

    A place is a function and a line in it, counted from its first: it stays what it is on another machine.
    """

    def __init__(self) -> None:
        self._ran: Counter[tuple[str, str]] = Counter()

    def name(self, module: str) -> Call:
        """Name the call that is running.

        Args:
            module: dotted name of the module that runs.
        """
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_NO_PLACE):
            frame = frame.f_back
        place = f"{frame.f_code.co_qualname}+{frame.f_lineno - frame.f_code.co_firstlineno}"
        ran = self._ran[module, place]
        self._ran[module, place] += 1
        return module, place, ran


def watch_modules(model: torch.nn.Module, stack: list[str]) -> list[Any]:
    """Keep the names of the running modules of ``model`` on ``stack``; returns the handles of the hooks."""

    def enter(name: str) -> Callable[..., None]:
        return lambda module, args: stack.append(name)  # noqa: ARG005

    def leave(module: torch.nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        stack.pop()

    handles: list[Any] = []
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):  # knows no hooks
            continue
        handles.append(module.register_forward_pre_hook(enter(name), prepend=True))
        handles.append(module.register_forward_hook(leave, always_call=True))
    return handles
