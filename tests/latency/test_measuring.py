"""Measuring: marks and contractions come together right, and nothing about the user's model or process changes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.core.space import SearchSpace
from autoprune.errors import InvalidArgumentError
from autoprune.latency.library import find_table
from autoprune.latency.measuring import measure_table, noise_of, spread_genomes
from autoprune.latency.settings import LatencySettings
from autoprune.trace.tracer import trace_space

QUICK = LatencySettings(candidates=16, checks=10, seconds=0.01)


class Twice(nn.Module):
    """Calls one layer twice, and multiplies two activations by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 12)
        self.shared = nn.Linear(12, 12)
        self.last = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.shared(torch.relu(self.first(x))))
        return self.last(torch.relu(self.shared(x)))


def conv_net() -> nn.Module:
    """Return two convolutions and a head."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


def encoder() -> nn.Module:
    """Return a layer of a transformer."""
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)


@pytest.mark.parametrize(
    ("make", "shape"), [(conv_net, (1, 3, 8, 8)), (Twice, (4, 8)), (encoder, (1, 5, 16))], ids=lambda x: str(x)[:20]
)
def test_every_contraction_is_in_a_segment_once(make: object, shape: tuple[int, ...]) -> None:
    """Whatever modules and functions run them, each traced contraction is timed in exactly one segment."""
    model = make()  # type: ignore[operator]
    space = trace_space(model, torch.randn(shape), partial(SearchSpace.build))
    table = measure_table(model, space, torch.randn(shape), QUICK)
    timed = [operator for segment in table.segments for operator in segment.operators]
    assert sorted(map(str, timed)) == sorted(map(str, space.structure.operators))
    assert (table.seconds(space.widths(space.full_genome[None, :])) > 0).all()


def test_leaves_the_model_and_the_process_alone() -> None:
    """Modes, weights, hooks and threads are after measuring what they were before."""
    model = conv_net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    space = trace_space(model, torch.randn(1, 3, 8, 8), partial(SearchSpace.build))
    threads = torch.get_num_threads()
    measure_table(model, space, torch.randn(1, 3, 8, 8), QUICK)
    assert model.training
    assert torch.get_num_threads() == threads
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_noise_is_what_changes_between_the_halves() -> None:
    """A machine that slows down by a tenth half way has that noise; one that jitters alike in every round, little."""
    rng = np.random.default_rng(0)
    steady = 1e-3 * (1 + 0.2 * rng.random((60, 24)))
    slower = np.concatenate([np.ones(30), 1.1 * np.ones(30)])[:, None]
    assert noise_of(steady) < 0.03
    assert noise_of(slower * np.ones((60, 24))) == pytest.approx(1 - 1 / 1.1)


def test_progress_is_told() -> None:
    """Networks made, rounds of segments and rounds of whole networks are counted up to their number."""
    told: list[tuple[str, int, int]] = []
    model = conv_net()
    space = trace_space(model, torch.randn(1, 3, 8, 8), partial(SearchSpace.build))
    measure_table(
        model, space, torch.randn(1, 3, 8, 8), QUICK, progress=lambda what, done, of: told.append((what, done, of))
    )
    for what in ("networks", "segments", "whole networks"):
        own = [(done, of) for name, done, of in told if name == what]
        assert [done for done, _ in own] == list(range(1, own[-1][1] + 1))


def test_genomes_spread_from_dense_to_smallest() -> None:
    """The dense and the smallest network are among the measured, and every level of every variable is near one."""
    model = conv_net()
    space = trace_space(model, torch.randn(1, 3, 8, 8), partial(SearchSpace.build))
    genomes = spread_genomes(space, 48, np.random.default_rng(0))
    space.check(genomes)
    assert (genomes[0] == space.full_genome).all()
    assert (genomes[1] == space.min_genome).all()
    assert (np.ptp(genomes[2:], axis=0) >= space.n_levels // 2).all()


@pytest.mark.parametrize(
    ("device", "match"),
    [
        ("cuda:63", "of this machine"),
        ("meta", "such as 'cpu'"),
        ("auto", "such as 'cpu' or 'cuda:0', got 'auto'"),
        ("x", "x"),
    ],
)
def test_a_device_that_is_not_there(device: str, match: str) -> None:
    """What is not here, or has no clock that is known, is refused before anything is cut."""
    model = conv_net()
    space = trace_space(model, torch.randn(1, 3, 8, 8), partial(SearchSpace.build))
    for measure in (measure_table, find_table):
        with pytest.raises(InvalidArgumentError, match=match):
            measure(model, space, torch.randn(1, 3, 8, 8), LatencySettings(device=device))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [({"batch_size": 0}, "batch_size"), ({"candidates": 3}, "candidates"), ({"seconds": -1}, "seconds")],
)
def test_settings_are_checked(wrong: dict[str, float], match: str) -> None:
    """A number out of range is refused by name."""
    with pytest.raises(InvalidArgumentError, match=match):
        LatencySettings(**wrong)  # type: ignore[arg-type]
