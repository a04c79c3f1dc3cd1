"""Streams: what is recognised as one, that turning it changes nothing, and that the best basis is the best."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.reconstruct.finding import find_streams
from autoprune.reconstruct.streams import Stream, StreamMoments, best_basis, turn
from autoprune.surgery.copying import copy_model
from autoprune.trace import trace
from autoprune.train.recalibrate import norm_statistics, recalibrate


class Bottlenecks(nn.Module):
    """Two inverted residuals and a head; what stands behind a bottleneck is given.

    Args:
        norm: makes the norm of a bottleneck of so many channels.
        between: what every bottleneck goes through.
        bias: whether convolutions have one.
    """

    def __init__(
        self,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        between: Callable[[Tensor], Tensor] = lambda x: x,
        *,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.between = between
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
        self.norm = norm(6)
        self.expand = nn.Conv2d(6, 12, 1, bias=bias)
        self.middle = nn.BatchNorm2d(12)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=bias)
        self.project = nn.Conv2d(12, 6, 1, bias=bias)
        self.last = norm(6)
        self.head = nn.Conv2d(6, 5, 3, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 5) scores."""
        x = self.between(self.norm(self.stem(x)))
        y = self.deep(F.relu6(self.middle(self.expand(x))).relu())
        x = self.between(x + self.last(self.project(y)))
        return self.head(x).relu().mean((2, 3))


@dataclass
class Answer:
    scores: Tensor


class LinearPair(nn.Module):
    """A factorised linear layer, as low-rank adapters leave them."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.head = nn.Linear(12, 6), nn.Linear(6, 12, bias=False), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 3) scores."""
        return self.head(F.gelu(self.up(self.down(x.flatten(1)[:, :12]))))


class Concatenated(nn.Module):
    """Two convolutions, one of them transposed later, whose channels are read side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 1)
        self.up = nn.ConvTranspose2d(10, 5, 2, stride=2)
        self.head = nn.Conv2d(5, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 4) scores."""
        x = torch.cat([self.left(x), self.right(x)], dim=1)
        return self.head(self.up(F.avg_pool2d(x, 2))).relu().mean((2, 3))


