"""One checkpoint slot for the phases of a preparation that run in a row."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.train.checkpoint import CheckpointSlot

_SIZE_BYTES = 8


@dataclass(frozen=True)
class PhaseSlot:
    """The part of a checkpoint slot that belongs to one phase.

    What a phase wrote last stays until the preparation ends, so that a later phase starts from it again after an
    interruption. Nothing is written before the phases in front have come to their ends. Damaged bytes give damaged
    parts, which whoever reads them notices; a phase that starts over drops those behind it.

    Attributes:
        slot: the slot that all phases share.
        phase: number of this phase, from 0.
    """

    slot: CheckpointSlot
    phase: int

    def __str__(self) -> str:
        """Name what all phases share."""
        return str(self.slot)

    @property
    def every(self) -> int:
        """Steps between two saves."""
        return self.slot.every

    def read(self) -> bytes | None:
        """Return what this phase wrote last, None where it has not begun."""
        parts = self._parts()
        return parts[self.phase] if self.phase < len(parts) else None

    def write(self, data: bytes) -> None:
        """Replace what this phase wrote last, as a whole or not at all."""
        parts = [*self._parts()[: self.phase], data]
        self.slot.write(b"".join(len(part).to_bytes(_SIZE_BYTES, "little") + part for part in parts))

    def _parts(self) -> list[bytes]:
        data = self.slot.read() or b""
        parts = []
        start = 0
        while start < len(data):
            first = start + _SIZE_BYTES
            start = first + int.from_bytes(data[start:first], "little")
            parts.append(data[first:start])
        return parts
