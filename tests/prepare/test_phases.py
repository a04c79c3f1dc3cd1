"""Several training runs that share a checkpoint slot."""

from __future__ import annotations

import warnings

import torch

from autoprune.prepare.phases import PhaseSlot
from autoprune.testing.recipe_laws import MemorySlot
from autoprune.train.checkpoint import load_state, save_state


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


def saved(slot: MemorySlot) -> None:
    """Save two phases."""
    for phase in range(2):
        save_state(PhaseSlot(slot, phase), 3 + phase, f"phase {phase}", {"a": torch.arange(4.0) + phase})


def test_every_flipped_bit_is_noticed_by_its_phase():
    """In the sizes, too: a phase is what was saved, or starts over with a warning; the last one may begin anew."""
    slot = MemorySlot()
    saved(slot)
    whole = slot.written
    assert whole is not None
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        slot.written = bytes(data)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = [load_state(PhaseSlot(slot, phase), f"phase {phase}") for phase in range(2)]
            for phase, state in enumerate(found):
                if state is not None:
                    assert state[0] == 3 + phase
                    assert torch.equal(state[1]["a"], torch.arange(4.0) + phase)
                elif phase == 0:
                    assert caught
                    save_state(PhaseSlot(slot, 0), 1, "phase 0", {})  # it starts over, whatever is there
                    assert PhaseSlot(slot, 1).read() is None
                    break