def images(n: int = 32) -> Tensor:
    """Return small random images."""
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def learned(model: nn.Module) -> nn.Module:
    """Give batch norms statistics of their inputs, and scales and shifts that are not those of the start."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                module.weight.uniform_(0.5, 2, generator=generator)
                module.bias.normal_(generator=generator)
    recalibrate(model.eval(), [(images(), torch.zeros(32))])
    return model.eval()


def found_in(model: nn.Module) -> tuple[Stream, ...]:
    """Return the streams of a model."""
    structure = trace(model, images(2), validate=False)
    return find_streams(model, structure, images(4), range(len(structure.groups)))


STREAMS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "bottlenecks": (Bottlenecks, 1),
    "with biases": (lambda: Bottlenecks(bias=True), 1),
    "without norms": (lambda: Bottlenecks(lambda _: nn.Identity(), bias=True), 1),
    "pooled": (lambda: Bottlenecks(between=lambda x: F.avg_pool2d(x, 3, 1, 1)), 1),
    "dropped out": (lambda: Bottlenecks(between=lambda x: F.dropout(x, training=False)), 1),
    "linear layers": (LinearPair, 1),
    "side by side": (Concatenated, 3),
}

NOT_STREAMS: dict[str, Callable[[], nn.Module]] = {
    "rectified": lambda: Bottlenecks(between=F.relu),
    "maximum": lambda: Bottlenecks(between=lambda x: F.max_pool2d(x, 3, 1, 1)),
    "gated": lambda: Bottlenecks(between=lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()),
    "group norm": lambda: Bottlenecks(lambda n: nn.GroupNorm(1, n)),
    "without scales": lambda: Bottlenecks(lambda n: nn.BatchNorm2d(n, affine=False)),
    "without statistics": lambda: Bottlenecks(lambda n: nn.BatchNorm2d(n, track_running_stats=False)),
    "squashed": lambda: Bottlenecks(between=torch.tanh),
    "of length one": lambda: Bottlenecks(between=lambda x: F.normalize(x, dim=1)),
}


@pytest.mark.parametrize("name", STREAMS)
def test_turning_a_stream_changes_nothing(name: str) -> None:
    """Into any basis, not only by a rotation: outputs are those of before, up to rounding."""
    make, n_streams = STREAMS[name]
    torch.manual_seed(0)
    model = learned(make())
    streams = found_in(model)
    assert len(streams) == n_streams
    turned = copy_model(model)
    for stream in streams:
        heads, width = stream.shape
        before = {key: tensor.clone() for key, tensor in turned.state_dict().items()}
        drawn = torch.randn(heads, width, width, dtype=torch.float64)
        turn(turned, stream, drawn + 2 * torch.eye(width, dtype=torch.float64))
        assert any(not torch.equal(before[key], tensor) for key, tensor in turned.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(turned(images()), model(images()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NOT_STREAMS)
def test_what_is_not_linear_is_no_stream(name: str) -> None:
    """A rectifier, a maximum, a gate, a norm over channels, or one that has no scale to hand over."""
    torch.manual_seed(0)
    assert found_in(learned(NOT_STREAMS[name]())) == ()


@pytest.mark.parametrize("wrap", [Answer, lambda scores: {"answer": [scores]}, lambda scores: (scores, None)])
def test_outputs_of_any_form_are_looked_at(wrap: Callable[[Tensor], object]) -> None:
    """What is rectified is no stream of a model that answers with a data class, a mapping or a tuple, either."""

    class Wrapped(Bottlenecks):
        def forward(self, x: Tensor) -> object:  # type: ignore[override]
            return wrap(super().forward(x))

    torch.manual_seed(0)
    assert found_in(learned(Wrapped(between=F.relu))) == ()
    assert len(found_in(learned(Wrapped()))) == 1


def test_norms_have_the_variances_of_the_new_channels() -> None:
    """Recalibrated on the same items a turned model keeps its statistics: they are those of its channels."""
    torch.manual_seed(0)
    model = learned(Bottlenecks())
    (stream,) = found_in(model)
    moments = StreamMoments(model, [stream])
    with torch.no_grad(), moments.watching():
        model(images())
    basis = best_basis(model, stream, moments)
    assert basis is not None
    turn(model, stream, basis, moments)
    handed_over = norm_statistics(model)
    recalibrate(model, [(images(), torch.zeros(32))])
    for name, wanted in norm_statistics(model).items():
        torch.testing.assert_close(handed_over[name], wanted, rtol=1e-2, atol=1e-4)


def test_the_first_channels_of_the_best_basis_lose_least() -> None:
    """For one reader no subset of as many channels, re-solved by least squares, loses less, and no other direction."""
    torch.manual_seed(0)
    model = LinearPair().double().eval()
    inputs = torch.randn(200, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    structure = trace(model, inputs[:2], validate=False)
    (stream,) = find_streams(model, structure, inputs[:4], range(len(structure.groups)))
    moments = StreamMoments(model, [stream])
    with torch.no_grad(), moments.watching():
        model(inputs)

    def loss(channels: Tensor) -> float:
        wanted = model.up(model.down(inputs))
        return float((wanted - channels @ torch.linalg.lstsq(channels, wanted).solution).square().sum())

    basis = best_basis(model, stream, moments)
    assert basis is not None
    with torch.no_grad():
        plain = model.down(inputs)
        for k in range(1, 6):
            ours = loss(plain @ basis[0, :, :k])
            assert ours <= 1.001 * min(loss(plain[:, list(kept)]) for kept in itertools.combinations(range(6), k))
            others = [loss(plain @ torch.randn(6, k, dtype=torch.float64)) for _ in range(50)]
            assert ours <= 1.001 * min(others)
