"""What runs the jobs, as users name it: an executor by name, or the settings of Ray; nothing here needs Ray."""

from __future__ import annotations

import re
from dataclasses import dataclass

from autoprune.core import check
from autoprune.errors import InvalidArgumentError, shown, unknown_name

MIB = 2**20

EXECUTORS = ("in-process", "ray")

_VERBS = ("submit", "collect", "capacity", "close")


@dataclass(frozen=True)
class RaySettings:
    """Settings of Ray: which cluster, how many workers, and how long to wait for them.

    Without an address a cluster of this machine alone is started: it listens on the loopback interface only,
    requires a token that is drawn for it, sends no usage statistics, and ends with the search.

    Attributes:
        workers: largest number of workers; None for as many as there is room for.
        cpus_per_worker: CPU cores that a worker reserves; an evaluation uses the evaluator's ``threads``.
        gpus_per_worker: share of a GPU that a worker reserves, such as 0.25 for four workers on each; None for a
            quarter where the evaluator wants a GPU, else nothing.
        cpus_per_preparation: CPU cores that a Prepare job reserves; None for those of a worker.
        gpus_per_preparation: share of a GPU that a Prepare job reserves; None for that of a worker. Where either is
            given, Prepare jobs have workers of their own, for which idle ones make room.
        address: address of a running cluster to join: ``"host:port"`` of its head, or ``"auto"`` for the one that this
            machine is part of.
        insecure: join a cluster that requires no token, on which anyone who reaches it can run code.
        deadline: seconds that an evaluation may take; then its worker is replaced and the candidate FAILED.
        prepare_deadline: seconds that preparing weights may take; None: any number.
        max_deaths: a candidate during which so many workers died is FAILED.
        max_memory: bytes that a candidate may allocate in a worker's main memory; a greedier one is FAILED. Linux only.
        patience: seconds to wait for a first worker, or for one after all were lost.
        object_store_bytes: shared memory of a local cluster; what does not fit goes to disk.

    Raises:
        InvalidArgumentError: a value cannot be used.
    """

    workers: int | None = None
    cpus_per_worker: float = 1.0
    gpus_per_worker: float | None = None
    cpus_per_preparation: float | None = None
    gpus_per_preparation: float | None = None
    address: str | None = None
    insecure: bool = False
    deadline: float = 600.0
    prepare_deadline: float | None = None
    max_deaths: int = 3
    max_memory: int | None = None
    patience: float = 120.0
    object_store_bytes: int = 512 * MIB

    def __post_init__(self) -> None:
        """Check the values."""
        check.at_least(self, 1, "workers", "max_deaths", "max_memory", "object_store_bytes")
        check.positive(self, "cpus_per_worker", "cpus_per_preparation", "deadline", "prepare_deadline", "patience")
        check.not_negative(self, "gpus_per_worker", "gpus_per_preparation")
        if self.address is not None and self.address.startswith("ray://"):
            msg = (
                f"expected the address of a cluster that this machine is part of, got {self.address!r}; run the search "
                "on the cluster itself: `ray job submit -- autoprune search ... --executor ray --address auto`"
            )
            raise InvalidArgumentError(msg)

    @property
    def resources(self) -> dict[str, float]:
        """The resources that a worker reserves, by Ray's names."""
        return _named(self.cpus_per_worker, self.gpus_per_worker)

    @property
    def preparation_resources(self) -> dict[str, float] | None:
        """The resources that a Prepare job reserves, by Ray's names; None if it runs on a worker like any other job."""
        if self.cpus_per_preparation is None and self.gpus_per_preparation is None:
            return None
        gpus = self.gpus_per_worker if self.gpus_per_preparation is None else self.gpus_per_preparation
        return _named(self._preparation_cpus, gpus)

    @property
    def _preparation_cpus(self) -> float:
        return self.cpus_per_worker if self.cpus_per_preparation is None else self.cpus_per_preparation


def _named(cpus: float, gpus: float | None) -> dict[str, float]:
    return {"CPU": cpus} | ({"GPU": gpus} if gpus else {})


def check_executor(executor: object, *, custom: bool = True) -> None:
    """Refuse what is no executor.

    Args:
        executor: None, a name of `EXECUTORS`, `RaySettings`, or an `Executor`.
        custom: whether an `Executor` of the user's own will do.

    Raises:
        UnknownNameError: there is no executor of this name.
        InvalidArgumentError: it is something else.
    """
    if executor is None or isinstance(executor, RaySettings) or (isinstance(executor, str) and executor in EXECUTORS):
        return
    if custom and not isinstance(executor, type) and all(hasattr(executor, verb) for verb in _VERBS):
        return
    if isinstance(executor, str) and not executor.startswith("ray"):
        raise unknown_name("executor", executor, EXECUTORS)
    kinds = "None, 'in-process', 'ray' or ap.RaySettings(...)"
    if custom:
        kinds += f" or an object with {', '.join(_VERBS)} (autoprune.core.protocols.Executor)"
    number = re.search(r"\d+", str(executor)) if isinstance(executor, str | int) else None
    hint = f"; for several workers write ap.RaySettings(workers={number[0]}) or --workers {number[0]}" if number else ""
    msg = f"expected executor={kinds}, got {shown(executor)}{hint}"
    raise InvalidArgumentError(msg)
