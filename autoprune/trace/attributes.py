"""The integers that torch's own modules keep about their tensors, as counts of the kept channels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.core.groups import Attribute, Count, Structure

Measure = tuple[int, int, int]  # dimension of the weight, numerator, denominator


def standard_attributes(model: nn.Module, structure: Structure) -> list[Attribute]:
    """Return the metadata of torch's modules (``in_channels``, ``num_features``, ...) that follow the widths.

    Args:
        model: the traced model.
        structure: its groups, axes and tensors.
    """
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            found += _recurrent(name, module, structure)
            continue
        shape, table = _measures(module)
        prefix = f"{name}." if name else ""
        # a parametrized weight lives under another name; its shape tells which tensor it is
        weight = next(
            (i for i in structure.tensors if i.shape == shape and any(a.startswith(prefix) for a in i.aliases)), None
        )
        if weight is None:
            continue
        counts = {axis.dim: structure.count(axis) for axis in structure.axes_of.get(weight.name, ())}
        for attribute, (dim, numerator, denominator) in table.items():
            if dim in counts:
                found.append(Attribute(name, attribute, (scaled(counts[dim], numerator, denominator),)))
    return found


def _recurrent(name: str, module: nn.RNNBase | nn.RNNCellBase, structure: Structure) -> list[Attribute]:
    """Return the sizes of a recurrent layer or cell, which are those of its first weights."""
    suffix = "_l0" if isinstance(module, nn.RNNBase) else ""
    gates = getattr(module, f"weight_ih{suffix}").shape[0] // module.hidden_size
    measures = {
        "input_size": ("weight_ih", 1, 1),
        "hidden_size": ("weight_ih", 0, gates),
        "proj_size": ("weight_hr", 0, 1),
    }
    found = []
    for attribute, (weight, dim, denominator) in measures.items():
        path = f"{name}.{weight}{suffix}" if name else f"{weight}{suffix}"
        own = next((info.name for info in structure.tensors if path in info.aliases), "")
        count = next((structure.count(axis) for axis in structure.axes_of.get(own, ()) if axis.dim == dim), None)
        if count is not None:
            found.append(Attribute(name, attribute, (scaled(count, 1, denominator),)))
    return found


def compared_widths(model: nn.Module, known: Mapping[tuple[str, str], Attribute]) -> list[Attribute]:
    """Return the widths that torch's modules compare with what comes in, and do not compute with.

    Args:
        model: the traced model.
        known: attributes that follow the widths, by module and name.
    """
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Transformer):
            prefix = f"{name}." if name else ""
            width = known.get((f"{prefix}encoder.layers.0.self_attn", "embed_dim"))
            if width is not None:
                found.append(Attribute(name, "d_model", width.value))
    return found


def scaled(count: Count, numerator: int, denominator: int) -> Count:
    """Return ``count * numerator / denominator``, which must be whole."""
    terms = tuple((g, c * numerator // denominator) for g, c in count.terms)
    return Count(count.constant * numerator // denominator, terms)


def _measures(module: nn.Module) -> tuple[tuple[int, ...], dict[str, Measure]]:
    """Return the shape of a module's weight and which attributes measure which of its dimensions."""
    match module:
        case _ConvNd():
            return _conv_measures(module)
        case nn.Linear():
            return (module.out_features, module.in_features), {"in_features": (1, 1, 1), "out_features": (0, 1, 1)}
        case _NormBase():
            return (module.num_features,), {"num_features": (0, 1, 1)}
        case nn.GroupNorm():
            return (module.num_channels,), {"num_channels": (0, 1, 1)}
        case nn.PReLU():
            return (module.num_parameters,), {"num_parameters": (0, 1, 1)}
        case nn.Embedding() | nn.EmbeddingBag():
            return (module.num_embeddings, module.embedding_dim), {"embedding_dim": (1, 1, 1)}
        case _:
            return (-1,), {}


def _conv_measures(module: _ConvNd) -> tuple[tuple[int, ...], dict[str, Measure]]:
    transposed = isinstance(module, _ConvTransposeNd)
    groups, n_in, n_out = module.groups, module.in_channels, module.out_channels
    first, second = (n_in, n_out // groups) if transposed else (n_out, n_in // groups)
    shape = (first, second, *module.kernel_size)
    if groups == n_in and groups > 1:  # depthwise: one dimension measures everything
        whole = {"in_channels": (0, n_in, first), "out_channels": (0, n_out, first), "groups": (0, n_in, first)}
        return shape, whole
    ends = ("in_channels", "out_channels") if transposed else ("out_channels", "in_channels")
    return shape, {ends[0]: (0, 1, 1), ends[1]: (1, groups, 1)}
