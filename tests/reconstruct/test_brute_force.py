"""Closed-form reconstruction against least squares on the raw outputs of every kind of consumer."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.core.groups import BoolArray
from autoprune.reconstruct import Consumer, LeastSquares
from autoprune.reconstruct.least_squares import DAMPING
from autoprune.surgery.matching import model_weights
from tests.reconstruct.consumer_kinds import NETWORKS, make_case, random_kept


def inputs_of(model: nn.Module, name: str, batches: list[Tensor]) -> Tensor:
    """Return everything that arrives at a module, in float64."""
    seen: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0].double()))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    hook.remove()
    return torch.cat(seen)


@torch.no_grad()
def outputs_by_channel(module: nn.Module, x: Tensor) -> Tensor:
    """Return (o, rows) outputs."""
    y = module(x)
    return (y if isinstance(module, nn.Linear) else y.movedim(1, -1)).flatten(0, -2).T


@torch.no_grad()
def brute_force(module: Any, consumer: Consumer, x: Tensor, stays: BoolArray, *, absorbs: bool) -> Tensor:
    """Return the weight that minimizes the damped squared error of the raw outputs, one output at a time.

    The layer is linear in its weight: its response to a weight of zeros with a single one is a column of the design.
    """
    module = copy.deepcopy(module).double()
    dense = module.weight.detach().clone()
    if module.bias is not None:
        module.bias.data.zero_()
    target = outputs_by_channel(module, x)
    found = dense.clone()
    rows_dim = 1 if consumer.axis.dim == 0 else 0
    positions = np.broadcast_to(
        stays.reshape([-1 if dim == consumer.axis.dim else 1 for dim in range(dense.dim())]), dense.shape
    )
    for output in range(dense.shape[rows_dim]):
        own = np.zeros(dense.shape, dtype=bool)
        own[(slice(None),) * rows_dim + (output,)] = True
        free = np.argwhere(positions & own)
        columns = []
        for position in free:
            module.weight.data.zero_()
            module.weight.data[tuple(position)] = 1
            columns.append(outputs_by_channel(module, x)[output])
        design, wanted = torch.stack(columns, 1), target[output]
        if absorbs:
            design, wanted = design - design.mean(0), wanted - wanted.mean()
        # one row per output position; a transposed kernel puts every input at a place of its own for each of its taps
        rows = len(wanted) / (consumer.taps if consumer.shared_taps else 1)
        damping = DAMPING * float(design.square().sum(0).mean()) / rows
        plain = dense[tuple(free.T)]
        left = torch.cat([design, np.sqrt(rows * damping) * torch.eye(len(free), dtype=torch.float64)])
        right = torch.cat([wanted, np.sqrt(rows * damping) * plain])
        found[tuple(free.T)] = torch.linalg.lstsq(left, right[:, None], driver="gelsd").solution[:, 0]
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_every_consumer_equals_brute_force(name: str) -> None:
    """The new weights, and the bias that takes the constant, are those that least squares on raw outputs finds."""
    model, structure, batches, consumers, moments = make_case(name)
    weights = model_weights(model, structure)
    kept = random_kept(structure)
    changed = LeastSquares(weights, consumers, moments, max_bytes=0)(kept)
    assert changed
    for consumer in consumers:
        stays = (consumer.axis.genes < 0) | kept[consumer.axis.genes]
        if stays.all():
            continue
        module = model.get_submodule(consumer.module)
        absorbs = moments[consumer.weight].absorbs_constant
        x = inputs_of(model, consumer.module, batches)
        expected = brute_force(module, consumer, x, stays, absorbs=absorbs)
        index = torch.from_numpy(np.flatnonzero(stays))
        mine, theirs = (w.double().index_select(consumer.axis.dim, index) for w in (changed[consumer.weight], expected))
        torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=2e-3)
        if consumer.has_bias and not consumer.shared_taps:
            solved = copy.deepcopy(module)
            solved.weight.data = torch.zeros_like(expected)
            solved.weight.data.index_copy_(consumer.axis.dim, index, theirs)
            solved.bias.data = changed[f"{consumer.module}.bias"].double()
            wanted, got = (outputs_by_channel(m.double(), x).mean(1) for m in (copy.deepcopy(module), solved))
            torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-3)
