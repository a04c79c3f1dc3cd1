"""Cutting a model: an independent, physically smaller module of the user's own class."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.groups import Attribute, BoolArray, Structure
from autoprune.errors import SurgeryError
from autoprune.surgery.attributes import AttributePlan
from autoprune.surgery.matching import dense_tensors, model_tensors
from autoprune.surgery.slicing import check_kept, sliced_state


@torch.inference_mode(mode=False)  # tensors made in inference mode could never be trained
@torch.no_grad()
def cut(
    model: nn.Module,
    structure: Structure,
    kept: BoolArray,
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Return a smaller copy of ``model`` that shares no memory with it.

    The copy is of the user's own class. Ties, ``requires_grad``, dtypes, devices, train and eval flags, hooks and
    buffers (non-persistent ones, too) are kept, the source is not touched. With every channel kept, the copy's tensors
    equal the dense ones bit for bit.

    Args:
        model: the dense model that was traced.
        structure: what the trace found.
        kept: (n_genes,) boolean array.
        weights: dense tensors to use instead of the model's own, by name; they take the model's devices and dtypes.
            Buffers outside the model's ``state_dict`` may be absent: the model's own are used.

    Raises:
        SurgeryError: the model or the weights do not match the structure, or the model cannot be copied.
        InvalidArgumentError: ``kept`` does not match the structure or empties a group.
    """
    own = model_tensors(model, structure)
    dense: Mapping[str, Tensor] = own
    if weights is not None:
        dense = dense_tensors({**_unsaved(model, own), **weights}, structure, "weights given")
    widths = check_kept(structure, kept)
    sliced = sliced_state({name: dense[name].to(own[name].device) for name in own}, structure, kept)
    replacements = {name: sliced[name].to(own[name], copy=True) for name in own}
    values = zip(structure.attributes, AttributePlan(structure).values(widths), strict=True)
    return copy_with(model, ((own[name], replacements[name]) for name in own), values)


def copy_with(
    model: nn.Module,
    replacements: Iterable[tuple[Tensor, Tensor]],
    values: Iterable[tuple[Attribute, Any]] = (),
) -> nn.Module:
    """Copy ``model`` with other tensors and attributes in the place of its own.

    Whatever refers to a parameter or buffer (a second name, a list of weights kept by an LSTM) refers to its
    replacement in the copy.

    Args:
        model: what to copy; untouched.
        replacements: pairs of a parameter or buffer of the model and the detached tensor that takes its place.
        values: attributes to set in the copy.

    Raises:
        SurgeryError: the model cannot be copied, or has no module that an attribute names.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():  # results cached on a module (old-style weight norm) are not leaves: no deepcopy
        memo.update({id(t): t.detach().clone() for t in vars(module).values() if isinstance(t, Tensor)})
    for original, new in replacements:
        is_parameter = isinstance(original, nn.Parameter)
        memo[id(original)] = nn.Parameter(new, requires_grad=original.requires_grad) if is_parameter else new
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:  # user code may raise anything while it is copied
        msg = f"the model of class {type(model).__name__} cannot be copied: {error}; make it work with copy.deepcopy"
        raise SurgeryError(msg) from error
    for attribute, value in values:
        try:
            module = copied.get_submodule(attribute.module)
        except AttributeError as error:
            msg = f"expected the model to have the module {attribute.module!r} it was traced with"
            raise SurgeryError(msg) from error
        setattr(module, attribute.name, value)
    return copied


def _unsaved(model: nn.Module, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that the model's ``state_dict`` leaves out: its non-persistent buffers."""
    saved = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in own.items() if name not in saved}
