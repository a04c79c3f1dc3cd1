"""Several training runs that share a checkpoint slot."""

from __future__ import annotations

import pytest

from autoprune.errors import StoreError
from autoprune.prepare.phases import PhaseSlot
from autoprune.testing.recipe_laws import MemorySlot


def test_a_phase_keeps_what_those_in_front_wrote_last():
    """Each phase reads its own last bytes, empty ones included; a phase that has not begun reads none."""
    slot = MemorySlot()
    first, second = PhaseSlot(slot, 0), PhaseSlot(slot, 1)
    assert first.read() is None
    assert second.read() is None
    first.write(b"a")
    first.write(b"search")
    assert (first.read(), second.read()) == (b"search", None)
    second.write(b"")
    assert (first.read(), second.read()) == (b"search", b"")
    second.write(b"tune")
    assert (first.read(), second.read()) == (b"search", b"tune")


def test_a_phase_that_starts_over_drops_those_behind():
    """What a later phase wrote belongs to an end of the earlier one that is no longer there."""
    slot = MemorySlot()
    PhaseSlot(slot, 0).write(b"search")
    PhaseSlot(slot, 1).write(b"tune")
    PhaseSlot(slot, 0).write(b"again")
    assert PhaseSlot(slot, 1).read() is None


def test_cut_bytes_are_refused():
    """A slot that ends in the middle of a part is not a checkpoint."""
    slot = MemorySlot()
    PhaseSlot(slot, 0).write(b"search")
    assert slot.written is not None
    slot.written = slot.written[:-1]
    with pytest.raises(StoreError, match="not a complete checkpoint"):
        PhaseSlot(slot, 0).read()
