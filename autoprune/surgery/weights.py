"""The weights blob: dense tensors as safetensors bytes that are equal for equal weights."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from autoprune.core.groups import Structure
from autoprune.errors import SurgeryError
from autoprune.surgery.matching import dense_tensors


def encode_weights(weights: Mapping[str, Tensor], structure: Structure) -> bytes:
    """Return the weights blob: every tensor of the structure once, under its first name.

    Args:
        weights: dense tensors by name, such as `model_weights` returns.
        structure: what was traced.

    Raises:
        SurgeryError: the weights do not match the structure.
    """
    dense = dense_tensors(weights, structure, "weights given")
    # a clone gives views of one storage a storage each, which safetensors asks for
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in dense.items()}
    return safetensors.torch.save(plain)  # sorted by dtype and name and without metadata: deterministic


def decode_weights(blob: bytes, structure: Structure) -> dict[str, Tensor]:
    """Return the weights in a weights blob, on the CPU.

    Raises:
        SurgeryError: the bytes are not a weights blob of this structure.
    """
    try:
        weights = safetensors.torch.load(blob)
    except (SafetensorError, KeyError, ValueError) as error:
        msg = f"expected a weights blob (safetensors), got {len(blob)} bytes that are none ({error})"
        raise SurgeryError(msg) from error
    return dense_tensors(weights, structure, "weights blob")
