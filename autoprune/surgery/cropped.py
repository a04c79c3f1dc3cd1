"""Calling a model at a genome with gradients: what reaches a crop flows back into the dense tensors it is cut from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from autoprune.core.groups import BoolArray, Structure
from autoprune.surgery.skeleton import Skeleton
from autoprune.surgery.slicing import Slicer


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
            InvalidArgumentError: ``kept`` does not match the structure or empties a group.
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
