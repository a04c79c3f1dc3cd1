"""Soft gates: a number in 0..1 per channel that scales what the channel gives to everything that reads it.

A gate acts on weights, not on activations: the gate of channel c multiplies c's slice of every tensor that *consumes* c
(the axes of role ``"in"``). That needs no hook in any architecture, is shared along residual streams by construction,
and equals a gate on the activation wherever the consumer is linear. A gate of 0 makes the model compute what the sliced
model does, a gate of 1 leaves it as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoprune.core.groups import Structure
from autoprune.errors import InvalidArgumentError
from autoprune.surgery.matching import model_tensors


class SoftGatedModel(nn.Module):
    """A model whose channels are scaled by `gates`; called, trained and moved like the model itself.

    Gradients reach the gates and the weights. Parameters, buffers (BatchNorm statistics are updated as usual) and hooks
    are the model's own: nothing is copied.

    Args:
        model: the dense model that was traced.
        structure: what the trace found.

    Attributes:
        gates: (n_genes,) float tensor, set before every call; on the model's device.

    Raises:
        SurgeryError: the model does not match the structure.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        super().__init__()
        model_tensors(model, structure)
        self.model = model
        self.gates: Tensor = torch.ones(structure.n_genes)
        self._n_genes = structure.n_genes
        self._consumed = _consumed_axes(structure)
        self._parameters_read = {info.name for info in structure.tensors if info.kind == "parameter"}

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Call the model with its consumer weights scaled by the gates.

        Raises:
            InvalidArgumentError: there is not one gate per gene.
        """
        if self.gates.shape != (self._n_genes,):
            msg = f"expected gates of shape ({self._n_genes},), one per channel, got {tuple(self.gates.shape)}"
            raise InvalidArgumentError(msg)
        open_ended = torch.cat([self.gates, self.gates.new_ones(1)])  # positions that no gate drives read the 1
        scaled = {}
        for name, axes in self._consumed.items():
            is_parameter = name in self._parameters_read
            weight = self.model.get_parameter(name) if is_parameter else self.model.get_buffer(name)
            for dim, genes in axes:
                shape = [-1 if d == dim else 1 for d in range(weight.dim())]
                weight = weight * open_ended[genes.to(open_ended.device)].view(shape)
            scaled[name] = weight
        return functional_call(self.model, scaled, inputs, named)


def _consumed_axes(structure: Structure) -> dict[str, list[tuple[int, Tensor]]]:
    """Return, per consumer, the dimensions that read channels and the gene of every position (n_genes: none)."""
    groups_in: dict[tuple[str, int], list[int]] = {}
    for i, group in enumerate(structure.groups):
        for tensor, dim, role, _ in group.axes:
            if role == "in":
                groups_in.setdefault((tensor, dim), []).append(i)
    consumed: dict[str, list[tuple[int, Tensor]]] = {}
    for axis in structure.axes:
        if axis.key in groups_in:
            reads = (axis.genes >= 0) & np.isin(structure.group_of[axis.genes], groups_in[axis.key])
            genes = np.where(reads, axis.genes, structure.n_genes)
            consumed.setdefault(axis.tensor, []).append((axis.dim, torch.from_numpy(genes)))
    return consumed
