"""Constants whose sizes follow the widths: the first state of a hand-written cell, a buffer that is written into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoprune.trace._book import Extent
from autoprune.trace._ids import along
from autoprune.trace._sizes import TracedInt
from autoprune.trace.handlers.registry import TracedCall

if TYPE_CHECKING:
    from autoprune.trace._recorder import IdRecorder

FACTORIES = {
    *("zeros", "ones", "empty", "full"),
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"),
}
"""Plain names of functions that make a constant, with the same value everywhere where they are given a size."""


def make(recorder: IdRecorder, call: TracedCall) -> None:
    """Issue ids for every dimension whose size was computed: they vanish with whatever the constant meets."""
    output = call.outputs[0]
    sizes = {dim: size for dim, size in enumerate(_sizes(call)) if isinstance(size, TracedInt) and size > 1}
    if not sizes or not output.numel() or not output.is_floating_point():
        recorder.constant(output)
        return
    layers = {dim: along(recorder.book.issue(int(size)), dim, output.shape) for dim, size in sizes.items()}
    for dim, layer in layers.items():
        recorder.rule(sizes[dim], Extent(layer, dim), f"`{call.name}`")
    recorder.made(output, tuple(layers.values()))


def _sizes(call: TracedCall) -> list[Any]:
    if call.name == "new_tensor":
        return []
    given: Any = call.traced_args[1:] if call.name.startswith("new_") else call.traced_args
    given = given or (call.traced_kwargs.get("size"),)
    return list(given[0] if isinstance(given[0], tuple | list) else given)
