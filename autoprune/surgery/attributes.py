"""Module attributes, such as ``in_channels``, that follow the widths."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from autoprune.core.groups import Attribute, IntArray, Structure
from autoprune.errors import SurgeryError, shown
from autoprune.surgery.places import read

SIZES = frozenset(
    {
        "in_channels",
        "out_channels",
        "groups",
        "in_features",
        "out_features",
        "num_features",
        "num_channels",
        "num_groups",
    }
    | {"num_parameters", "embedding_dim", "normalized_shape", "unflattened_size"}
    | {"embed_dim", "num_heads", "head_dim", "kdim", "vdim", "d_model"}
    | {"input_size", "hidden_size", "proj_size"}
)
"""What a cut changes on torch's own layers; nothing else there (stride, dim) follows the widths."""

NO_SIZES = frozenset({"stride", "padding", "dilation", "kernel_size", "output_padding"})
"""What it never changes on layers that extend them, which may have sizes of their own."""


class AttributePlan:
    """Evaluates every attribute of a structure at once: counts are affine, so this is one matrix product.

    Args:
        structure: the structure whose attributes are evaluated.
    """

    def __init__(self, structure: Structure) -> None:
        counts = [count for attribute in structure.attributes for count in attribute.value]
        self._containers = [(attribute.container, len(attribute.value)) for attribute in structure.attributes]
        self._constants = np.array([count.constant for count in counts], dtype=np.int64)
        self._coefficients = np.zeros((len(counts), len(structure.groups)), dtype=np.int64)
        for row, count in enumerate(counts):
            for group, coefficient in count.terms:
                self._coefficients[row, group] = coefficient

    def values(self, widths: IntArray) -> list[Any]:
        """Return the value of each attribute, in the structure's order, at the (g,) ``widths``."""
        counts = iter((self._constants + self._coefficients @ widths).tolist())
        values: list[Any] = []
        for container, length in self._containers:
            if container == "int":
                values.append(next(counts))
            else:
                items = [next(counts) for _ in range(length)]
                values.append(tuple(items) if container == "tuple" else items)
        return values


def check_smaller(model: nn.Module, attribute: Attribute, value: Any, *, least: int = 1) -> None:
    """Check that a value is what a cut may do to an attribute of the dense ``model``: a size of its form, no larger.

    Args:
        model: the dense model.
        attribute: the attribute.
        value: size, or sizes, that it is to have.
        least: smallest size of what is not 0 in the dense model: 0 where layers may have lost all channels.

    Raises:
        SurgeryError: there is no such attribute, it is no size, or it would grow or change its form.
    """
    place = f"{attribute.module}.{attribute.name}".lstrip(".")
    try:
        module = model.get_submodule(attribute.module)
    except AttributeError as error:
        msg = f"expected the model to have the module {attribute.module!r} it was traced with"
        raise SurgeryError(msg) from error
    dense = read(module, attribute.name)
    is_own = "." not in attribute.name  # torch's layers have no settings, a user's on them are the user's
    is_torch = is_own and type(module).__module__.startswith("torch.") and attribute.name not in SIZES
    is_fixed = isinstance(module, _ConvNd | nn.Linear | _NormBase | nn.GroupNorm) and attribute.name in NO_SIZES
    old, new = _sizes(dense), _sizes(value)
    if old is None or attribute.name.startswith("__") or ".__" in attribute.name or is_torch or is_fixed:
        msg = f"{place} is no size that a cut could change, it is {shown(dense)}"
        raise SurgeryError(msg)
    is_alike = all(isinstance(value, kind) == isinstance(dense, kind) for kind in (tuple, list))
    if (
        new is None
        or not is_alike
        or len(new) != len(old)
        or not all(min(least, b) <= a <= b for a, b in zip(new, old, strict=True))
    ):
        msg = f"{place} is {shown(dense)} in the dense model and cannot be cut to {shown(value)}"
        raise SurgeryError(msg)


def check_measures(model: nn.Module) -> None:
    """Check that the sizes that torch's layers say they have are those of their weights.

    Raises:
        SurgeryError: they are not.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            _check_recurrent(name, module)
        weight = module._parameters.get("weight")  # a parametrized one has another name, and no plain shape
        if weight is None:
            continue
        said: tuple[int, ...] | None = None
        if isinstance(module, _ConvNd):
            ends = (module.out_channels, module.in_channels)
            first, second = ends[::-1] if module.transposed else ends
            said = (first, second // max(module.groups, 1), *module.kernel_size)  # no group where no channel is left
        elif isinstance(module, nn.Linear):
            said = (module.out_features, module.in_features)
        elif isinstance(module, _NormBase):
            said = (module.num_features,)
        elif isinstance(module, nn.GroupNorm):
            said = (module.num_channels,)
            if module.num_channels % max(module.num_groups, 1):  # no group where no channel is left
                msg = f"{name!r} says that its {module.num_channels} channels are {module.num_groups} equal groups"
                raise SurgeryError(msg)
        elif isinstance(module, nn.LayerNorm):
            said = tuple(module.normalized_shape)
        if said is None:
            continue
        if said != tuple(weight.shape):
            msg = f"{name!r} says that its weight is {said}, and it is {tuple(weight.shape)}"
            raise SurgeryError(msg)
        is_map = isinstance(module, _ConvNd | nn.Linear)
        beside = (getattr(module, "out_channels", said[0]),) if is_map else said
        for other in ("bias", "running_mean", "running_var"):
            tensor = getattr(module, other, None)
            if tensor is not None and tuple(tensor.shape) != beside:
                msg = f"{name}.{other} has shape {tuple(tensor.shape)}, and the layer's weight asks for {beside}"
                raise SurgeryError(msg)


def _check_recurrent(name: str, module: nn.RNNBase | nn.RNNCellBase) -> None:
    gates = 4 if isinstance(module, nn.LSTM | nn.LSTMCell) else 3 if isinstance(module, nn.GRU | nn.GRUCell) else 1
    said = (gates * module.hidden_size, module.input_size)
    weight = module._parameters.get("weight_ih_l0" if isinstance(module, nn.RNNBase) else "weight_ih")
    if weight is not None and said != tuple(weight.shape):
        msg = f"{name!r} says that its first weight is {said}, and it is {tuple(weight.shape)}"
        raise SurgeryError(msg)


def _sizes(value: Any) -> list[int] | None:
    """Return an integer, or a tuple or list of them, as a list; None for anything else."""
    items = list(value) if isinstance(value, tuple | list) else [value]
    return items if all(isinstance(item, int) and not isinstance(item, bool) for item in items) else None
