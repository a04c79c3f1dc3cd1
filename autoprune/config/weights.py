"""Loads the weights that a problem file names into the network that it builds; nothing in a weights file executes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from autoprune.config.values import TORCHVISION
from autoprune.errors import ConfigError

_WRAPPERS = ("state_dict", "model", "model_state_dict")


def load_weights(model: nn.Module, source: str, folder: Path) -> None:
    """Load weights into ``model``, in place.

    Args:
        model: the network.
        source: a safetensors file or a state dict that torch saved, relative to ``folder``, or ``torchvision:NAME``.
        folder: folder of the problem file.

    Raises:
        ConfigError: the weights cannot be read, or are of another network.
    """
    state = _torchvision(source.removeprefix(TORCHVISION)) if source.startswith(TORCHVISION) else _read(folder / source)
    own = model.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    foreign = [name for name in state if name not in own and not name.endswith("num_batches_tracked")]
    misfits = [
        f"{name} is of {state[name].dtype}, the model's is of {tensor.dtype}"  # quantized codes are no weights
        for name, tensor in own.items()
        if name in state and state[name].is_floating_point() != tensor.is_floating_point()
    ]
    misfits += [
        f"{name} is {tuple(state[name].shape)}, the model's is {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if missing or foreign or misfits:
        found = [
            f"{len(names)} tensors {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for names, what in ((missing, "are missing"), (foreign, "are not the model's"), (misfits, "do not fit"))
            if names
        ]
        msg = f"the weights in {source} are not of this model: {'; '.join(found)}"
        raise ConfigError(msg)
    model.load_state_dict({name: tensor for name, tensor in state.items() if name in own}, strict=False)


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes fail anywhere in the restricted unpickler, with any error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = f"expected a safetensors file or a state dict saved by torch at {path}; it cannot be read: {reason}"
        raise ConfigError(msg) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        msg = (
            f"expected a state dict (names to tensors) in {path}, got {type(content).__name__}; save model.state_dict()"
        )
        raise ConfigError(msg)
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}  # DataParallel's prefix


def _torchvision(name: str) -> Mapping[str, Tensor]:
    from torchvision.models import get_weight

    try:
        state: Mapping[str, Tensor] = get_weight(name).get_state_dict(progress=False, check_hash=True)
    except (ValueError, AttributeError, KeyError) as error:
        msg = f"expected torchvision weights such as 'ResNet50_Weights.IMAGENET1K_V2', got {name!r}: {error}"
        raise ConfigError(msg) from error
    except OSError as error:
        msg = f"downloading {name} failed ({error}); save its state dict to a file and name that file instead"
        raise ConfigError(msg) from error
    return state
