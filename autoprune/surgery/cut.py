"""Cutting a model: an independent, physically smaller module of the user's own class."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autoprune.core.groups import BoolArray, Structure
from autoprune.surgery.attributes import AttributePlan
from autoprune.surgery.copying import copy_with
from autoprune.surgery.empty import settle_all
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
        structure: the traced structure of the model.
        kept: (n_genes,) boolean array.
        weights: dense tensors to use instead of the model's own, by name; they take the model's devices and dtypes.
            Buffers outside the model's ``state_dict`` may be absent: the model's own are used.

    Raises:
        SurgeryError: the model or the weights do not match the structure, or the model cannot be copied.
        InvalidArgumentError: ``kept`` does not match the structure or empties a group that has to stay.
    """
    own = model_tensors(model, structure)
    dense: Mapping[str, Tensor] = own
    if weights is not None:
        dense = dense_tensors({**_unsaved(model, own), **weights}, structure, "weights given")
    widths = check_kept(structure, kept)
    sliced = sliced_state({name: dense[name].to(own[name].device) for name in own}, structure, kept)
    replacements = {name: sliced[name].to(own[name], copy=True) for name in own}
    values = zip(structure.attributes, AttributePlan(structure).values(widths), strict=True)
    smaller = copy_with(model, ((own[name], replacements[name]) for name in own), values)
    if not widths.all():
        settle_all(smaller, {name: info.shape for info in structure.tensors for name in info.aliases})
    return smaller


def _unsaved(model: nn.Module, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that the model's ``state_dict`` leaves out: its non-persistent buffers."""
    saved = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in own.items() if name not in saved}
