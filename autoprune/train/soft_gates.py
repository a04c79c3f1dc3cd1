"""Soft gates: a number in 0..1 per channel that scales what the channel gives to everything that reads it.

A gate acts on weights: the gate of channel c multiplies c's slice of every tensor that *consumes* c (the axes of role
``"in"``). That needs no hook in any architecture, is shared along residual streams by construction, and equals a gate
on what the consumer reads wherever it is linear. A gate of 0 makes the model compute what the sliced model does, a gate
of 1 leaves it as it is.

Where weights stay as they are, and all consumers are convolutions and linear layers, gates scale what these read
instead. The function is the same, but then no gradient of a weight is needed: two passes rather than three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

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
        on_inputs: scale what consumers read, not their weights; only where `can_gate_inputs` says so.

    Attributes:
        layout: maps gates to what they scale; by default gate i is that of gene i.
        gates: (n_gates,) float tensor, set before every call; on the model's device.

    Raises:
        SurgeryError: the dense model does not match the structure.
    """

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        kept: BoolArray | None = None,
        shared: bool = True,
        on_inputs: bool = False,
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
        self._on_inputs = on_inputs

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Call the model with its consumer weights, or what these read, scaled by the gates.

        Raises:
            InvalidArgumentError: there are more or fewer gates than the layout has.
        """
        if not self._on_inputs:
            return functional_call(self.model, self.gated_weights(), inputs, named)
        padded = self._padded()
        with _GatedInputs(
            {self._tensor(name): padded[axes[0][1].to(padded.device)] for name, axes in self._axes.items()}
        ):
            return self.model(*inputs, **named)

    def gated_weights(self) -> dict[str, Tensor]:
        """Return the scaled consumer weights by name.

        Raises:
            InvalidArgumentError: there are more or fewer gates than the layout has.
        """
        padded = self._padded()
        scaled = {}
        for name, axes in self._axes.items():
            weight = self._tensor(name)
            own = weight.dtype
            for dim, gates in axes:
                shape = [-1 if d == dim else 1 for d in range(weight.dim())]
                weight = weight * padded[gates.to(padded.device)].view(shape)
            scaled[name] = weight.to(own)  # gates may be finer than a model in half precision
        return scaled

    def _padded(self) -> Tensor:
        """Return the gates and a 1, which positions read that no gate scales."""
        if self.gates.shape != (self.layout.n_gates,):
            msg = f"expected gates of shape ({self.layout.n_gates},), got {tuple(self.gates.shape)}"
            raise InvalidArgumentError(msg)
        return torch.cat([self.gates, self.gates.new_ones(1)])

    def _tensor(self, name: str) -> Tensor:
        return self.model.get_parameter(name) if name in self._parameters_read else self.model.get_buffer(name)


_LINEAR = (functional.linear, functional.conv1d, functional.conv2d, functional.conv3d)
"""What multiplies the weight in its second argument with the channels of its first, as torch passes them to a mode."""


def can_gate_inputs(model: nn.Module, structure: Structure, run: Callable[[nn.Module], Any]) -> bool:
    """Say whether gates on what consumers read make the function of gates on their weights, for two passes.

    So it is where every consumer does nothing in a pass but multiply the channels of its input, and where no product of
    activations takes part, whose gradients are two.

    Args:
        model: the model that was traced.
        structure: its structure.
        run: calls the model as it will be called.
    """
    axes = GateLayout.of(structure).axes
    if any(len(found) != 1 or found[0][0] != 1 for found in axes.values()):
        return False
    if any(operator.kind not in ("conv", "linear") for operator in structure.operators):
        return False
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    uses = _Uses(tensors[name] for name in axes)
    with uses:
        run(model)
    return uses.are_linear


class _GatedInputs(TorchFunctionMode):
    """Scales the channels of whatever is multiplied with some weights.

    Args:
        gates: (c,) gates of the input channels, by weight.
    """

    def __init__(self, gates: Mapping[Tensor, Tensor]) -> None:
        super().__init__()
        self._gates = {id(weight): (weight.dim() - 2, gate) for weight, gate in gates.items()}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func``, its input scaled where its weight has gates."""
        kwargs = kwargs or {}
        if func in _LINEAR and len(args) > 1 and id(args[1]) in self._gates:
            x, (n_behind, gate) = args[0], self._gates[id(args[1])]
            gate = gate.to(x.device).view(-1, *[1] * n_behind)
            args = ((x * gate).to(x.dtype), *args[1:])  # gates may be finer than a model in half precision
        return func(*args, **kwargs)


class _Uses(TorchFunctionMode):
    """Watches how weights are used in a pass.

    Attributes:
        are_linear: whether all weights have multiplied the channels of an input, and nothing else was done with them.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self._unseen = {id(weight) for weight in weights}
        self._weights = frozenset(self._unseen)
        self._others = 0

    @property
    def are_linear(self) -> bool:
        return not self._unseen and not self._others

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func``, and note what it does with the weights."""
        kwargs = kwargs or {}
        met = [id(leaf) for leaf in tree_leaves((args, kwargs)) if id(leaf) in self._weights]
        is_linear = (
            func in _LINEAR
            and len(args) > 1
            and met == [id(args[1])]
            and args[0].shape[1 - args[1].dim()] == args[1].shape[1]  # a grouped convolution reads parts of its input
        )
        self._unseen -= set(met) if is_linear else set()
        self._others += 0 if is_linear else len(met)
        return func(*args, **kwargs)
