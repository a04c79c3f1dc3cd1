"""What a cut model is compared with: the dense model in which removed channels cannot matter any more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from autoprune.core.groups import BoolArray, Structure
from autoprune.surgery.forward import forward
from autoprune.trace._example import tensors_in
from autoprune.trace._neutral import NeutralStatistics


def outputs(model: nn.Module, example: Any) -> list[Tensor]:
    """Run a model in evaluation mode with neutral statistics; return the tensors of its output."""
    model.eval()
    with torch.no_grad(), NeutralStatistics(model):
        return [t.detach() for t in tensors_in(forward(model, example))]


def redraw(model: nn.Module, generator: torch.Generator) -> None:
    """Give every weight, affine and BatchNorm statistic of a model new values, none of them zero.

    A trained or initialized model can hide a wrong index map: a last gamma of zero silences a whole branch.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point():
                parameter.copy_(_fresh(name, parameter, generator))
        for module in model.modules():
            if isinstance(module, _NormBase) and module.running_mean is not None and module.running_var is not None:
                module.running_mean.copy_(_normal(module.running_mean, generator) * 0.1)
                module.running_var.copy_(_uniform(module.running_var, generator))


def _fresh(name: str, old: Tensor, generator: torch.Generator) -> Tensor:
    long = [size for size in old.shape if size > 1]
    if not long:
        return torch.where(old == 0, torch.ones_like(old), old)
    if len(long) > 1:
        return _normal(old, generator) * math.sqrt(1.5 * old.shape[0] / old.numel() if old.shape[0] > 1 else 1.0)
    if "bias" in name.rpartition(".")[2]:
        return _normal(old, generator) * 0.2
    return _uniform(old, generator)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.rand(like.shape, generator=generator) * 0.5 + 0.75).to(like)


def as_floats(example: Any, dtype: torch.dtype, generator: torch.Generator) -> Any:
    """Return the example with floating tensors of ``dtype``; constant ones (zeros, ones) become random."""

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        constant = leaf.numel() > 1 and bool((leaf == leaf.reshape(-1)[0]).all())
        return (torch.randn(leaf.shape, generator=generator).to(leaf.device) if constant else leaf).to(dtype)

    return pytree.tree_map(convert, example)


class Reference:
    """A dense model whose removed channels are noise where they are produced and zero where they are consumed.

    Args:
        model: the dense model; while it runs its parameters and buffers hold other values.
        example: its input.
    """

    def __init__(self, model: nn.Module, example: Any) -> None:
        self.model = model
        self._example = example
        self._tensors = own_tensors(model)

    def __call__(
        self, structure: Structure, kept: BoolArray, generator: torch.Generator, example: Any = None
    ) -> list[Tensor]:
        """Return the outputs with the channels outside ``kept`` removed."""
        masked = self._masked(structure, kept, generator)
        dense = {name: self._tensors[name].data for name in masked}
        try:
            for name, values in masked.items():
                self._tensors[name].data = values
            return outputs(self.model, self._example if example is None else example)
        finally:
            for name, values in dense.items():
                self._tensors[name].data = values

    def _masked(self, structure: Structure, kept: BoolArray, generator: torch.Generator) -> dict[str, Tensor]:
        roles = {(tensor, dim): role for group in structure.groups for tensor, dim, role, _ in group.axes}
        masked: dict[str, Tensor] = {}
        for axis in structure.axes:
            removed = torch.from_numpy((axis.genes >= 0) & ~kept[axis.genes])
            tensor = self._tensors[axis.tensor].data
            if not removed.any() or not tensor.is_floating_point():
                continue
            # a product of what was there: rows of noise differ from draw to draw, and a variance stays positive
            noise = 2.0 + torch.rand(removed.shape, generator=generator, dtype=torch.float64)
            factor = torch.where(removed, 0.0 if roles[axis.key] == "in" else noise, 1.0).to(tensor)
            shape = [1] * tensor.dim()
            shape[axis.dim] = -1
            masked[axis.tensor] = masked.get(axis.tensor, tensor) * factor.reshape(shape)
        return masked


def agree(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> str:
    """Return "" when two outputs agree, else what differs in one clause."""
    if len(ours) != len(theirs):
        return f"the output has {len(theirs)} tensors instead of {len(ours)}"
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            return f"the output has shape {tuple(b.shape)} instead of {tuple(a.shape)}"
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return "the output differs"
            continue
        if not bool(torch.isfinite(a).all() & torch.isfinite(b).all()):
            return "the output is not finite"
        scale = max(float(a.abs().max()), 1e-30) if a.numel() else 1.0
        difference = float((a - b).abs().max()) if a.numel() else 0.0
        if difference > tolerance * scale:
            return f"the output differs by {difference / scale:.1e} of its largest value"
    return ""


def own_tensors(model: nn.Module) -> Mapping[str, Tensor]:
    """Return every parameter and buffer of a model by each of its names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
