"""Soft gates: a number in 0..1 per channel that scales what the channel gives to everything that reads it.

A gate acts on weights, not on activations: the gate of channel c multiplies c's slice of every tensor that *consumes* c
(the axes of role ``"in"``). That needs no hook in any architecture, is shared along residual streams by construction,
and equals a gate on the activation wherever the consumer is linear. A gate of 0 makes the model compute what the sliced
model does, a gate of 1 leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoprune.core.groups import BoolArray, IntArray, Structure
from autoprune.errors import InvalidArgumentError
from autoprune.surgery.matching import model_tensors
from autoprune.surgery.reading import reading_axes


@dataclass(frozen=True, eq=False)
class GateLayout:
    """Maps gates to the weights that they scale.

    Attributes:
        gene_of: (n_gates,) the channel of every gate, increasing within a consumer.
        group_of: (n_gates,) the group of that channel.
        consumer_of: (n_gates,) the consumer that has the gate to itself; all 0 where consumers share their gates.
        axes: per consumer tensor, ``(dim, gates)`` pairs: the gate of every position, n_gates where there is none.
    """

    gene_of: IntArray
    group_of: IntArray
    consumer_of: IntArray
    axes: Mapping[str, tuple[tuple[int, IntArray], ...]]

    @property
    def n_gates(self) -> int:
        """Number of gates."""
        return len(self.gene_of)

    @cached_property
    def blocks(self) -> tuple[tuple[int, IntArray], ...]:
        """The gates that one consumer (or all, where they share) has for one group, as ``(group, gates)`` pairs.

        Sorted by group; the blocks of one group follow each other as their consumers do.
        """
        keys = np.stack([self.group_of, self.consumer_of])
        found, block_of = np.unique(keys, axis=1, return_inverse=True)
        return tuple(
            (int(group), np.flatnonzero(block_of.reshape(-1) == i)) for i, group in enumerate(found[0].tolist())
        )

    @classmethod
    def of(cls, structure: Structure, *, kept: BoolArray | None = None, shared: bool = True) -> GateLayout:
        """Lay out the gates of a model.

        Args:
            structure: the structure traced from the dense model.
            kept: (n_genes,) boolean array where the gated model is a sliced one; all channels by default.
            shared: one gate per channel; otherwise one per channel and consumer, so that a layer on a residual stream
                may ignore a channel that another one reads.
        """
        kept = np.ones(structure.n_genes, dtype=np.bool_) if kept is None else kept
        all_axes = {axis.key: axis for axis in structure.axes}
        reads = [
            (tensor, dim, genes[structure.kept_positions(all_axes[tensor, dim], kept)])
            for tensor, dim, genes in reading_axes(structure)
        ]
        own = [np.unique(genes[genes >= 0]) for _, _, genes in reads]
        blocks = [np.flatnonzero(kept)] if shared else own
        starts = np.cumsum([0, *map(len, blocks)])
        n_gates = int(starts[-1])
        axes: dict[str, list[tuple[int, IntArray]]] = {}
        for i, (tensor, dim, genes) in enumerate(reads):
            block = 0 if shared else i
            gates = np.where(genes < 0, n_gates, starts[block] + np.searchsorted(blocks[block], genes))
            axes.setdefault(tensor, []).append((dim, gates))
        gene_of = np.concatenate(blocks).astype(np.int64)
        return cls(
            gene_of,
            structure.group_of[gene_of],
            np.repeat(np.arange(len(blocks)), [len(block) for block in blocks]),
            {tensor: tuple(found) for tensor, found in axes.items()},
        )


class SoftGatedModel(nn.Module):
    """A model whose channels are scaled by `gates`; called, trained and moved like the model itself.

    Gradients reach the gates and the weights. Parameters, buffers (BatchNorm statistics are updated as usual) and hooks
    are the model's own: nothing is copied.

    Args:
        model: the dense model that was traced, or the sliced one that ``kept`` gives.
        structure: the traced structure of the model.
        kept: (n_genes,) boolean array where the model is a sliced one; removed channels have no gate.
        shared: whether the consumers of a channel share its gate; see `GateLayout.of`.

    Attributes:
        layout: maps gates to what they scale; by default gate i is that of gene i.
        gates: (n_gates,) float tensor, set before every call; on the model's device.

    Raises:
        SurgeryError: the dense model does not match the structure.
    """

    def __init__(
        self, model: nn.Module, structure: Structure, *, kept: BoolArray | None = None, shared: bool = True
    ) -> None:
        super().__init__()
        if kept is None:
            model_tensors(model, structure)
        self.model = model
        self.layout = GateLayout.of(structure, kept=kept, shared=shared)
        self.gates: Tensor = torch.ones(self.layout.n_gates)
        self._axes = {
            name: [(dim, torch.from_numpy(gates)) for dim, gates in axes] for name, axes in self.layout.axes.items()
        }
        self._parameters_read = {info.name for info in structure.tensors if info.kind == "parameter"}

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Call the model with its consumer weights scaled by the gates.

        Raises:
            InvalidArgumentError: there are more or fewer gates than the layout has.
        """
        return functional_call(self.model, self.gated_weights(), inputs, named)

    def gated_weights(self) -> dict[str, Tensor]:
        """Return the scaled consumer weights by name.

        Raises:
            InvalidArgumentError: there are more or fewer gates than the layout has.
        """
        if self.gates.shape != (self.layout.n_gates,):
            msg = f"expected gates of shape ({self.layout.n_gates},), got {tuple(self.gates.shape)}"
            raise InvalidArgumentError(msg)
        padded = torch.cat([self.gates, self.gates.new_ones(1)])  # positions that no gate scales read the 1
        scaled = {}
        for name, axes in self._axes.items():
            is_parameter = name in self._parameters_read
            weight = self.model.get_parameter(name) if is_parameter else self.model.get_buffer(name)
            own = weight.dtype
            for dim, gates in axes:
                shape = [-1 if d == dim else 1 for d in range(weight.dim())]
                weight = weight * padded[gates.to(padded.device)].view(shape)
            scaled[name] = weight.to(own)  # gates may be finer than a model in half precision
        return scaled
