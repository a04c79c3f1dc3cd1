"""Finding a structure's tensors in a model, and saying precisely what does not match."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from autoprune.core.groups import Structure
from autoprune.errors import SurgeryError, did_you_mean

_SHOWN = 5  # mismatches listed in one message


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer of ``model`` under every one of its names, non-persistent buffers included."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def not_numbers(model: nn.Module) -> str:
    """Return a clause that names a tensor of a model that holds NaN, which explains whatever it answers; "" without."""
    for name, tensor in named_tensors(model).items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not tensor.is_meta and bool(tensor.isnan().any()):
            return f"the model's own {name!r} holds NaN: load sound weights"
    return ""


def model_tensors(model: nn.Module, structure: Structure) -> dict[str, Tensor]:
    """Return the tensor objects of ``model`` by their name in ``structure``, one entry per tied tensor.

    Raises:
        SurgeryError: the model lacks a tensor, has one too many, or one has another shape or kind.
    """
    present = named_tensors(model)
    found = dense_tensors(present, structure, f"model of class {type(model).__name__}")
    known = {alias for info in structure.tensors for alias in info.aliases}
    extra = sorted(present.keys() - known)
    if extra:
        msg = f"the model has tensors that were not there when it was traced: {_listing(extra)}; trace it again"
        raise SurgeryError(msg)
    for info in structure.tensors:
        tensor = found[info.name]
        kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
        if kind != info.kind:
            msg = f"expected {info.name!r} to be a {info.kind} of the model, it is a {kind}"
            raise SurgeryError(msg)
        untied = [alias for alias in info.aliases if present.get(alias) is not tensor]
        if untied:
            msg = f"{info.name!r} was tied to {_listing(untied)} when the model was traced, and no longer is"
            raise SurgeryError(msg)
    return found


def model_weights(model: nn.Module, structure: Structure) -> dict[str, Tensor]:
    """Return what candidates inherit from ``model``: every tensor of ``structure``, detached, sharing memory.

    Raises:
        SurgeryError: the model does not match the structure.
    """
    return {name: tensor.detach() for name, tensor in model_tensors(model, structure).items()}


def dense_tensors(weights: Mapping[str, Tensor], structure: Structure, what: str) -> dict[str, Tensor]:
    """Find every tensor of ``structure`` among ``weights``, under any of its names, in its dense shape.

    Args:
        weights: tensors by name; names the structure does not know are ignored.
        structure: the structure that the tensors must match.
        what: name of the weights in the message.

    Returns:
        The tensor objects in ``weights``, by their name in ``structure``.

    Raises:
        SurgeryError: a tensor is missing or has another shape.
    """
    found: dict[str, Tensor] = {}
    problems = []
    for info in structure.tensors:
        name = next((alias for alias in info.aliases if alias in weights), None)
        if name is None:
            problems.append(f"{info.name!r} is missing{did_you_mean(info.name, weights)}")
        elif weights[name].shape != info.shape:
            problems.append(f"{info.name!r} has shape {tuple(weights[name].shape)} instead of {info.shape}")
        else:
            found[info.name] = weights[name]
    if problems:
        msg = f"the {what} must hold the tensors that were traced: {_listing(problems, separator='; ')}"
        raise SurgeryError(msg)
    return found


def _listing(items: Iterable[str], separator: str = ", ") -> str:
    """Join the first few items and say how many were left out."""
    shown = list(items)
    more = f"{separator}and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return separator.join(shown[:_SHOWN]) + more
