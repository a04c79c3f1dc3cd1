"""What items are made of, as hashes: how roles that share items are found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Subset

from autoprune.train.randomness import seed_libraries


def digest(content: bytes) -> bytes:
    """Return the 16-byte hash of ``content``."""
    return hashlib.blake2b(content, digest_size=16).digest()


def item_digest(dataset: Any, position: int) -> bytes:
    """Hash what an item is made of, in front of transforms where the dataset shows it."""
    if isinstance(dataset, Subset):
        return item_digest(dataset.dataset, int(dataset.indices[position]))
    stored = getattr(dataset, "data", None)
    if isinstance(stored, np.ndarray | Tensor) and len(stored) == len(dataset):
        return digest(np.ascontiguousarray(stored[position]).tobytes())
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, list) and len(samples) == len(dataset) and isinstance(samples[position], tuple):
        path = samples[position][0]
        if isinstance(path, str | Path) and Path(path).is_file():
            return digest(Path(path).read_bytes())
    seed_libraries(0)
    return digest(content_of(dataset[position][0]))


def content_of(value: Any) -> bytes:
    """Return the bytes that make ``value`` what it is."""
    if isinstance(value, Mapping):
        return b"".join(str(key).encode() + content_of(item) for key, item in sorted(value.items()))
    if isinstance(value, tuple | list):
        return b"".join(content_of(item) for item in value)
    array = np.ascontiguousarray(value)  # tensors, arrays, PIL images, numbers
    return repr((array.dtype.str, array.shape)).encode() + array.tobytes()
