"""The evidence that a criterion may use, and the weights of a channel as a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.core.groups import Axis, ChannelGroup, FloatArray, Structure
from autoprune.surgery.precision import double

if TYPE_CHECKING:
    from autoprune.reconstruct import Moments

#: per group, (w,) scores, higher stays longer
Scores = tuple[FloatArray, ...]

Loss = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence that a criterion may use.

    Attributes:
        model: the dense model; a criterion never changes it.
        structure: the traced structure of the model.
        tensors: the model's parameters and buffers by their name in the structure.
        batches: batches as ``loss`` takes them; only for criteria that need data.
        loss: ``loss(model, batch)``, a scalar tensor; given to criteria that need it.
        seed: seed for criteria that draw random numbers.
        settings: settings of the criterion: an instance of the class that its `CriterionInfo` names.
        moments: second moments of the consumers' inputs by weight name, where they are known already.
    """

    model: nn.Module
    structure: Structure
    tensors: dict[str, Tensor]
    batches: Iterable[Any] | None
    loss: Loss | None
    seed: int
    settings: Any = None
    moments: Mapping[str, Moments] | None = None


def member_axes(structure: Structure, group: ChannelGroup, roles: tuple[str, ...]) -> Iterator[Axis]:
    """Yield the axes of ``group`` along which whole kernels lie.

    These are the axes whose role is in ``roles`` of parameters with two dimensions or more: rows and slices of
    convolutions and linear layers, depthwise kernels. Biases, the affine parts of norms and other scales have one
    number per channel; they shift or scale a channel but do not produce or consume it.
    """
    tensors = {info.name: info for info in structure.tensors}
    axes = {axis.key: axis for axis in structure.axes}
    for name, dim, role, _ in group.axes:
        shape = tensors[name].shape
        is_scale = len(shape) < 2 or (role == "thru" and np.prod(shape, dtype=np.int64) == shape[dim])
        if role in roles and tensors[name].kind == "parameter" and not is_scale:
            yield axes[name, dim]


def batchnorm_scales(model: nn.Module) -> set[str]:
    """Return the names of the scales (gamma) of all BatchNorms of ``model``."""
    return {
        f"{path}.weight" if path else "weight"
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm)
    }


def channel_rows(tensor: Tensor, axis: Axis, group: ChannelGroup) -> Tensor:
    """Return the weights of each channel of ``group`` along ``axis`` as a (w, e) float64 matrix on the CPU.

    Of complex weights the matrix is complex128: take moduli (`torch.abs`, norms) before anything else.
    """
    inside = np.flatnonzero((axis.genes >= group.start) & (axis.genes < group.start + group.width))
    positions = inside[np.argsort(axis.genes[inside], kind="stable")]
    rows = tensor.detach().index_select(axis.dim, torch.from_numpy(positions).to(tensor.device))
    return double(rows.movedim(axis.dim, 0).reshape(group.width, -1).cpu())


def relative(values: FloatArray) -> FloatArray:
    """Return (w,) non-negative ``values`` divided by their mean; all zero stays all zero."""
    mean = values.mean()
    return values / mean if mean > 0 else values
