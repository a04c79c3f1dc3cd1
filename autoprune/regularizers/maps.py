"""What the readers of every group read in the latest forward pass of the network that trains, with its graph."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.regularizers.base import Channels
from autoprune.surgery.taps import Tap, watch_readers


class LatestMaps:
    """Remembers what readers are given until it is taken, or the network runs again.

    Args:
        channels: the channels of the network that trains.
    """

    def __init__(self, channels: Channels) -> None:
        self._given: list[tuple[list[Tap], nn.Module, Tensor]] = []
        self._hooks = watch_readers(channels.model, channels.structure, self._look)
        self._hooks.callback(channels.model.register_forward_pre_hook(lambda *_: self._given.clear()).remove)

    def take(self) -> Iterator[tuple[Tap, Tensor, tuple[int, ...]]]:
        """Yield (n, w, positions) maps in the order in which they were read; what two layers read comes once.

        With each comes its height and width, or whatever sizes lie behind its channels; the number of its positions
        where they have no shape.
        """
        given, self._given = self._given, []
        known: set[tuple[int, int]] = set()
        for taps, module, tensor in given:
            for tap in taps:
                if (tap.group, id(tensor)) not in known:
                    known.add((tap.group, id(tensor)))
                    maps = tap.read(module, tensor)
                    sizes = tuple(tensor.shape[2:])
                    known_sizes = isinstance(module, _ConvNd) and math.prod(sizes) == maps.shape[2]
                    yield tap, maps, sizes if known_sizes else (maps.shape[2],)

    def close(self) -> None:
        """Take the hooks off."""
        self._hooks.close()
        self._given.clear()

    def _look(self, taps: list[Tap], module: nn.Module, given: Tensor) -> None:
        self._given.append((taps, module, given))
