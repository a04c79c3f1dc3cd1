"""Second moments of every consumer's input, streamed over calibration batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import DataError
from autoprune.reconstruct.consumers import Consumer
from autoprune.reconstruct.following import OutputFollower
from autoprune.surgery.forward import evaluating, forward
from autoprune.surgery.precision import double, single

ROWS_PER_BATCH = 4096
"""Positions sampled per consumer and batch: second moments of neighbouring positions say nearly the same."""

_WHOLE = 128
"""Features up to which one product is as fast as three of half the size."""

PREFIX = "second moments: "
"""Of the names of tensors that hold moments; no parameter has a name like that."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of one consumer's input features ``x``; complex where these are.

    Attributes:
        gram: (blocks, f, f) float32 tensor, the mean of ``x x^H`` over images and positions; the covariance of ``x``
            where the model absorbs a constant.
        mean: (blocks, f) float32 tensor, the mean of ``x``.
        absorbs_constant: whether a constant added to the output is undone by the model: the consumer has a bias to
            take it, or a batch norm whose running mean is recalibrated takes the output directly.
    """

    gram: Tensor
    mean: Tensor
    absorbs_constant: bool

    @classmethod
    def of(cls, raw: Tensor, *, absorbs_constant: bool) -> Moments:
        """Take apart the (blocks, f + 1, f + 1) float64 mean of ``[x; 1][x; 1]^H``."""
        gram, mean = raw[:, :-1, :-1], raw[:, :-1, -1]
        if absorbs_constant:
            gram = gram - mean.unsqueeze(2) * mean.unsqueeze(1).conj()
        return cls(single(gram), single(mean), absorbs_constant)


def pack_moments(moments: Mapping[str, Moments]) -> dict[str, Tensor]:
    """Return the moments as tensors by name, to be kept beside the weights they are of."""
    packed: dict[str, Tensor] = {}
    for weight, found in moments.items():
        packed[f"{PREFIX}gram.{weight}"] = found.gram
        packed[f"{PREFIX}mean.{weight}"] = found.mean
        packed[f"{PREFIX}absorbs.{weight}"] = torch.tensor(found.absorbs_constant)
    return packed


def unpack_moments(tensors: Mapping[str, Tensor]) -> dict[str, Moments]:
    """Return the moments among ``tensors``; none when there are none."""
    grams = f"{PREFIX}gram."
    return {
        weight: Moments(
            tensor, tensors[f"{PREFIX}mean.{weight}"], absorbs_constant=bool(tensors[f"{PREFIX}absorbs.{weight}"])
        )
        for name, tensor in tensors.items()
        if name.startswith(grams) and (weight := name.removeprefix(grams))
    }


class FeatureReader:
    """Unfolds the input of a consumer into rows of features, at positions that its own generator samples.

    Args:
        consumer: the consumer that reads the input.
        module: the module that owns the weight, in the dense model or in a cut one.
        seed: seed for the positions; readers with the same seed sample the same ones of equally large feature maps.
        max_rows: positions of a batch that are read.

    Attributes:
        n_rows: positions of the latest input, read or not.
    """

    def __init__(self, consumer: Consumer, module: nn.Module, seed: int, max_rows: int = ROWS_PER_BATCH) -> None:
        self._max_rows = max_rows
        self._consumer = consumer
        self._module = module
        self._generator = torch.Generator().manual_seed(seed)
        self._positions = torch.zeros(0, dtype=torch.int64)  # of the latest rows
        self.n_rows = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Return (blocks, rows, f + 1) float32 features of an input activation, the constant 1 last."""
        x = x.detach()
        if isinstance(self._module, nn.Linear) or self._consumer.shared_taps:
            rows = x if isinstance(self._module, nn.Linear) else x.movedim(1, -1)
            rows = rows.flatten(0, -2)  # none of whose sizes is inferred: there may be no channel
            rows = single(rows[self._sample(len(rows), rows.device)])
            blocks = self._consumer.blocks
            features = rows.reshape(len(rows), blocks, rows.shape[1] // blocks).transpose(0, 1)
        else:
            features = self._patches(x)
        return torch.cat([features, features.new_ones(features.shape[0], features.shape[1], 1)], dim=2)

    def sampled(self, y: Tensor) -> Tensor:
        """Sample positions as for the input that belongs to the output ``y``, and return `outputs` of it."""
        n_rows = y.numel() // y.shape[-1 if isinstance(self._module, nn.Linear) else 1]
        self._sample(n_rows, y.device)
        return self.outputs(y)

    def outputs(self, y: Tensor) -> Tensor:
        """Return (rows, o) float32 values, at the positions read last, of what is shaped like the module's output."""
        rows = y.detach() if isinstance(self._module, nn.Linear) else y.detach().movedim(1, -1)
        return single(rows.reshape(-1, rows.shape[-1])[self._positions])

    def _patches(self, x: Tensor) -> Tensor:
        """Return (blocks, rows, channels * taps) patches of a convolution's input at sampled output positions."""
        conv: Any = self._module
        padding = list(conv._reversed_padding_repeated_twice)
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        x = F.pad(x, padding, mode=mode) if any(padding) else x
        channels, sizes = x.shape[1], x.shape[2:]
        steps = [math.prod(sizes[d + 1 :]) for d in range(len(sizes))]  # between neighbours, in rows of channels
        spans = [(k - 1) * dilation for k, dilation in zip(conv.kernel_size, conv.dilation, strict=True)]
        counts = [(size - span - 1) // stride + 1 for size, span, stride in zip(sizes, spans, conv.stride, strict=True)]
        flat = self._sample(len(x) * math.prod(counts), x.device)
        index = torch.zeros_like(flat)
        taps = torch.zeros(1, dtype=torch.int64, device=x.device)
        for d in reversed(range(len(sizes))):
            index += flat % counts[d] * conv.stride[d] * steps[d]
            flat = torch.div(flat, counts[d], rounding_mode="floor")
            along = torch.arange(conv.kernel_size[d], device=x.device) * conv.dilation[d] * steps[d]
            taps = (along[:, None] + taps).flatten()
        index += flat * math.prod(sizes)
        rows = x.movedim(1, -1).flatten(0, -2)  # a view where channels are last in memory
        rows = single(rows.index_select(0, (index[:, None] + taps).flatten()))
        blocks = self._consumer.blocks
        return rows.reshape(len(index), len(taps), blocks, channels // blocks).permute(2, 0, 3, 1).flatten(2)

    def _sample(self, rows: int, device: torch.device) -> Tensor:
        self.n_rows = rows
        if rows <= self._max_rows:
            self._positions = torch.arange(rows, device=device)
        else:
            self._positions = torch.randint(rows, (self._max_rows,), generator=self._generator).to(device)
        return self._positions


def products(left: Tensor, right: Tensor) -> Tensor:
    """Return the (blocks, f, g) float64 sums over rows of (blocks, rows, f) times (blocks, rows, g) features.

    Of complex ones, the second are conjugate and the sums complex128. The products are float32, the sums over chunks
    float64: each chunk is short enough to lose nothing that matters.
    """
    return double(torch.bmm(single(left).transpose(1, 2), single(right).conj()))


def second_moments(features: Tensor) -> Tensor:
    """Return `products` of (blocks, rows, f) features with themselves, each pair of features once."""
    size = features.shape[2]
    if size < _WHOLE:
        return products(features, features)
    halves = features[:, :, : size // 2], features[:, :, size // 2 :]
    across = products(*halves)
    first, second = (second_moments(half) for half in halves)
    return torch.cat([torch.cat([first, across], dim=2), torch.cat([across.mH, second], dim=2)], dim=1)


class _Accumulator:
    """Sums of one consumer."""

    def __init__(self, consumer: Consumer, module: nn.Module, seed: int) -> None:
        self.consumer = consumer
        self.total: Tensor | None = None
        self.rows = 0
        self._read = FeatureReader(consumer, module, seed)

    def add(self, x: Tensor) -> None:
        """Add an input activation."""
        features = self._read(x)
        gram = second_moments(features)
        self.total = gram if self.total is None else self.total.add_(gram)
        self.rows += features.shape[1]


@torch.no_grad()
def collect(
    model: nn.Module, consumers: Sequence[Consumer], batches: Iterable[Any], *, seed: int = 0
) -> dict[str, Moments]:
    """Run the dense model over ``batches`` and accumulate every consumer's second moments.

    Args:
        model: the dense model; its state is left as it was.
        consumers: the consumers whose inputs are observed.
        batches: example inputs (what `autoprune.surgery.forward` takes).
        seed: seed for the positions that are sampled in large feature maps.

    Returns:
        Moments by weight name; consumers that never ran are left out.

    Raises:
        DataError: there is no batch, or an input is not finite.
    """
    modules = dict(model.named_modules())
    sums = {consumer.module: _Accumulator(consumer, modules[consumer.module], seed) for consumer in consumers}
    seen = 0
    follower = OutputFollower(model, sums, lambda name, x, _: sums[name].add(x))
    with follower, evaluating(model):
        for batch in batches:
            forward(model, batch)
            seen += 1
    if not seen:
        msg = "expected at least one calibration batch, got none"
        raise DataError(msg)
    moments = {}
    for total in sums.values():
        if total.total is None:
            continue
        gram = total.total / total.rows
        if not torch.isfinite(gram).all():
            msg = f"the inputs of {total.consumer.module!r} are not finite on the calibration data"
            raise DataError(msg)
        absorbs = total.consumer.takes_constant or total.consumer.module in follower.norms
        moments[total.consumer.weight] = Moments.of(gram, absorbs_constant=absorbs)
    return moments
