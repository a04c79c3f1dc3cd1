"""PruningNet: the weights of every layer as a function of the widths around it.

Liu et al., "MetaPruning: Meta Learning for Automatic Neural Network Channel Pruning", ICCV 2019. For a tensor W with
channels of some groups on its axes, e holds the kept share of each of these groups, and

    h = relu(FC1 e),    W(e) = b + reshape(FC2 h),    then cropped to the channels that stay.

``b`` is the bias of FC2, and it is the model's own tensor: with FC2 = 0 the generated net is the model itself at every
width. Training may start there, which the paper does not do. FC2 has as many rows as W has elements; the low-rank
form, which is not in the paper either, replaces FC2 h by ``left diag(C h) right``, with ``left`` (rows of W, r) and
``right`` (r, columns of W).

A PruningNet is nothing but named tensors: the model's own under their names, those of the generators under
``generator/<tensor>/<part>``. They are what a weights blob holds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.core.groups import IntArray, Structure
from autoprune.errors import StoreError, unknown_name

KINDS = ("fc", "low_rank")
"""The forms of FC2."""

_PREFIX = "generator/"


class PruningNet:
    """Makes dense-shaped weights for given widths.

    Every parameter that carries a channel group has a generator of its own, per-channel tensors included: the affine
    part of a batch norm follows the width of its layer, where the released code has none or one per width. Other
    tensors are the same at all widths.

    Args:
        structure: the traced structure of the model.
        tensors: the model's own and those of the generators, by name; others are ignored. Without any of a generator,
            the model's tensors are handed out as they are.

    Raises:
        StoreError: a generator's tensors are incomplete.
    """

    def __init__(self, structure: Structure, tensors: Mapping[str, Tensor]) -> None:
        self._structure = structure
        self._tensors = tensors
        self._groups = {
            name: groups for name, groups in generated_tensors(structure).items() if _part(name, "hidden") in tensors
        }
        parts = {name: [_part(name, part) for part in _parts_of(tensors, name)] for name in self._groups}
        missing = [part for found in parts.values() for part in found if part not in tensors]
        if missing:
            msg = f"expected complete generators among the weights, {missing[0]!r} is missing; prepare them again"
            raise StoreError(msg)

    def __call__(self, widths: IntArray) -> dict[str, Tensor]:
        """Return the dense tensors at the (g,) ``widths``, by their name in the structure; differentiable."""
        weights = {name: tensor for name, tensor in self._tensors.items() if not name.startswith(_PREFIX)}
        shares = np.asarray(widths) / self._structure.full_widths
        for name, groups in self._groups.items():
            base = weights[name]
            scales = torch.tensor(shares[groups], dtype=_real(base.dtype), device=base.device)
            weights[name] = base + self._change(name, scales).view(base.shape)
        return weights

    def _change(self, name: str, scales: Tensor) -> Tensor:
        """Return FC2 h: what the generator adds to the tensor ``name``, as many elements as it has."""
        tensors = self._tensors
        hidden = F.relu(F.linear(scales, tensors[_part(name, "hidden")], tensors[_part(name, "hidden_bias")]))
        if _part(name, "output") in tensors:
            output = tensors[_part(name, "output")]
            return F.linear(hidden.to(output.dtype), output)
        weight = tensors[_part(name, "strengths")]
        strengths = F.linear(hidden.to(weight.dtype), weight)
        return (tensors[_part(name, "left")] * strengths) @ tensors[_part(name, "right")]


def make_generators(
    structure: Structure,
    weights: Mapping[str, Tensor],
    kind: str,
    *,
    hidden: int,
    rank: int,
    spread: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return new generators for ``weights``, by name.

    Args:
        structure: the traced structure of the model.
        weights: the model's own tensors: their shapes, types and devices, and the biases of FC2.
        kind: kind of the second linear layer, one of `KINDS`.
        hidden: outputs of FC1.
        rank: rank of the low-rank form.
        spread: size of the change that the generators make to a tensor at the start, in standard deviations of its
            elements. With 0 they change nothing until they are trained.
        generator: source of all randomness, on the CPU.

    Raises:
        UnknownNameError: there is no such kind.
    """
    if kind not in KINDS:
        raise unknown_name("kind of generator", kind, KINDS)
    made: dict[str, Tensor] = {}

    def add(name: str, part: str, shape: tuple[int, ...], scale: float) -> None:
        base, is_hidden = weights[name], part in ("hidden", "hidden_bias")
        kind = torch.complex64 if base.is_complex() and not is_hidden else torch.float32
        values = scale * torch.randn(shape, generator=generator, dtype=kind)
        made[_part(name, part)] = values.to(base.device, _real(base.dtype) if is_hidden else base.dtype)

    for name, groups in generated_tensors(structure).items():
        tensor = weights[name]
        rows, columns = len(tensor), tensor[0].numel()
        # h and every pair of a column of ``left`` and a row of ``right`` have about unit length: a step then moves the
        # generated tensor about as far as it would move the tensor itself, whatever ``hidden`` and the shape.
        deviation = spread * float((tensor if tensor.is_complex() else tensor.float()).std(correction=0))
        add(name, "hidden", (hidden, len(groups)), (2 / (hidden * len(groups))) ** 0.5)
        add(name, "hidden_bias", (hidden,), hidden**-0.5)
        if kind == "fc":
            add(name, "output", (tensor.numel(), hidden), deviation)
        else:
            add(name, "strengths", (rank, hidden), deviation * (tensor.numel() / rank) ** 0.5)
            add(name, "left", (rows, rank), rows**-0.5)
            add(name, "right", (rank, columns), columns**-0.5)
    return made


def generated_tensors(structure: Structure) -> dict[str, IntArray]:
    """Return for every tensor that gets a generator the (k,) indices of the groups on its axes, increasing."""
    parameters = {info.name for info in structure.tensors if info.kind == "parameter"}
    return {
        name: np.unique(np.concatenate([structure.group_of[axis.genes[axis.genes >= 0]] for axis in axes]))
        for name, axes in structure.axes_of.items()
        if name in parameters
    }


def generator_macs(structure: Structure, kind: str, *, hidden: int, rank: int) -> int:
    """Return the multiply-adds of generating all weights once, whatever the widths."""
    shapes = {info.name: info.shape for info in structure.tensors}
    total = 0
    for name, groups in generated_tensors(structure).items():
        size, rows = int(np.prod(shapes[name])), shapes[name][0]
        total += hidden * len(groups)
        total += size * hidden if kind == "fc" else rank * hidden + rows * rank + rank * size
    return total


def _real(kind: torch.dtype) -> torch.dtype:
    """Return the type of the real part: FC1 is of real numbers, since nothing else passes a ReLU."""
    return kind.to_real()


def _part(tensor: str, part: str) -> str:
    return f"{_PREFIX}{tensor}/{part}"


def _parts_of(tensors: Mapping[str, Tensor], name: str) -> tuple[str, ...]:
    if _part(name, "output") in tensors:
        return ("hidden", "hidden_bias", "output")
    return ("hidden", "hidden_bias", "strengths", "left", "right")
