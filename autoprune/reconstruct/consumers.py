"""Which weights read prunable channels, and how their inputs unfold into features."""

from __future__ import annotations

from dataclasses import dataclass

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
        """Size of the float64 second moments of all blocks."""
        return 8 * self.blocks * (self.features + 1) ** 2


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
        if leaf != "weight" or not isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            continue
        conv = isinstance(module, nn.modules.conv._ConvNd)
        transposed = conv and module.transposed
        blocks = module.groups if conv else 1
        if axis.dim != (0 if transposed else 1):
            continue
        if conv and (_is_depthwise(module) or (transposed and blocks > 1)):
            continue  # depthwise kernels pass the channel on; the next dense consumer is reconstructed
        taps = 1
        for size in module.kernel_size if conv else ():
            taps *= size
        shared = transposed or (conv and (axis.genes.size * taps > max_features or _bytes(axis, taps, blocks) > left))
        consumer = Consumer(axis.tensor, owner, axis, blocks, taps, shared, module.bias is not None)
        if consumer.features > max_features or consumer.bytes > left:
            continue
        left -= consumer.bytes
        found.append(consumer)
    return tuple(found)


def _is_depthwise(module: nn.modules.conv._ConvNd) -> bool:
    return bool(module.groups > 1 and module.groups == module.in_channels)


def _bytes(axis: Axis, taps: int, blocks: int) -> int:
    return int(8 * blocks * (axis.genes.size * taps + 1) ** 2)
