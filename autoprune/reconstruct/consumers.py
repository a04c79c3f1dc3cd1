"""The weights that read prunable channels, and how their inputs unfold into features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from autoprune.core.groups import Axis, Structure

MAX_FEATURES = 4608
"""Features of a 3x3 convolution over 512 channels: second moments of 85 MB, a factorisation of about a second."""

MAX_BYTES = 2 * 2**30


@dataclass(frozen=True, eq=False)
class Consumer:
    """A weight that reads channels that can be cut.

    A consumer computes ``W x`` for input features ``x``: one feature per (input channel, kernel tap). Where the whole
    second moment of the features is too large, or the taps do not act at one place (transposed convolution), channels
    are mixed alike for all taps: the features are then the channels alone (``shared_taps``).

    Attributes:
        weight: name of the weight tensor.
        module: dotted name of the module that owns it.
        axis: the input axis of the weight; several positions may belong to one channel (flatten).
        blocks: convolution groups; each block of outputs reads its own block of inputs.
        taps: kernel elements per input channel.
        shared_taps: whether the features are channels rather than (channel, tap) pairs.
        has_bias: whether a constant can be put into the consumer's own bias.
    """

    weight: str
    module: str
    axis: Axis
    blocks: int
    taps: int
    shared_taps: bool
    has_bias: bool

    @property
    def features(self) -> int:
        """Features per block."""
        return int(self.axis.genes.size) * (1 if self.shared_taps else self.taps)

    @property
    def takes_constant(self) -> bool:
        """Whether its bias can take what its inputs contribute on average."""
        return self.has_bias and not self.shared_taps

    @property
    def why(self) -> str:
        """Why taps are shared, "" where they are not."""
        if not self.shared_taps:
            return ""
        return "its taps act on places of their own" if self.axis.dim == 0 else "too large tap by tap"

    @property
    def bytes(self) -> int:
        """Size of the second moments of all blocks."""
        return 4 * self.blocks * self.features * (self.features + 1)


@dataclass(frozen=True, eq=False)
class Survey:
    """The weights that can be re-solved, and those that stay plain, with the reason.

    Attributes:
        consumers: the consumers, in the order of the structure's axes.
        left_out: the reason by the name of a weight that reads prunable channels and is no consumer.
    """

    consumers: tuple[Consumer, ...]
    left_out: Mapping[str, str]


def survey(
    model: nn.Module, structure: Structure, *, max_features: int = MAX_FEATURES, max_bytes: int = MAX_BYTES
) -> Survey:
    """Find the convolutions and linear layers that read prunable channels.

    A consumer whose features exceed ``max_features``, or that would take the total of all second moments beyond
    ``max_bytes``, mixes channels alike for all its taps; one that is still too large keeps its plain weights, as do
    weights used without a module. Depthwise kernels mix nothing: what reads their outputs is re-solved.

    Args:
        model: the dense model.
        structure: the traced structure of the model.
        max_features: largest feature count with a full second moment.
        max_bytes: memory for all second moments together.
    """
    modules = dict(model.named_modules())
    roles = {(tensor, dim): role for group in structure.groups for tensor, dim, role, _ in group.axes}
    found: list[Consumer] = []
    left_out: dict[str, str] = {}
    left = max_bytes
    for axis in structure.axes:
        if roles.get(axis.key) != "in":
            continue
        owner, _, leaf = axis.tensor.rpartition(".")
        module = modules.get(owner)
        if leaf != "weight" or not isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            left_out[axis.tensor] = "not the weight of a convolution or linear layer"
            continue
        if any(statistic.module == owner for statistic in structure.statistics):
            left_out[axis.tensor] = "standardized by its layer, whatever it is set to"
            continue
        if isinstance(module, nn.modules.conv._ConvNd) and module.transposed and module.groups > 1:
            left_out[axis.tensor] = "a grouped transposed convolution"
            continue
        consumer = _consumer(module, owner, axis)
        if not (consumer.features <= max_features and consumer.bytes <= left):
            consumer = replace(consumer, shared_taps=True)
        if consumer.features > max_features or consumer.bytes > left:
            left_out[axis.tensor] = f"too large: {consumer.features} features, {consumer.bytes:,} bytes"
            continue
        left -= consumer.bytes
        found.append(consumer)
    return Survey(tuple(found), left_out)


def find_consumers(model: nn.Module, structure: Structure) -> tuple[Consumer, ...]:
    """Return the consumers of `survey` with its default limits."""
    return survey(model, structure).consumers


def _consumer(module: nn.Linear | nn.modules.conv._ConvNd, name: str, axis: Axis) -> Consumer:
    has_bias = module.bias is not None
    if isinstance(module, nn.Linear):
        return Consumer(axis.tensor, name, axis, 1, 1, False, has_bias)
    taps = math.prod(module.kernel_size)
    return Consumer(axis.tensor, name, axis, module.groups, taps, module.transposed, has_bias)
