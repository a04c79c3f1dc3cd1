"""Checkpoints of a training run: one safetensors file, tensors and a JSON header, replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from autoprune.errors import InvalidArgumentError, StoreError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often to save a training run.

    Attributes:
        path: the file; an existing one is resumed from.
        every: steps between two saves. The last step is always saved.
    """

    path: Path
    every: int = 200

    def __post_init__(self) -> None:
        """Check the interval."""
        if self.every < 1:
            msg = f"expected a positive number of steps between checkpoints, got {self.every}"
            raise InvalidArgumentError(msg)

    def save(self, step: int, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write everything that the steps after ``step`` depend on.

        Random generators need no state here: every step seeds them by its own number.

        Args:
            step: steps done.
            identity: names the run; only a run of the same identity may resume.
            model: its state is saved, buffers included.
            optimizer: its state is saved, settings excluded.
        """
        tensors = {f"model.{name}": _plain(tensor) for name, tensor in model.state_dict().items()}
        numbers: dict[str, Any] = {}
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                name = f"optimizer.{index}.{key}"
                if isinstance(value, Tensor):
                    tensors[name] = _plain(value)
                else:
                    numbers[name] = value
        header = {"schema": SCHEMA_VERSION, "step": step, "identity": identity, "numbers": numbers}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        save_file(tensors, part, metadata={"autoprune": json.dumps(header)})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(self.path)

    def load(self, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Restore a run.

        Args:
            identity: of the run that wants to resume.
            model: gets its state back.
            optimizer: gets its state back.

        Returns:
            Steps done; 0 when there is no checkpoint.

        Raises:
            StoreError: the file is not a checkpoint, is damaged, or belongs to another run.
        """
        if not self.path.exists():
            return 0
        try:
            with safe_open(self.path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["autoprune"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            msg = f"{self.path} is not a complete training checkpoint ({error}); delete it to start over"
            raise StoreError(msg) from error
        if header["schema"] != SCHEMA_VERSION or header["identity"] != identity:
            msg = (
                f"the checkpoint {self.path} belongs to a run with another model, data, settings or seed; delete it, "
                "or choose another path"
            )
            raise StoreError(msg)
        model.load_state_dict(_under("model.", tensors))
        state: dict[int, dict[str, Any]] = {}
        for name, value in {**_under("optimizer.", tensors), **_under("optimizer.", header["numbers"])}.items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(header["step"])


def _plain(tensor: Tensor) -> Tensor:
    """Return a contiguous copy: safetensors refuses views and shared memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _under(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
