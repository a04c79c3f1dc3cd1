"""The reference of a cut model: the dense model in which removed channels cannot matter any more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from autoprune.core.groups import BoolArray, Structure
from autoprune.surgery.precision import in_precision, is_inexact
from autoprune.surgery.reading import acting_axes
from autoprune.surgery.slicing import scale_factors, scaled
from autoprune.trace.validation.neutral import KeptStatistics
from autoprune.trace.validation.probes import ProbedRun, observe

_FLOOR = 1e-3  # below it a layer's output, whose scale is about one, is the rounding of a zero


def redraw(model: nn.Module, generator: torch.Generator) -> None:
    """Give every weight, affine and BatchNorm statistic of a model new values, none of them zero.

    A trained or initialized model can hide a wrong index map: a last gamma of zero silences a whole branch.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_inexact(parameter):
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
    drawn = torch.complex64 if like.is_complex() else torch.float32
    return torch.randn(like.shape, generator=generator, dtype=drawn).to(like)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.rand(like.shape, generator=generator) * 0.5 + 0.75).to(like)


def as_floats(example: Any, dtype: torch.dtype, generator: torch.Generator) -> Any:
    """Return the example with its numbers in ``dtype``; constant tensors (zeros, ones) become random."""

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not is_inexact(leaf):
            return leaf
        constant = leaf.numel() > 1 and bool((leaf == leaf.reshape(-1)[0]).all())
        return in_precision(_normal(leaf, generator) if constant else leaf, dtype)

    return pytree.tree_map(convert, example)


class Reference:
    """A dense model whose removed channels are noise where they are produced and zero where they are consumed.

    Args:
        model: the dense model; while it runs its parameters and buffers hold other values.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._tensors = own_tensors(model)

    def __call__(
        self,
        structure: Structure,
        kept: BoolArray,
        generator: torch.Generator,
        example: Any,
        factors: Sequence[float] | None = None,
        *,
        training: bool = False,
        jitter: float = 0.0,
        seed: int = 0,
    ) -> ProbedRun:
        """Return what a run shows with the channels outside ``kept`` removed.

        Args:
            structure: whose channels.
            kept: (n_genes,) boolean array.
            generator: generator that draws the noise.
            example: the input.
            factors: factors of an earlier run, see `observe`.
            training: the mode of the model.
            jitter: relative size of random changes of every weight, as rounding makes them.
            seed: seed for whatever the forward pass draws.
        """
        changed = self._masked(structure, kept, generator)
        for name, tensor in self._tensors.items():
            if jitter and is_inexact(tensor):
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
                changed[name] = changed.get(name, tensor.data) * (1 + jitter * (2 * noise - 1))
            elif training and name not in changed and not isinstance(tensor, nn.Parameter):
                changed[name] = tensor.data.clone()  # a norm in training mode writes into its statistics
        dense = {name: self._tensors[name].data for name in changed}
        statistics = KeptStatistics(structure, kept) if structure.statistics else None
        try:
            for name, values in changed.items():
                self._tensors[name].data = values
            return observe(
                self.model,
                example,
                factors,
                training=training,
                seed=seed,
                statistics=statistics,
                outputs=structure.outputs,
            )
        finally:
            for name, values in dense.items():
                self._tensors[name].data = values

    def _masked(self, structure: Structure, kept: BoolArray, generator: torch.Generator) -> dict[str, Tensor]:
        acting = {(tensor, dim): genes for tensor, dim, genes in acting_axes(structure)}
        masked: dict[str, Tensor] = {}
        for axis in structure.axes:
            removed = torch.from_numpy((axis.genes >= 0) & ~kept[axis.genes])
            tensor = self._tensors[axis.tensor].data
            if not removed.any() or not is_inexact(tensor):
                continue
            # a product of what was there: rows of noise differ from draw to draw, and a variance stays positive
            noise = 2.0 + torch.rand(removed.shape, generator=generator, dtype=torch.float64)
            zero = torch.from_numpy(acting[axis.key] >= 0) if axis.key in acting else torch.zeros(())
            factor = torch.where(removed, torch.where(zero > 0, 0.0, noise), 1.0).to(tensor)
            shape = [1] * tensor.dim()
            shape[axis.dim] = -1
            masked[axis.tensor] = masked.get(axis.tensor, tensor) * factor.reshape(shape)
        return masked


def agree(ours: list[Tensor], theirs: list[Tensor]) -> tuple[float, str]:
    """Return how far two outputs are apart, relative to their largest value, and what differs in one clause."""
    if len(ours) != len(theirs):
        return math.inf, f"the output has {len(theirs)} tensors instead of {len(ours)}"
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            return math.inf, f"the output has shape {tuple(b.shape)} instead of {tuple(a.shape)}"
        if not is_inexact(a):
            if not torch.equal(a, b):
                return math.inf, "the output differs"
        elif a.numel():
            worst = max(worst, apart(a, b, 1e-30))
    if not math.isfinite(worst):
        return math.inf, "the output is not finite"
    return worst, f"the output differs by {worst:.1e} of its largest value"


def agree_on_the_way(
    ours: ProbedRun, theirs: ProbedRun, structure: Structure, kept: BoolArray | None = None, *, cut_too: bool = True
) -> tuple[float, str]:
    """Return how far two runs are apart in the kept channels of every layer, and which layer is worst.

    Args:
        ours: observations of the masked model.
        theirs: observations of another model.
        structure: the traced structure of the model.
        kept: (n_genes,) boolean array; None where all channels are compared.
        cut_too: whether ``theirs`` is of a cut model, which has the kept channels only.
    """
    worst, clause = 0.0, ""
    factors = {} if kept is None else scale_factors(structure, kept)
    for a, b in zip(ours.probes, theirs.probes, strict=False):
        if a.weight != b.weight:
            break  # the forward took another way
        left, right = a.rows, b.rows
        axis = next((x for x in structure.axes_of.get(a.weight, ()) if x.dim == a.dim), None)
        if cut_too and (a.weight, a.dim) in factors:
            left = scaled(left, 0, torch.from_numpy(factors[a.weight, a.dim]))
        if kept is not None and axis is not None:
            positions = torch.from_numpy(structure.kept_positions(axis, kept)).to(left.device)
            left = left[positions]
            right = right if cut_too else right[positions]
        if left.shape != right.shape:
            return math.inf, f"the output of {a.weight!r} has another shape"
        distance = apart(left, right, _FLOOR)
        if distance > worst:
            name = a.weight.rpartition(".")[0] or a.weight
            worst, clause = distance, f"the output of {name!r} differs by {distance:.1e} of its largest value"
    return worst, clause


def apart(a: Tensor, b: Tensor, floor: float) -> float:
    """Return the largest difference of two tensors relative to the largest value of the first; inf beside nan.

    Values that are infinite in both (masked scores) are equal.
    """
    difference = torch.where(a == b, 0.0, a - b)
    if not bool(torch.isfinite(difference).all()):
        return math.inf
    largest = torch.where(torch.isfinite(a), a, 0.0).abs().max()
    return float(difference.abs().max()) / max(float(largest), floor)


def own_tensors(model: nn.Module) -> Mapping[str, Tensor]:
    """Return every parameter and buffer of a model by each of its names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
