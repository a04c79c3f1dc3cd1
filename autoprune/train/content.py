"""Hashes of the contents of items, by which roles that share items are found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Subset


def digest(content: bytes) -> bytes:
    """Return the 16-byte hash of ``content``."""
    return hashlib.blake2b(content, digest_size=16).digest()


def stored_digest(dataset: Any, position: int) -> bytes | None:
    """Hash what an item is made of in front of all transforms, or return None where the dataset does not show it."""
    if isinstance(dataset, Subset):
        return stored_digest(dataset.dataset, int(dataset.indices[position]))
    stored = getattr(dataset, "data", None)
    if isinstance(stored, np.ndarray | Tensor) and len(stored) == len(dataset):
        return digest(_bytes(stored[position]))
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, list) and len(samples) == len(dataset) and isinstance(samples[position], tuple):
        path = samples[position][0]
        if isinstance(path, str | Path) and Path(path).is_file():
            return digest(Path(path).read_bytes())
    return None


def content_of(value: Any) -> bytes:
    """Return the bytes that make ``value`` what it is."""
    if isinstance(value, Mapping):
        return b"".join(str(key).encode() + content_of(item) for key, item in sorted(value.items()))
    if isinstance(value, tuple | list):
        return b"".join(content_of(item) for item in value)
    if isinstance(value, Tensor):
        return repr((str(value.dtype), tuple(value.shape))).encode() + _bytes(value)
    array = np.ascontiguousarray(value)  # arrays, PIL images, numbers, texts
    return repr((array.dtype.str, array.shape)).encode() + array.tobytes()


def _bytes(value: npt.NDArray[Any] | Tensor) -> bytes:
    """Return the bytes of an array or tensor, of dtypes that numpy does not have (bfloat16), too."""
    if not isinstance(value, Tensor):
        return np.ascontiguousarray(value).tobytes()
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
