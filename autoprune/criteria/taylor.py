"""Molchanov et al., "Pruning convolutional neural networks for resource efficient inference" (ICLR 2017).

Multiply a channel by a gate that stands at 1. To first order, closing the gate changes the loss by its derivative,
which is the sum of weight times gradient over every weight that reads the channel: its slices in *all* consumers,
however many layers produce or consume it. The score is the absolute change, averaged over batches (equation 8, with
batches for examples). Channels that no weight reads (queries and keys meet in a product) are gated where they are
produced. The paper finds that scores must be normalized within a layer before layers are compared, and divides by the
L2 norm; here every group is divided by its mean, as for the other criteria. Gradients are taken in eval mode, on a
copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.criteria.evidence import Evidence, Scores, channel_rows, member_axes, relative
from autoprune.errors import DataError
from autoprune.surgery.copying import copy_with
from autoprune.surgery.matching import model_tensors


@dataclass(frozen=True)
class TaylorSettings:
    """Settings of ``taylor``.

    Attributes:
        squared: average the squared changes over batches instead of their absolute values (Molchanov et al.,
            "Importance estimation for neural network pruning", CVPR 2019, equation 8).
    """

    squared: bool = False


@torch.no_grad()
def score(evidence: Evidence) -> Scores:
    """Return the relative mean absolute first-order change of the loss when a channel goes, per group.

    A group is NaN where a layer ran that reads it, and no gradient arrived: the model detached its output, or ran it
    without gradients. A layer that did not run (an auxiliary head) changes nothing, which is known.

    Raises:
        DataError: there is no loss or no batch.
    """
    if evidence.loss is None or evidence.batches is None:
        msg = "the criterion 'taylor' needs batches and a loss"
        raise DataError(msg)
    structure = evidence.structure
    model = copy_with(evidence.model, ((tensor, tensor.detach().clone()) for tensor in evidence.tensors.values()))
    model.requires_grad_(requires_grad=False).eval()
    tensors = model_tensors(model, structure)
    gated = [
        list(member_axes(structure, group, ("in",))) or list(member_axes(structure, group, ("out",)))
        for group in structure.groups
    ]
    weights = {name: tensors[name].requires_grad_() for name in sorted({a.tensor for axes in gated for a in axes})}
    ran: set[nn.Module] = set()
    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):  # knows no hooks, and has no weights
            module.register_forward_hook(lambda module, *_: ran.add(module))
    blocked: set[str] = set()
    totals = [np.zeros(group.width) for group in structure.groups]
    n_batches = 0
    for batch in evidence.batches:
        ran.clear()
        with torch.enable_grad():
            loss = evidence.loss(model, batch)
            if loss.requires_grad:
                loss.backward()  # not autograd.grad: checkpointing forbids that
        blocked |= {name for name, weight in weights.items() if weight.grad is None and _owner(model, name) in ran}
        changes = {name: _change(weight) for name, weight in weights.items()}
        for weight in weights.values():
            weight.grad = None
        for total, axes, group in zip(totals, gated, structure.groups, strict=True):
            rows = [channel_rows(changes[axis.tensor], axis, group).sum(dim=1) for axis in axes]
            change = sum(rows, torch.zeros(group.width, dtype=torch.float64)).numpy()
            total += change**2 if evidence.settings.squared else np.abs(change)
        n_batches += 1
    if not n_batches:
        msg = "the criterion 'taylor' needs at least one batch, got none"
        raise DataError(msg)
    return tuple(
        np.full(len(total), np.nan) if any(axis.tensor in blocked for axis in axes) else relative(total / n_batches)
        for total, axes in zip(totals, gated, strict=True)
    )


def _change(weight: Tensor) -> Tensor:
    """Return what the loss changes by when each weight goes, to first order and up to its sign; real."""
    return torch.zeros_like(weight) if weight.grad is None else (weight * weight.grad.conj()).real


def _owner(model: nn.Module, tensor: str) -> nn.Module:
    """Return the module that has the tensor of this name."""
    return model.get_submodule(tensor.rpartition(".")[0])
