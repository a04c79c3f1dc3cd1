"""Hashes of the contents of items, by which roles that share items are found."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Subset

from autoprune.core.groups import IntArray
from autoprune.errors import DataError
from autoprune.train.split import Split

N_SAMPLES = 256
"""Items that are hashed where hashing all of them would mean reading a whole dataset."""


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


def sample_digests(split: Split) -> list[bytes]:
    """Hash every item of a split whose source is cheap to hash, else `N_SAMPLES` of them, evenly spread."""
    positions = split.positions
    if not split.source.whole and len(positions) > N_SAMPLES:
        positions = positions[np.linspace(0, len(positions) - 1, N_SAMPLES).astype(np.int64)]
    return split.source.digests(positions)


def check_disjoint(a: Split, b: Split, digests_a: Sequence[bytes], digests_b: Sequence[bytes]) -> None:
    """Refuse two roles that share items.

    Items of one source are compared by position, others by the hash of their content: all items of arrays, sampled
    items of datasets (evenly spread, so that a dataset given twice is found with certainty).

    Args:
        a: one role.
        b: the other role.
        digests_a: result of `sample_digests` for ``a``.
        digests_b: result of `sample_digests` for ``b``.

    Raises:
        DataError: they share an item.
    """
    if a.source is b.source:
        shared = len(np.intersect1d(a.positions, b.positions))
    else:
        shared = len(set(digests_a) & set(digests_b))
    if shared:
        looked = "" if a.source.whole and b.source.whole else f" of the {N_SAMPLES} compared"
        msg = (
            f"{shared} items{looked} are in both the {a.role} and the {b.role} data; figures measured on items "
            "that were trained or searched on mean nothing: remove them from one of the two"
        )
        raise DataError(msg)


def check_classes(split: Split) -> None:
    """Refuse data of a single class: every constant answer is right on it.

    Raises:
        DataError: the targets are classes, and there is only one.
    """
    seen: set[int] = set()
    for labels in [split.labels] if split.labels is not None else _read_labels(split):
        seen.update(np.unique(labels).tolist())
        if len(seen) > 1:
            return
    if seen:
        msg = f"the {split.role} data holds only class {seen.pop()} ({len(split)} items); give items of every class"
        raise DataError(msg)


def _read_labels(split: Split) -> Iterator[IntArray]:
    """Yield the classes of a few items at a time, nothing where targets are not classes."""
    for _, targets in split.loader(32):
        if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.is_floating_point():
            return
        yield targets.numpy().astype(np.int64)
