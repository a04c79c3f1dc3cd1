"""Sequential polish of a cut model: each consumer is re-solved on what really arrives at it.

`reconstruct` solves every consumer as if everything before it were still dense. Here the consumers are taken in
execution order; with ``x`` the input of a consumer in the dense model and ``x'`` in the cut one, whose earlier layers
are polished already, the weights ``V`` of the cut consumer become the minimizer of

    E ||W x - V x'||^2 + damping ||V - V_0||^2,   that is   V = V_0 + (W A - V_0 B) (B + damping I)^-1,      (1)

``A = E x x'^T`` and ``B = E x' x'^T``, so errors made upstream are undone as well. As in `least_squares` the penalty
shrinks towards the weights that were there: no consumer gets worse on the calibration data. Costs two forward passes
over the calibration batches per consumer: for chosen points, not for every candidate.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.groups import BoolArray, Structure
from autoprune.reconstruct.consumers import Consumer
from autoprune.reconstruct.least_squares import damping, from_features, to_features
from autoprune.reconstruct.statistics import FeatureReader, products
from autoprune.surgery.forward import forward


@torch.no_grad()
def polish(
    dense: nn.Module,
    pruned: nn.Module,
    structure: Structure,
    kept: BoolArray,
    consumers: Sequence[Consumer],
    batches: Sequence[Any],
    absorbing: Collection[str],
    *,
    seed: int = 0,
) -> None:
    """Re-solve the consumers of ``pruned`` one after the other, in place.

    Its BatchNorm statistics are left for the caller to recalibrate; meanwhile its batch norms use the statistics of
    each batch, so that a solved layer is seen as it will be recalibrated.

    Args:
        dense: the model that was cut; unchanged.
        pruned: the cut model.
        structure: what the trace of ``dense`` found; gives the execution order.
        kept: (n_genes,) boolean array, what ``pruned`` still has.
        consumers: from `find_consumers`.
        batches: example inputs, augmented like training items.
        absorbing: names of the weights after which the model absorbs a constant, see `Moments`.
        seed: of the positions that are sampled in large feature maps.
    """
    turns = {operator.module: turn for turn, operator in reversed(list(enumerate(structure.operators)))}
    tensors = dict(dense.named_parameters())
    with _as_calibrated(dense, pruned):
        for consumer in sorted(consumers, key=lambda consumer: turns.get(consumer.module, len(turns))):
            rows = _output_rows(tensors, structure, consumer, kept)
            cross, own = _moments(dense, pruned, consumer, batches, seed)
            _solve(
                pruned.get_submodule(consumer.module), consumer, rows, cross, own, absorbs=consumer.weight in absorbing
            )


def _solve(
    module: nn.Module, consumer: Consumer, dense: Mapping[str, Tensor], cross: Tensor, own: Tensor, *, absorbs: bool
) -> None:
    """Apply equation (1) to the weight, and to the bias that takes the constant."""
    mean_dense, mean_own = cross[:, :-1, -1], own[:, -1, :-1]
    cross, own = cross[:, :-1, :-1], own[:, :-1, :-1]
    if absorbs:
        cross = cross - mean_dense.unsqueeze(2) * mean_own.unsqueeze(1)
        own = own - mean_own.unsqueeze(2) * mean_own.unsqueeze(1)
    weight = module.get_parameter("weight")
    layout = to_features(weight, consumer)
    target, now = to_features(dense["weight"], consumer).double(), layout.double()
    if consumer.shared_taps:
        target, now = target.flatten(1, 2), now.flatten(1, 2)
    factor, info = torch.linalg.cholesky_ex(own + damping(own))
    if int(info.max()) > 0:
        return  # not positive definite in spite of damping: keep what was there
    residual = torch.bmm(target, cross) - torch.bmm(now, own)
    solved = now + torch.cholesky_solve(residual.transpose(1, 2), factor).transpose(1, 2)
    weight.copy_(from_features(solved.reshape(layout.shape), weight, consumer))
    if absorbs and consumer.has_bias and not consumer.shared_taps:
        shift = torch.einsum("bof,bf->bo", target, mean_dense) - torch.einsum("bof,bf->bo", solved, mean_own)
        module.get_parameter("bias").copy_(dense["bias"].double() + shift.reshape(-1))


def _output_rows(
    tensors: Mapping[str, Tensor], structure: Structure, consumer: Consumer, kept: BoolArray
) -> dict[str, Tensor]:
    """Return the dense weight, and bias, of a consumer for the outputs that stay and all its inputs."""
    found = {}
    for leaf in ("weight", "bias"):
        name = consumer.weight.removesuffix("weight") + leaf
        tensor = tensors.get(name)
        if tensor is None:
            continue
        for axis in structure.axes_of.get(name, ()):
            if axis.key != consumer.axis.key:
                positions = torch.from_numpy(structure.kept_positions(axis, kept)).to(tensor.device)
                tensor = tensor.index_select(axis.dim, positions)
        found[leaf] = tensor
    return found


def _moments(
    dense: nn.Module, pruned: nn.Module, consumer: Consumer, batches: Sequence[Any], seed: int
) -> tuple[Tensor, Tensor]:
    """Return (blocks, f + 1, k + 1) means of ``x x'^T`` and (blocks, k + 1, k + 1) means of ``x' x'^T``."""
    inputs: list[Tensor] = []
    readers = [FeatureReader(consumer, model.get_submodule(consumer.module), seed) for model in (dense, pruned)]
    hooks = [
        model.get_submodule(consumer.module).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        for model in (dense, pruned)
    ]
    cross = own = torch.zeros(())
    rows = 0
    try:
        for batch in batches:
            inputs.clear()
            forward(dense, batch)
            forward(pruned, batch)
            half = len(inputs) // 2  # a shared module runs several times
            for x, y in zip(inputs[:half], inputs[half:], strict=True):
                full, cut = readers[0](x), readers[1](y)
                cross = cross + products(full, cut)
                own = own + products(cut, cut)
                rows += full.shape[1]
    finally:
        for hook in hooks:
            hook.remove()
    return cross / rows, own / rows


@contextmanager
def _as_calibrated(dense: nn.Module, pruned: nn.Module) -> Iterator[None]:
    """Put both models in eval mode, but for the batch norms of ``pruned``."""
    flags = [(module, module.training) for model in (dense, pruned) for module in model.modules()]
    dense.eval()
    pruned.eval()
    for module in pruned.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
