"""A persistent module that becomes one candidate after the other, without a copy of any Python object; crops of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoprune.core.groups import BoolArray, Structure
from autoprune.errors import SurgeryError
from autoprune.surgery.attributes import AttributePlan
from autoprune.surgery.copying import copy_with
from autoprune.surgery.empty import settle
from autoprune.surgery.matching import dense_tensors, model_tensors, named_tensors
from autoprune.surgery.places import setters
from autoprune.surgery.slicing import Slicer, check_kept


class _Slot(NamedTuple):
    """A tensor of the skeleton and how to fill it."""

    name: str
    tensor: Tensor
    shape: torch.Size
    steps: tuple[tuple[int, int], ...]
    private: bool


class Skeleton:
    """A copy of a model whose tensors and integer attributes are swapped for each candidate.

    The module is for measuring: its parameters may share memory with the weights they were sliced from and do not
    require gradients. Its buffers are always its own, so that recalibrating batch norms leaves the shared weights
    alone. To train a candidate, or to keep it, use `cut`.

    Args:
        model: the dense model that was traced; it is neither changed nor kept.
        structure: the traced structure of the model.

    Raises:
        SurgeryError: the model does not match the structure or cannot be copied.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        self._structure = structure
        own = model_tensors(model, structure)
        saved = model.state_dict(keep_vars=True)
        #: what `build` may not find among the weights: buffers outside the state_dict
        self._unsaved = {name: tensor.detach().clone() for name, tensor in own.items() if name not in saved}
        empty = {name: torch.empty(0, dtype=tensor.dtype, device=tensor.device) for name, tensor in own.items()}
        self._module = copy_with(model, ((own[name], empty[name]) for name in own)).requires_grad_(requires_grad=False)
        slicer = Slicer(structure)
        placed = named_tensors(self._module)
        self._slots = [
            _Slot(info.name, placed[info.name], torch.Size(info.shape), slicer.steps(info.name), info.kind == "buffer")
            for info in structure.tensors
        ]
        self._slicer = slicer
        self._plan = AttributePlan(structure)
        self._setters = setters(self._module, structure.attributes)
        may_vanish = [group for group, *_ in structure.branches]
        names = {tensor for group in may_vanish for tensor, *_ in structure.groups[group].axes}
        aliases = [alias for info in structure.tensors if info.name in names for alias in info.aliases]
        owners = {name: self._module.get_submodule(name.rpartition(".")[0]) for name in aliases}
        #: the layers that may lose all their channels, with the tensors that tell
        self._losing = [
            (module, [placed[name] for name in owners if owners[name] is module])
            for module in dict.fromkeys(owners.values())
        ]

    @torch.inference_mode(mode=False)  # statistics made in inference mode could not be recalibrated outside of it
    @torch.no_grad()
    def build(self, weights: Mapping[str, Tensor], kept: BoolArray) -> nn.Module:
        """Turn the skeleton into one candidate.

        Args:
            weights: dense tensors by their name in the structure, on the model's device; never written to. Buffers
                outside the model's ``state_dict`` may be absent.
            kept: (n_genes,) boolean array.

        Returns:
            The skeleton's module: the same object every time, valid until the next call.

        Raises:
            SurgeryError: the weights do not match the structure.
            InvalidArgumentError: ``kept`` does not match the structure or empties a group that has to stay.
        """
        widths = check_kept(self._structure, kept)
        selections = self._slicer.selections(kept, self._device(weights))
        copies = [isinstance(selection, Tensor) for selection in selections]
        if any(slot.name not in weights or weights[slot.name].shape != slot.shape for slot in self._slots):
            weights = dense_tensors({**self._unsaved, **weights}, self._structure, "weights given")
        parts = self._slicer.cut(weights, [slot.name for slot in self._slots], selections)
        for name, placed, _, steps, private in self._slots:
            part = parts[name]
            if private and not any(copies[vector] for _, vector in steps):
                part = part.clone()  # it was the tensor itself or a view of it
            placed.data = part  # every reference to the tensor sees it: ties, an LSTM's flat weights
        for put, value in zip(self._setters, self._plan.values(widths), strict=True):
            put(value)
        for module, tensors in self._losing:
            settle(module, is_empty=not all(tensor.numel() for tensor in tensors))
        return self._module

    def _device(self, weights: Mapping[str, Tensor]) -> torch.device | str:
        """Return the device of the skeleton and the weights."""
        for slot in self._slots:
            if slot.name in weights and weights[slot.name].device != slot.tensor.device:
                msg = (
                    f"expected weights on {slot.tensor.device}, where the skeleton is, but {slot.name!r} is on "
                    f"{weights[slot.name].device}; move the weights there once, not for every candidate"
                )
                raise SurgeryError(msg)
            if slot.steps:
                return slot.tensor.device
        return "cpu"


class Cropper:
    """Crops dense tensors to the channels that stay, as a cut does, but as part of the autograd graph.

    A training step on a crop costs the small model's multiply-adds. Buffers are the crop's own: what a batch norm in
    training mode writes is dropped with the next crop.

    Args:
        model: the dense model that was traced; neither changed nor kept.
        structure: the traced structure of the model.

    Raises:
        SurgeryError: the model does not match the structure or cannot be copied.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        self._skeleton = Skeleton(model, structure)
        self._slicer = Slicer(structure)
        self._parameters = [info.name for info in structure.tensors if info.kind == "parameter"]

    def __call__(self, weights: Mapping[str, Tensor], kept: BoolArray, *, training: bool = True) -> Crop:
        """Return the model at ``kept``, valid until the next call.

        Args:
            weights: dense tensors by their name in the structure, on the model's device; never written to.
            kept: (n_genes,) boolean array.
            training: the mode of the model.

        Raises:
            SurgeryError: the weights do not match the structure.
            InvalidArgumentError: ``kept`` does not match the structure or empties a group that has to stay.
        """
        module = self._skeleton.build({name: tensor.detach() for name, tensor in weights.items()}, kept)
        device = next((weights[name].device for name in self._parameters if name in weights), "cpu")
        selections = self._slicer.selections(kept, device)
        names = [name for name in self._parameters if name in weights]
        return Crop(module.train(training), self._slicer.cut(weights, names, selections))


class Crop:
    """A model at one genome; call it as the model itself.

    Attributes:
        parameters: the cropped tensors by name, part of the autograd graph.
    """

    def __init__(self, module: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        self._module = module
        self.parameters = parameters

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the small model."""
        return functional_call(self._module, dict(self.parameters), inputs, named)
