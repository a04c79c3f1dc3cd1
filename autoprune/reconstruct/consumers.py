"""Which weights read prunable channels, and how their inputs unfold into features."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import nn

from autoprune.core.groups import Axis, Structure


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
    def bytes(self) -> int:
        """Size of the second moments of all blocks."""
        return 4 * self.blocks * self.features * (self.features + 1)


def find_consumers(
    model: nn.Module, structure: Structure, *, max_features: int = 4608, max_bytes: int = 2 * 2**30
) -> tuple[Consumer, ...]:
    """Find the convolutions and linear layers that read prunable channels.

    A consumer whose features exceed ``max_features``, or that would take the total of all second moments beyond
    ``max_bytes``, mixes channels alike for all its taps; one that is still too large keeps its plain weights and is
    left out, as are weights used without a module.

    Args:
        model: the dense model.
        structure: what the trace found.
        max_features: largest feature count with a full second moment.
        max_bytes: memory for all second moments together.

    Returns:
        The consumers, in the order of the structure's axes.
    """
    modules = dict(model.named_modules())
    found: list[Consumer] = []
    left = max_bytes
    for axis in structure.axes:
        owner, _, leaf = axis.tensor.rpartition(".")
        module = modules.get(owner)
        if leaf != "weight":
            continue
        if isinstance(module, nn.Linear):
            consumer = Consumer(axis.tensor, owner, axis, 1, 1, False, module.bias is not None)
            reads = axis.dim == 1
        elif isinstance(module, nn.modules.conv._ConvNd):
            taps = math.prod(module.kernel_size)
            full = Consumer(axis.tensor, owner, axis, module.groups, taps, module.transposed, module.bias is not None)
            fits = full.features <= max_features and full.bytes <= left
            consumer = full if fits else replace(full, shared_taps=True)
            reads = axis.dim == (0 if module.transposed else 1) and not _passes_on(module)
        else:
            continue
        if not reads:
            continue
        if consumer.features > max_features or consumer.bytes > left:
            continue
        left -= consumer.bytes
        found.append(consumer)
    return tuple(found)


def _passes_on(module: nn.modules.conv._ConvNd) -> bool:
    """Whether the kernel has no input channels to mix: the next dense consumer is reconstructed instead."""
    depthwise = module.groups > 1 and module.groups == module.in_channels
    return depthwise or (module.transposed and module.groups > 1)
