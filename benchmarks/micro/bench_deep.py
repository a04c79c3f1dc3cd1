"""What it takes to trace and validate deep networks: ``pytest benchmarks/micro/bench_deep.py -s``, one thread.

Targets: a plain MLP of 300 layers within 60 s and 200 residual blocks within 30 s of one core, nothing pinned but the
output. Times are processor times of the thread: what passes on a machine that does nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.space import SearchSpace
from autoprune.trace import trace_space


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.b, self.norm_b = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Add what two convolutions make of ``x``."""
        return F.relu(x + self.norm_b(self.b(F.relu(self.norm_a(self.a(x))))))


def plain(depth: int = 300, width: int = 16) -> tuple[nn.Module, Tensor]:
    """Return a plain MLP and its input."""
    parts = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*parts, nn.Linear(width, 4)), torch.randn(1, width)


def residual(depth: int = 200, width: int = 8) -> tuple[nn.Module, Tensor]:
    """Return residual blocks between two layers and their input."""
    blocks = (Block(width) for _ in range(depth))
    ends = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))
    return nn.Sequential(nn.Conv2d(3, width, 3), *blocks, *ends), torch.randn(1, 3, 8, 8)


@pytest.mark.parametrize(("make", "groups", "target"), [(plain, 300, 60.0), (residual, 201, 30.0)])
def test_construction(make: Callable[[], tuple[nn.Module, Tensor]], groups: int, target: float) -> None:
    """Trace, lay out and validate, as a problem does."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, x = make()
    start = time.thread_time()
    space = trace_space(model, x, SearchSpace.build)
    seconds = time.thread_time() - start
    print(f"\n{make.__name__}: {len(space.structure.groups)} groups in {seconds:.1f} s (target {target:.0f} s)")
    assert len(space.structure.groups) == groups
    assert seconds <= target
