"""Lets features flow: the path that they take through the layers is pulled short and straight (FFR-style).

Wu et al., "Feature flow regularization: improving structured sparsity in deep neural networks" (2021, arXiv 2106.02914;
also in Neural Networks). The features of successive layers are points of a path; the penalty is ``length * (its
length) + bend * (its curvature)``. Weights become sparse by that indirectly. Only the two abstracts could be read, and
they put it differently, hence FFR-*style*, with both as a setting: ``"fd"``, gradient and curvature as first and second
differences; ``"arc"``, length and total absolute curvature, the turning of the unit tangents.

The points are what the readers of a residual stream read, block after block, which are the same channels (``path
="stream"``); with ``path="all"`` all maps in the order in which they are read, where channel c of one layer is pulled
towards channel c of the next. A change of shape begins a new path, or, with `match`, maps that are compared are
averaged to the size of the smallest of them, and missing channels are zero.

Norms are means over items and values, so factors do not depend on sizes. BatchNorm lets a network shorten the path by
smaller scales alone: `scale_free` divides by the size of the first point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.core import check
from autoprune.errors import InvalidArgumentError
from autoprune.regularizers.base import Channels, Regularizer
from autoprune.regularizers.lasso import safe_norms
from autoprune.regularizers.maps import LatestMaps

_Point = tuple[Tensor, tuple[int, ...]]
"""(n, c, positions) maps, and the sizes behind their channels."""


@dataclass(frozen=True)
class FeatureFlowSettings:
    """Settings of ``ffr``.

    Attributes:
        length: factor of the length of the path (k1). 0.1 hardly shows in a training of the digits, 1 does.
        bend: factor of its curvature (k2).
        variant: ``"fd"`` or ``"arc"``.
        p: power of the differences under ``"fd"``, 1 or more.
        path: ``"stream"``, the maps of one residual stream, or ``"all"``.
        match: whether a path goes on where shapes change, in ``"all"``.
        scale_free: whether points are divided by the root mean square of the first one of their path.
        warmup: share of the training in which the penalty grows, linearly from 0.

    Raises:
        InvalidArgumentError: a value cannot be used; UnknownNameError: there is no such variant or path.
    """

    length: float = 0.1
    bend: float = 0.1
    variant: str = "fd"
    p: float = 1.0
    path: str = "stream"
    match: bool = False
    scale_free: bool = False
    warmup: float = 0.1

    def __post_init__(self) -> None:
        """Check the values."""
        check.not_negative(self, "length", "bend")
        check.one_of(self, "variant", ("fd", "arc"))
        check.one_of(self, "path", ("stream", "all"))
        check.share(self, "warmup")
        check.at_least(self, 1, "p")


class FeatureFlow(Regularizer):
    """Length and curvature of the paths that features take."""

    Settings = FeatureFlowSettings

    def __init__(self, channels: Channels, settings: FeatureFlowSettings | None = None) -> None:
        super().__init__(channels, settings)
        self._maps = LatestMaps(channels)

    def penalty(self, step: int, n_steps: int) -> Tensor:
        """Return the penalty of the latest forward pass.

        Raises:
            InvalidArgumentError: no two points are on one path.
        """
        chosen = self.settings
        of = _differences if chosen.variant == "fd" else _arc
        total, found = torch.zeros((), device=next(self.channels.model.parameters()).device), False
        for points, has_length in self._paths():
            if len(points) > 1:
                length, bend = of(points, chosen.p)
                total = total + chosen.length * length * has_length + chosen.bend * bend
                found = True
        if not found:
            msg = (
                f"'ffr' needs maps of one shape that follow each other, and path={chosen.path!r} finds none: try "
                "path='all' with match=True, or another regularizer"
            )
            raise InvalidArgumentError(msg)
        factor = min(1.0, (step + 1) / max(1.0, chosen.warmup * n_steps))
        return factor * total

    def close(self) -> None:
        """Take the hooks off."""
        self._maps.close()

    def _paths(self) -> Iterator[tuple[list[Tensor], bool]]:
        """Yield the (n, c, positions) points of each path up to a change of shape, and whether their length counts."""
        by_path: dict[int, list[_Point]] = {}
        for tap, maps, sizes in self._maps.take():
            by_path.setdefault(tap.group if self.settings.path == "stream" else 0, []).append((maps, sizes))
        for points in by_path.values():
            run: list[_Point] = []
            for point in points:
                if run and not self._go_together(run[-1], point):
                    yield from self._compared(run)
                    run = []
                run.append(point)
            yield from self._compared(run)

    def _go_together(self, last: _Point, point: _Point) -> bool:
        if not self.settings.match:
            return last[0].shape == point[0].shape
        are_maps = len(last[1]) == len(point[1]) == 2
        return last[1] == point[1] or are_maps or 1 in (math.prod(last[1]), math.prod(point[1]))

    def _compared(self, run: list[_Point]) -> Iterator[tuple[list[Tensor], bool]]:
        """Yield a path of points of one shape; where shapes differ every step and every turn for itself."""
        points = self._scaled([maps for maps, _ in run])
        if len({maps.shape for maps in points}) == 1:
            yield points, True
            return
        sized = list(zip(points, (sizes for _, sizes in run), strict=True))
        yield from ((_matched(sized[i : i + 2]), True) for i in range(len(sized) - 1))
        yield from ((_matched(sized[i : i + 3]), False) for i in range(len(sized) - 2))

    def _scaled(self, points: list[Tensor]) -> list[Tensor]:
        if not self.settings.scale_free:
            return points
        size = points[0].detach().abs().square().mean().sqrt()
        return [point / torch.where(size > 0, size, 1.0) for point in points]


def _matched(points: list[_Point]) -> list[Tensor]:
    """Return the points with maps of the smallest size and channels of the largest number."""
    sizes = min((sizes for _, sizes in points), key=math.prod)
    width = max(maps.shape[1] for maps, _ in points)
    found = []
    for maps, own in points:
        if own != sizes and len(own) == len(sizes) == 2:
            maps = F.adaptive_avg_pool2d(maps.reshape(*maps.shape[:2], *own), sizes).flatten(2)
        elif own != sizes:  # one position is left
            maps = maps.mean(dim=2, keepdim=True)
        found.append(F.pad(maps, (0, 0, 0, width - maps.shape[1])))
    return found


def _differences(points: list[Tensor], p: float) -> tuple[Tensor, Tensor]:
    """Return the summed mean powers of first and of second differences."""
    first = [after - before for before, after in pairwise(points)]
    second = [after - before for before, after in pairwise(first)]
    length, bend = (
        torch.stack([step.abs().pow(p).mean() for step in steps] or [torch.zeros_like(points[0].real.sum())]).sum()
        for steps in (first, second)
    )
    return length, bend


def _arc(points: list[Tensor], p: float) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """Return the length of the path per root of the number of values, and how far its tangents turn: means of items."""
    steps = [(after - before).flatten(1) for before, after in pairwise(points)]
    lengths = [safe_norms(step.abs().square().sum(dim=1)) for step in steps]
    tangents = [
        step / torch.where(length > 0, length, 1.0)[:, None] * (length > 0)[:, None]
        for step, length in zip(steps, lengths, strict=True)
    ]
    turns = [safe_norms((after - before).abs().square().sum(dim=1)) for before, after in pairwise(tangents)]
    bend = torch.stack(turns or [torch.zeros_like(lengths[0])]).sum(dim=0).mean()
    return torch.stack(lengths).sum(dim=0).mean() / steps[0].shape[1] ** 0.5, bend
