"""Smaller images on which a model does the same as on the given ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from autoprune.cost.multiply_adds import MacCounter
from autoprune.cost.observation import observe
from autoprune.errors import TraceError

_STEP = 32  # pixels: most models that shrink images shrink them by this
_SMALLEST = 64


def count_calls(model: nn.Module, sample: Any) -> tuple[MacCounter, list[Any]]:
    """Count the multiply-adds of ``model`` on an input as it is, and note which torch functions it calls.

    Raises:
        TraceError: the forward pass fails.
    """
    counter = MacCounter()
    with _Calls() as calls:
        observe(model, sample, counter)
    return counter, calls.functions


def shrunk(model: nn.Module, sample: Any, calls: list[Any]) -> Any:
    """Return ``sample`` with smaller images on which the model makes the same calls; itself where nothing will do.

    Args:
        model: run in evaluation mode; left as it is.
        sample: an input; images are floating tensors (n, c, h, w).
        calls: the torch functions that the model calls on it.
    """
    for times in (4, 2):
        smaller = pytree.tree_map(lambda leaf, times=times: _cropped(leaf, times), sample)
        if all(a is b for a, b in zip(pytree.tree_leaves(smaller), pytree.tree_leaves(sample), strict=True)):
            break
        try:
            if any(count_calls(model, smaller)[1] == calls for _ in range(2)):  # what is cached is made at first
                return smaller
        except TraceError:
            continue
    return sample


def _cropped(leaf: Any, times: int) -> Any:
    if not isinstance(leaf, Tensor) or leaf.dim() != 4 or not leaf.is_floating_point():
        return leaf
    h, w = (min(size, max(round(size / times / _STEP) * _STEP, _SMALLEST)) for size in leaf.shape[2:])
    return leaf if leaf.shape[2:] == (h, w) else leaf[:, :, :h, :w].clone()


class _Calls(TorchFunctionMode):
    """Notes which torch functions are called."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[Any] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Execute ``func`` and note it."""
        self.functions.append(func)
        return func(*args, **(kwargs or {}))
