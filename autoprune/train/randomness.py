"""Random numbers that depend on a seed and a place in the work, never on what ran before.

Every training step, batch and item derives its own seed from ``(seed, where it stands)``. A resumed run therefore
draws what the undisturbed one would have drawn, whatever the number of data workers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from autoprune.core.streams import seed_sequence


def derive_seed(seed: int, *names: str | int) -> int:
    """Return the 63-bit seed that ``names`` own under ``seed``."""
    return int(seed_sequence(seed, *names).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_libraries(seed: int, device: torch.device | None = None) -> None:
    """Seed the global generators that transforms, layers and losses of users draw from.

    ``torch.manual_seed`` would do the same and format a stack trace for every accelerator that is not in use.

    Args:
        seed: seed for all of them.
        device: also seed the generator of this accelerator.
    """
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  users' transforms draw from the legacy generator


@contextmanager
def preserved_random_state(device: torch.device | None = None) -> Iterator[None]:
    """Give the global generators of Python, NumPy and torch their states back at the end.

    Args:
        device: also preserve the generator of this accelerator.
    """
    devices = [device] if device is not None and device.type == "cuda" else []
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
