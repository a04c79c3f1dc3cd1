"""Checkpoints of a training run: tensors and a JSON header in the safetensors format, replaced as a whole.

A seal at the end, a SHA-256 over everything before it, tells a checkpoint from one that the disk has changed: a
training that finds its checkpoint damaged says so and starts over, which ends with the same weights, only later.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from autoprune.core import check
from autoprune.errors import StoreError, shown, warn
from autoprune.surgery.storing import pack_tensors, unpack_tensors

SCHEMA_VERSION = 3
UNSEALED_SCHEMA = 2
"""Of the first releases."""

_KEY = "autoprune"  # the entry of the safetensors metadata, which comes first in a file

_SEAL = b"autoprune-sha256"
_SEAL_BYTES = len(_SEAL) + hashlib.sha256().digest_size
_FIRST_BYTES = 64  # what names `_KEY` is among them; who has no more has nothing to lose


class CheckpointSlot(Protocol):
    """A place for the latest checkpoint of one training run."""

    @property
    def every(self) -> int:
        """Steps between two saves."""
        ...

    def read(self) -> bytes | None:
        """Return what was written last, None where nothing was."""
        ...

    def write(self, data: bytes) -> None:
        """Replace what was written last, as a whole or not at all."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint of a training run: its file, and how often it is written.

    Attributes:
        path: the file; an existing one is resumed from.
        every: steps between two saves. The last step is always saved.
    """

    path: Path
    every: int = 200

    def __post_init__(self) -> None:
        """Check the interval."""
        check.at_least(self, 1, "every")

    def __str__(self) -> str:
        """Name the file."""
        return str(self.path)

    def read(self) -> bytes | None:
        """Return the bytes of the file, None where there is none."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, data: bytes) -> None:
        """Replace the file; after a power cut it holds the old bytes or the new ones."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)


def sealed(data: bytes) -> bytes:
    """Return ``data`` with its SHA-256 at the end."""
    return data + _SEAL + hashlib.sha256(data).digest()


def unsealed(data: bytes) -> bytes:
    """Undo `sealed`; bytes without a seal, such as those of the first releases, come back as they are.

    Where the seal itself was changed they come back with what is left of it, which is no format's end.

    Raises:
        StoreError: the bytes have changed since they were sealed.
    """
    content, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    if not seal.startswith(_SEAL):
        return data
    if hashlib.sha256(content).digest() != seal[len(_SEAL) :]:
        raise StoreError("expected the bytes that were written, got others")
    return content


def save_state(slot: CheckpointSlot, step: int, identity: str, state: Mapping[str, Tensor]) -> None:
    """Write everything that the steps after ``step`` depend on.

    Random generators need no state: every step seeds them by its own number.

    Args:
        slot: the checkpoint slot to write to.
        step: steps done.
        identity: name of the run; only a run of the same identity may resume.
        state: tensors by name.
    """
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
    header = {"schema": SCHEMA_VERSION, "step": step, "identity": identity}
    slot.write(sealed(pack_tensors(tensors, metadata={_KEY: json.dumps(header)})))


def load_state(slot: CheckpointSlot, identity: str) -> tuple[int, dict[str, Tensor]] | None:
    """Return the steps done and the state that `save_state` wrote, None where nothing was.

    None, with an `AutopruneWarning`, where what was written is damaged: the training starts over.

    Raises:
        StoreError: the bytes were never a checkpoint, or belong to another run.
    """
    data = slot.read()
    if data is None:
        return None
    try:
        step, schema, owner, tensors = _parsed(data)
    except (StoreError, SafetensorError, LookupError, ValueError, TypeError, RecursionError) as error:
        if _is_foreign(data):
            msg = f"{slot} is not a training checkpoint; delete it to start over, or choose another path"
            raise StoreError(msg) from error
        warn(f"{slot} is damaged ({shown(str(error))}): this training starts over, from its first step", stacklevel=2)
        return None
    if schema not in (SCHEMA_VERSION, UNSEALED_SCHEMA) or owner != identity:
        msg = (
            f"the checkpoint {slot} belongs to a run with another model, data, settings or seed; delete it, or choose "
            "another path"
        )
        raise StoreError(msg)
    return step, tensors


def _parsed(data: bytes) -> tuple[int, int, str, dict[str, Tensor]]:
    """Return steps, schema, identity and state; raises all kinds of errors for damaged bytes."""
    content = unsealed(data)
    size = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][_KEY])
    if header["schema"] == SCHEMA_VERSION and "identity" in header and content is data:
        raise StoreError("its end is missing")
    return int(header.get("step", 0)), header["schema"], header.get("identity", ""), unpack_tensors(content)


def _is_foreign(data: bytes) -> bool:
    """Say whether bytes that cannot be read are someone's file, not a checkpoint; zeros are left by a power cut."""
    is_ours = _KEY.encode() in data[:_FIRST_BYTES] or _SEAL in data[-_SEAL_BYTES:]
    return len(data) > _FIRST_BYTES and not is_ours and any(data)


def training_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors of a model and of its optimizer, buffers included, settings excluded."""
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()} | optimizer_state(optimizer)


def restore_training(model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Undo `training_state`."""
    model.load_state_dict(under("model.", state))
    restore_optimizer(optimizer, state)


def optimizer_state(optimizer: torch.optim.Optimizer, prefix: str = "optimizer.") -> dict[str, Tensor]:
    """Return what an optimizer remembers, as tensors by name; numbers become tensors without dimensions."""
    return {
        f"{prefix}{index}.{key}": value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if value is not None
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor], prefix: str = "optimizer."
) -> None:
    """Undo `optimizer_state`; the settings of the optimizer stay."""
    found: dict[int, dict[str, Any]] = {}
    for name, value in under(prefix, state).items():
        index, _, key = name.partition(".")
        found.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": found, "param_groups": optimizer.state_dict()["param_groups"]})


def under(prefix: str, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what is called ``prefix`` and something, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
