"""What a latency is of: how a network is run when it is timed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from autoprune.core.settings import as_integer
from autoprune.errors import InvalidArgumentError, shown, unknown_name

RUNTIMES = ("torch", "onnxruntime")
"""What runs a network whose time is predicted."""

TIMED_RUNTIMES = (*RUNTIMES, "compile")
"""What runs a network that is timed as a whole."""

DRIVER = "driver"
"""The target that is the machine of this process."""


@dataclass(frozen=True)
class LatencySettings:
    """Settings of the forward pass whose time is predicted, and of how much is measured for it.

    Attributes:
        batch_size: samples per forward pass.
        threads: CPU threads within operators.
        device: device that it runs on, such as ``"cpu"`` or ``"cuda:0"``.
        channels_last: whether tensors of images are laid out with the channels last.
        candidates: networks of random widths that the table is fitted to, at least 16.
        checks: further ones, timed as a whole, that correct it and give its error, at least 10.
        runtime: runtime of the network: ``"torch"``, eager, or ``"onnxruntime"``, on the CPU.
        target: machine that is measured: ``"driver"``, this one, or the node of a Ray cluster that has this resource
            (``"edge"``, ``"node:10.0.0.7"``) or label (``"kind=edge"``); candidates anywhere are costed by it.
        seconds: about how long measuring may take; decides how often each network runs.
        seed: seed of the random widths and of the order of the turns.

    Raises:
        InvalidArgumentError: a number is out of its range, or the runtime does not run so.
        UnknownNameError: there is no such runtime.
    """

    batch_size: int = 1
    threads: int = 1
    device: str = "cpu"
    channels_last: bool = False
    runtime: str = "torch"
    target: str = DRIVER
    candidates: int = 24
    checks: int = 16
    seconds: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every number."""
        least = {"batch_size": 1, "threads": 1, "candidates": 16, "checks": 10, "seed": 0}
        for name, smallest in least.items():
            whole = as_integer(getattr(self, name))
            if whole is None or whole < smallest:
                msg = f"expected {name} to be an integer of at least {smallest}, got {shown(getattr(self, name))}"
                raise InvalidArgumentError(msg)
        if self.runtime not in RUNTIMES:
            raise unknown_name("runtime of predictions", self.runtime, RUNTIMES)
        check_runtime(self.runtime, self.device.partition(":")[0], channels_last=self.channels_last)
        if not isinstance(self.target, str) or not self.target.strip("= "):
            msg = f"expected target='driver', or a resource or label of a Ray node, got {shown(self.target)}"
            raise InvalidArgumentError(msg)
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, int | float) or not 0 < self.seconds < 1e6:
            msg = f"expected seconds to be a positive number, got {shown(self.seconds)}"
            raise InvalidArgumentError(msg)

    @property
    def conditions(self) -> dict[str, Any]:
        """What a time depends on, without how much is measured: tables of other conditions cannot be compared."""
        chosen = asdict(self)
        names = ("batch_size", "threads", "device", "channels_last")
        return {name: chosen[name] for name in names} | ({} if self.runtime == "torch" else {"runtime": self.runtime})


def check_runtime(name: str, device: str, *, channels_last: bool = False) -> None:
    """Say whether a runtime runs on a type of device.

    Raises:
        UnknownNameError: there is no such runtime.
        InvalidArgumentError: it does not run there, or has no such memory format.
    """
    if name not in TIMED_RUNTIMES:
        raise unknown_name("runtime", name, TIMED_RUNTIMES)
    if name == "onnxruntime" and (device != "cpu" or channels_last):
        asked = "channels_last=True" if channels_last else f"device={device!r}"
        msg = f"ONNX Runtime is timed on the CPU, and lays its tensors out itself: leave out {asked}"
        raise InvalidArgumentError(msg)
