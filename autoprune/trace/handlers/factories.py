"""Constants whose sizes follow the widths: the first state of a hand-written cell, a buffer that is written into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoprune.surgery.precision import is_inexact
from autoprune.trace._book import Extent
from autoprune.trace._ids import Layers, along
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
    layers = issued(recorder, call)
    if layers:
        recorder.put(output, layers)
    else:
        recorder.constant(output)


def issued(recorder: IdRecorder, call: TracedCall) -> Layers:
    """Return layers of new ids for a constant that was made, or expanded, in sizes that were computed."""
    return issue(recorder, call, dict(enumerate(_sizes(call))))


def issue(recorder: IdRecorder, call: TracedCall, sizes: Mapping[int, Any]) -> Layers:
    """Return layers of new ids, one for each dimension of a constant result whose size was computed.

    Args:
        recorder: the recorder that holds the ids of all activations.
        call: the call that made the constant.
        sizes: its size arguments by dimension.
    """
    output = call.outputs[0]
    layers = []
    for dim, size in sizes.items():
        if isinstance(size, TracedInt) and size > 1 and output.numel() and is_inexact(output):
            layers.append(along(recorder.make(int(size)), dim, output.shape))
            recorder.rule(size, Extent(layers[-1], dim), f"`{call.name}`")
    return tuple(layers)


def _sizes(call: TracedCall) -> list[Any]:
    if call.name == "new_tensor":
        return []
    given: Any = call.traced_args[1:] if call.name.startswith(("new_", "expand")) else call.traced_args
    given = given or (call.traced_kwargs.get("size"),)
    return list(given[0] if isinstance(given[0], tuple | list) else given)
