"""Identity of a run's figures: what was decided, what was observed, and the machine that computed it.

Figures belong to what was measured, not to what was named. Two problems are the same when everything decided is equal
and everything observed (what arrives at the model, what it answers, what the task says) has the same bits. On another
machine bits differ though nothing was changed: there, whole numbers must agree and sampled numbers be close.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from autoprune.errors import StoreError

CPU_TO_CPU, ANYWHERE = 2e-4, 5e-2
"""Relative difference of sampled numbers that is rounding: between two CPUs, and where one is a GPU (bfloat16)."""

METRIC_SLACK = 10
"""A metric may differ by this many times the tolerance of outputs, and by the slack of `Observation`."""


@dataclass(frozen=True)
class Observation:
    """One thing that was observed.

    Attributes:
        exact: SHA-256 over every bit; "" where a second look saw something else.
        portable: SHA-256 over what is the same on every machine: structure, shapes, whole numbers.
        sample: some of the numbers, equal on another machine up to rounding.
        slack: None where the sample is compared as a whole; else how far each number may be off whatever its size.
        seeded: whether random numbers are in it, which every kind of device draws in its own way.
        reason: the reason why it cannot be recognised, for an error.
    """

    exact: str
    portable: str = ""
    sample: tuple[float, ...] = ()
    slack: float | None = None
    seeded: bool = False
    reason: str = ""

    @property
    def repeats(self) -> bool:
        """Whether it can be recognised."""
        return bool(self.exact)

    def is_near(self, other: Observation, tolerance: float) -> bool:
        """Say whether another machine may have observed the same."""
        if not (self.repeats and other.repeats) or self.exact == other.exact:
            return True
        if self.portable != other.portable or len(self.sample) != len(other.sample):
            return False
        if self.seeded:
            return True
        mine, others = _finite(self.sample), _finite(other.sample)
        if [x is None for x in mine] != [x is None for x in others]:
            return False
        pairs = [(a, b) for a, b in zip(mine, others, strict=True) if a is not None and b is not None]
        if self.slack is not None:
            return all(abs(a - b) <= self.slack + METRIC_SLACK * tolerance * max(abs(a), abs(b)) for a, b in pairs)
        mean = math.fsum(a for a, _ in pairs) / max(1, len(pairs))
        size = math.sqrt(math.fsum((a - mean) ** 2 for a, _ in pairs)) or abs(mean)
        return math.sqrt(math.fsum((a - b) ** 2 for a, b in pairs)) <= tolerance * size


@dataclass(frozen=True)
class Identity:
    """Everything that a problem's figures depend on, by what it is in words.

    Attributes:
        decided: hashes or short texts that are the same on every machine.
        machine: everything that decides how numbers are rounded: torch, device, processor, threads, precision.
        environment: processor and libraries in detail; where even these are equal, so must be every bit.
        observed: digests of what the dense model, and one made from it, gave on fixed items.
    """

    decided: Mapping[str, str]
    machine: Mapping[str, str]
    observed: Mapping[str, Observation] = field(default_factory=dict)
    environment: str = ""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything, the machine included."""
        return _hash([dict(self.decided), dict(self.machine), self.observed_hash])

    @property
    def observed_hash(self) -> str:
        """SHA-256 over everything that was observed."""
        return _hash({name: evidence.exact for name, evidence in self.observed.items()})

    @property
    def unrepeatable(self) -> list[str]:
        """Observations that were not the same the second time: figures that depend on them cannot be recognised."""
        return [
            f"{name} ({evidence.reason})" if evidence.reason else name
            for name, evidence in self.observed.items()
            if not evidence.repeats
        ]

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        observed = {
            name: {**asdict(evidence), "sample": _finite(evidence.sample)}  # JSON has no infinity, and models have
            for name, evidence in self.observed.items()
        }
        return {
            "decided": dict(self.decided),
            "machine": dict(self.machine),
            "observed": observed,
            "environment": self.environment,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Identity:
        """Rebuild from `to_json`.

        Raises:
            StoreError: the data is malformed.
        """
        try:
            observed = {
                str(name): Observation(
                    **{**item, "sample": tuple(math.nan if value is None else value for value in item["sample"])}
                )
                for name, item in data["observed"].items()
            }
            return cls(dict(data["decided"]), dict(data["machine"]), observed, str(data["environment"]))
        except (KeyError, TypeError, AttributeError) as error:
            msg = f"expected the identity of a run's problem, got something malformed ({error!r})"
            raise StoreError(msg) from error

    def differences(self, recorded: Identity) -> list[str]:
        """Name what differs from a recorded problem beyond rounding, as far as both were looked at."""
        if found := list(_unequal(self.decided, recorded.decided)):
            return found  # what is observed differs because of them
        if recorded.machine == self.machine and recorded.environment == self.environment:
            return self.other_bits(recorded)
        on_cpu = recorded.machine.get("device") == self.machine.get("device") == "cpu"
        tolerance = CPU_TO_CPU if on_cpu or recorded.machine == self.machine else ANYWHERE
        both = [name for name in self.observed if name in recorded.observed]
        return [n for n in both if not self.observed[n].is_near(recorded.observed[n], tolerance)]

    def other_bits(self, recorded: Identity) -> list[str]:
        """Name what was observed with other bits than were recorded, or repeated then and does not now."""
        return [
            name
            for name, evidence in self.observed.items()
            if (before := recorded.observed.get(name)) is not None and before.repeats and evidence.exact != before.exact
        ]

    def other_machine(self, recorded: Identity) -> tuple[str, str]:
        """Say how the recorded machine and this one differ: both in words, "" where they do not."""
        names = list(_unequal(self.machine, recorded.machine))
        there, here = (
            ", ".join(f"{name} {side.get(name, 'unknown')}" for name in names)
            for side in (recorded.machine, self.machine)
        )
        return there, here


def metrics_evidence(figures: Mapping[str, float], n_items: int) -> Observation:
    """Return the evidence of metrics by name, of which a few of ``n_items`` items may fall to the other side."""
    exact = {name: float(value).hex() for name, value in figures.items()}
    sample = tuple(float(figures[name]) for name in sorted(figures))
    return Observation(_hash(exact), _hash(sorted(figures)), sample, slack=2 / max(1, n_items))


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _unequal(here: Mapping[str, str], recorded: Mapping[str, str]) -> Iterator[str]:
    return (name for name, value in here.items() if name in recorded and value != recorded[name])


def _finite(sample: tuple[float, ...]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in sample]
