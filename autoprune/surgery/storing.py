"""Tensors as the bytes of a safetensors file, complex ones of double precision included, which the format has not."""

from __future__ import annotations

import json
from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor

_WIDE = "complex128"  # entry of the metadata: names of the tensors that stand as pairs of real numbers


def pack_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return tensors as bytes: any safetensors reader has them, complex128 ones as pairs of float64.

    Args:
        tensors: contiguous tensors on the CPU by name, each with a storage of its own.
        metadata: texts by name that stand in the header.
    """
    wide = [name for name, tensor in tensors.items() if tensor.dtype == torch.complex128]
    if wide:
        metadata = {**(metadata or {}), _WIDE: json.dumps(wide)}
        tensors = {name: torch.view_as_real(t.resolve_conj()) if name in wide else t for name, t in tensors.items()}
    return safetensors.torch.save(dict(tensors), metadata=None if metadata is None else dict(metadata))


def unpack_tensors(data: bytes) -> dict[str, Tensor]:
    """Undo `pack_tensors`.

    Raises:
        SafetensorError: the bytes are not such.
        ValueError: their header names pairs of numbers that are none.
    """
    tensors = safetensors.torch.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    wide = json.loads(header.get("__metadata__", {}).get(_WIDE, "[]"))
    pairs = {name for name, tensor in tensors.items() if tensor.dtype == torch.float64 and tensor.shape[-1:] == (2,)}
    if not isinstance(wide, list) or not pairs.issuperset(wide):
        msg = f"expected names of pairs of float64 numbers as {_WIDE}, got {wide!r:.100}"
        raise ValueError(msg)
    return {name: torch.view_as_complex(tensor) if name in wide else tensor for name, tensor in tensors.items()}
