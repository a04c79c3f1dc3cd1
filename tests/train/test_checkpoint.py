"""Checkpoints that a disk has changed: noticed wherever the change is, never believed."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from autoprune.errors import AutopruneWarning, StoreError
from autoprune.testing.recipe_laws import MemorySlot
from autoprune.train.checkpoint import Checkpoint, load_state, save_state, sealed, unsealed

STATE = {"model.weight": torch.arange(12.0).reshape(3, 4), "optimizer.0.step": torch.tensor(7.0, dtype=torch.float64)}
N_CASES = 1000


def saved() -> bytes:
    """Return what a slot holds after five steps."""
    slot = MemorySlot()
    save_state(slot, 5, "a run", STATE)
    assert slot.written is not None
    return slot.written


def loaded(data: bytes) -> tuple[tuple[int, dict[str, Tensor]] | None, list[str]]:
    """Return what is read, and what is said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = load_state(MemorySlot(written=data), "a run")
    return found, [str(item.message) for item in caught if issubclass(item.category, AutopruneWarning)]


def is_right(found: tuple[int, dict[str, Tensor]] | None) -> bool:
    """Say whether it is what was saved."""
    return found is not None and found[0] == 5 and all(torch.equal(found[1][name], STATE[name]) for name in STATE)


def test_what_was_saved_comes_back() -> None:
    """Steps and tensors, without a word."""
    found, said = loaded(saved())
    assert is_right(found)
    assert said == []


def test_every_flipped_bit_is_noticed() -> None:
    """In lengths, header, tensors and seal: nothing is read, one warning says so. Silent: none of some thousands."""
    whole = saved()
    for place in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            found, (said,) = loaded(bytes(data))
            assert found is None, (place, bit)
            assert "damaged" in said
            assert len(said) < 2000


def test_every_cut_end_is_noticed() -> None:
    """Down to no bytes at all, and where the disk left zeros."""
    whole = saved()
    for data in [*(whole[:length] for length in range(len(whole))), bytes(len(whole)), whole + b"\0"]:
        found, (said,) = loaded(data)
        assert found is None
        assert "starts over" in said


def test_overwritten_bytes_are_noticed() -> None:
    """Blocks of other bytes, zeros or copies of other places: a warning, or an error where nothing of ours is left."""
    whole = saved()
    rng = np.random.default_rng(0)
    for case in range(N_CASES):
        start, end = sorted(int(place) for place in rng.integers(0, len(whole) + 1, 2))
        block = (rng.bytes(end - start), bytes(end - start), (whole + whole)[end : 2 * end - start])[case % 3]
        data = whole[:start] + block + whole[end:]
        try:
            found, said = loaded(data)
        except StoreError:
            continue
        assert is_right(found) if data == whole else found is None and len(said) == 1


def test_checkpoints_of_the_first_releases_still_open() -> None:
    """They have no seal; one that was cut is noticed all the same."""
    header = {"schema": 2, "step": 5, "identity": "a run"}
    old = save(STATE, metadata={"autoprune": json.dumps(header)})
    found, said = loaded(old)
    assert is_right(found)
    assert said == []
    assert loaded(old[:-1])[0] is None


def test_other_files_stay_what_they_are(tmp_path: Path) -> None:
    """Weights, notes, a checkpoint of another run: an error that names the path, and the file is not touched."""
    checkpoint = Checkpoint(tmp_path / "file")
    save_file(STATE, checkpoint.path)
    weights = checkpoint.path.read_bytes()
    artifact = save(STATE, metadata={"autoprune": json.dumps({"sha256": "0", "schema": 3})})
    for data in (weights, weights[:-1], b"notes " * 20, saved(), artifact):
        checkpoint.path.write_bytes(data)
        with pytest.raises(StoreError, match="file"):
            load_state(checkpoint, "another run")
        assert checkpoint.path.read_bytes() == data


def test_a_seal_is_noticed_or_taken_off() -> None:
    """Sealed bytes come back; bytes without a seal, too, however few."""
    for data in (b"", b"a", bytes(range(256))):
        assert unsealed(sealed(data)) == data
        assert unsealed(data) == data
    with pytest.raises(StoreError, match="expected the bytes"):
        unsealed(b"b" + sealed(b"aa")[1:])
