"""Random streams: every consumer of randomness owns one, derived by name from the run's seed."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_sequence(seed: int, *names: str | int) -> np.random.SeedSequence:
    """Return the seed sequence that ``names`` own under ``seed``: same names, same numbers, in any process."""
    digest = hashlib.sha256("\x1f".join(str(name) for name in names).encode()).digest()
    words = np.frombuffer(digest[:16], dtype="<u4").tolist()
    return np.random.SeedSequence(entropy=seed, spawn_key=tuple(words))


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the generator that ``names`` own under ``seed``."""
    return np.random.default_rng(seed_sequence(seed, *names))
