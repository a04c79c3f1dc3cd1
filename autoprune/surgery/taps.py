"""Where the channels of a group can be observed while the model runs.

The layers that *produce* a channel put it out raw; the layers that *read* it get it as it counts, behind norms,
activations and additions. Looked at are convolutions and linear layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.core.groups import Axis, IntArray, Structure
from autoprune.surgery.forward import tensors_in
from autoprune.surgery.precision import precision, single


@dataclass(frozen=True, eq=False)
class Tap:
    """One side of one layer, as far as it carries one group.

    Attributes:
        name: ``"<layer>.output.<group>"`` or ``"<layer>.input.<group>"``.
        group: index.
        width: number of channels of the group.
        positions: channels of the layer that carry the group, sorted by gene; several where a channel has copies.
    """

    name: str
    group: int
    width: int
    positions: IntArray

    @property
    def layer(self) -> str:
        """Dotted name of the layer."""
        return self.name.rsplit(".", 2)[0]

    def rows(self, maps: Tensor) -> Tensor:
        """Return (n, w, copies, positions) values of an (n, channels, positions) activation, complex where it is."""
        chosen = maps.index_select(1, torch.from_numpy(self.positions).to(maps.device))
        chosen = chosen if precision(chosen) == torch.float64 else single(chosen)
        return chosen.reshape(len(chosen), self.width, -1, chosen.shape[2])

    def read(self, module: nn.Module, activation: Tensor) -> Tensor:
        """Return (n, w, positions) maps of the channels in what ``module`` is given, copies laid side by side."""
        return torch.cat([self.rows(block).flatten(2) for block in input_blocks(module, activation)], dim=2)


def producers(model: nn.Module, structure: Structure) -> dict[nn.Module, list[Tap]]:
    """Return the layers that produce channels that can be cut, with what of their outputs carries which group."""
    return _tapped(model, structure, "output")


def readers(model: nn.Module, structure: Structure) -> dict[nn.Module, list[Tap]]:
    """Return the layers that read and mix channels that can be cut, with what of their inputs carries which group."""
    return _tapped(model, structure, "input")


def watch_readers(
    model: nn.Module, structure: Structure, look: Callable[[list[Tap], nn.Module, Tensor], None]
) -> ExitStack:
    """Call ``look(taps, layer, input)`` before every layer of `readers` runs, until what is returned closes."""
    hooks = ExitStack()
    for module, taps in readers(model, structure).items():

        def before(module: nn.Module, args: Any, kwargs: Any, *, taps: list[Tap] = taps) -> None:
            look(taps, module, tensors_in((args, kwargs))[0])

        hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
    return hooks


def by_channel(module: nn.Module, activation: Tensor) -> Tensor:
    """Return an activation as (n, channels, positions).

    Channels are last for linear layers, else in front of the spatial dimensions; what is before them is a batch.
    """
    spatial = len(module.kernel_size) if isinstance(module, _ConvNd) else 0
    channels = activation.dim() - 1 - spatial
    batched = activation.unsqueeze(0) if channels == 0 else activation
    maps = batched.movedim(max(channels, 1), 1)
    return maps.unsqueeze(2) if maps.dim() == 2 else maps.flatten(2)


def input_blocks(module: nn.Module, activation: Tensor) -> tuple[Tensor, ...]:
    """Return (n, channels, positions) per block of a grouped convolution, all of which read equal genes, else one."""
    blocks = module.groups if isinstance(module, _ConvNd) and not module.transposed else 1
    return by_channel(module, activation).chunk(blocks, dim=1)


def _tapped(model: nn.Module, structure: Structure, side: str) -> dict[nn.Module, list[Tap]]:
    modules = dict(model.named_modules())
    found: dict[nn.Module, list[Tap]] = {}
    for axis in structure.axes:
        owner, _, leaf = axis.tensor.rpartition(".")
        module = modules.get(owner)
        if module is not None and leaf == "weight" and _side(module, axis) == side:
            found.setdefault(module, []).extend(_taps(structure, axis, f"{owner}.{side}"))
    return found


def _side(module: nn.Module, axis: Axis) -> str:
    """Say whether ``axis`` of the weight of ``module`` numbers its outputs, the inputs that it mixes, or neither."""
    if isinstance(module, nn.Linear):
        return ("output", "input")[axis.dim]
    if not isinstance(module, _ConvNd):
        return ""
    if axis.dim == int(module.transposed) and axis.genes.size == module.out_channels:
        return "output"
    is_input = axis.dim == int(not module.transposed) and not (module.transposed and module.groups > 1)
    return "input" if is_input else ""


def _taps(structure: Structure, axis: Axis, name: str) -> Iterator[Tap]:
    for g, group in enumerate(structure.groups):
        inside = np.flatnonzero((axis.genes >= group.start) & (axis.genes < group.start + group.width))
        if len(inside):
            yield Tap(f"{name}.{g}", g, group.width, inside[np.argsort(axis.genes[inside], kind="stable")])
