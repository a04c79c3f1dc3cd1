"""A run's description of itself: written once at the start, so that a report needs neither model nor data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from autoprune.core.budget import Budget, Spending
from autoprune.core.objectives import RATES, Objectives
from autoprune.core.settings import in_words
from autoprune.errors import StoreError

SCHEMA_VERSION = 1

PROBLEM_FILE = "problem.json"
"""In a run's folder: which problem file it came from, for commands that build its points; none if made in Python."""

SUBSTITUTES = "substitutes"
"""Kind of the records ``{"jobs": [id, ...]}``: drawn at random where the strategy's method chose nothing new."""


ROTATE = "rotate"
"""The recipe that leaves the function of weights as it is, and only turns their channels into a better basis."""


class Role(StrEnum):
    """On which images a metric was measured; of polished points these figures stand beside those of what was scored."""

    PROXY = "proxy"
    VALIDATION = "val"
    TEST = "test"
    POLISHED = "polished"

    @property
    def label(self) -> str:
        """The role in words."""
        return {Role.VALIDATION: "search-validation", Role.POLISHED: "test (polished)"}.get(self, self.value)


@dataclass(frozen=True)
class Dense:
    """The user's model as it was given.

    Attributes:
        costs: counted integers by cost name.
        metrics: measured figures by name, for each role (`Role`); a role that was not measured is left out.
    """

    costs: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunMeta:
    """Everything that is known when a run starts. `to_json` is the layout of a store's ``meta``.

    Attributes:
        name: the user's name for the problem, such as ``"resnet20-cifar10"``; any text.
        model: the model in words, such as ``"ResNet"`` or ``"torchvision.models:resnet18"``; any text.
        strategy: registry key.
        seed: the run's seed.
        objectives: objectives in the form that `Objective.parse` reads, with the direction: ``("max:accuracy",
            "min:macs")``.
        limits: hard upper limits by cost name, absolute.
        budget: upper bound on what may be spent.
        space: `SearchSpace.to_json`, which contains the structure.
        dense: costs and metrics of the dense model.
        reference: the hypervolume's reference point by objective name, in natural units.
        prior: spending before the search on its behalf, such as on ranking channels.
        fidelity: the fidelity whose evaluations make the front.
        roles: role of the items that each fidelity measures on.
        images: number of images by use: ``"calibration"``, ``"proxy"``, ``"val"``, ``"test"``, ...
        held_out: False where the given weights were trained on the search-validation images.
        settings: everything else that shapes the numbers (evaluator, window, ...), JSON types only.
        environment: versions, device, threads, in words.
        identity: `Identity.to_json` of the problem; empty in runs of versions that recorded none.
        latency: `LatencyTable.to_json` of what predicted latency; empty where it was no cost.
        command: the command line or call that started the run, for the reader; may be empty.
        created: Unix time in seconds.
    """

    name: str
    model: str
    strategy: str
    seed: int
    objectives: tuple[str, ...]
    limits: Mapping[str, int]
    budget: Budget
    space: Mapping[str, Any]
    dense: Dense
    reference: Mapping[str, float]
    prior: Spending = field(default_factory=Spending)
    fidelity: str = "proxy"
    roles: Mapping[str, str] = field(default_factory=lambda: {"proxy": Role.PROXY.value})
    images: Mapping[str, int] = field(default_factory=dict)
    held_out: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    latency: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    created: float = 0.0

    @property
    def method(self) -> str:
        """Who searched, and from what, in words."""
        strategy = self.strategy.partition("+")[0]
        return method_in_words(strategy, self.settings.get("prepare", ""), self.warm_start, self.strategy_settings)

    @property
    def warm_start(self) -> Any:
        """What was measured first: a name, or ``{"run", ...}``, "" for nothing."""
        start = self.strategy.partition("+")[2]  # of runs that have no setting of their own for it
        return start or self.settings.get("warm_start", "")

    @property
    def strategy_settings(self) -> Mapping[str, Any] | None:
        """The settings of the strategy that are not its defaults; None in runs of versions that recorded none."""
        return self.settings.get("strategy_settings")

    @property
    def parsed_objectives(self) -> Objectives:
        """The objectives with their directions."""
        return Objectives.parse(self.objectives)

    @property
    def dense_figures(self) -> dict[str, float]:
        """The dense model's figures by name: costs, and metrics on the items that decide the front."""
        return {**self.dense.metrics.get(self.role_of(self.fidelity), {}), **self.dense.costs}

    @property
    def rates(self) -> frozenset[str]:
        """Metrics that are shares of 1, read in percent: by name, unless the dense model's figure is none."""
        measured = self.dense.metrics.values()
        return frozenset(n for n in RATES if all(0 <= figures[n] <= 1 for figures in measured if n in figures))

    def relative(self, name: str, value: float) -> float | None:
        """Return ``value`` as a fraction of the dense model's cost; None for a metric."""
        dense = self.dense.costs.get(name)
        return value / dense if dense else None

    def role_of(self, fidelity: str) -> Role:
        """Return the role of the images that ``fidelity`` measures on (proxy unless the run says otherwise)."""
        return Role(self.roles.get(fidelity, Role.PROXY))

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON types, with its schema version."""
        return {"schema": SCHEMA_VERSION, **dataclasses.asdict(self), "objectives": list(self.objectives)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunMeta:
        """Rebuild from `to_json`; keys of later minor additions are ignored.

        Raises:
            StoreError: the data is of another schema version, incomplete or malformed.
        """
        if data.get("schema") != SCHEMA_VERSION:
            msg = (
                f"expected a run description of schema {SCHEMA_VERSION}, got {data.get('schema')!r}; "
                "the folder was written by another version of autoprune, or is not a run"
            )
            raise StoreError(msg)
        known = {item.name for item in dataclasses.fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        try:
            values["budget"] = Budget(**data["budget"])
            values["prior"] = Spending(**data["prior"])
            values["dense"] = Dense(**data["dense"])
            values["objectives"] = tuple(data["objectives"])
            meta = cls(**values)
            roles = [*meta.roles.values(), *meta.dense.metrics]
            unknown = sorted(set(roles) - set(Role))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            msg = f"expected the description of a run, got something malformed ({error!r})"
            raise StoreError(msg) from error
        if unknown:
            msg = f"expected roles {', '.join(Role)}, got {unknown[0]!r} in the description of the run"
            raise StoreError(msg)
        return meta


def method_in_words(strategy: str, prepare: Any, warm_start: Any, settings: Mapping[str, Any] | None = None) -> str:
    """Say who searched, and from what.

    Args:
        strategy: registry key.
        prepare: ``{"recipe", "settings"}`` or ``{"run", "weights", "order"}``, "" for the given weights.
        warm_start: a name, or ``{"run", ...}``, "" for none.
        settings: settings of the strategy that are not its defaults.
    """
    said = in_words(strategy, settings or {})
    if prepare:
        said += f", weights {weights_in_words(prepare)}"
    if warm_start:
        start = warm_start if isinstance(warm_start, str) else f"the run {warm_start['run']}"
        said += f", warm start from {start}"
    return said


def weights_in_words(prepare: Any) -> str:
    """Say where the weights of a run come from, see `method_in_words`."""
    if not prepare:
        return "as they were given"
    if "run" in prepare:
        return f"of an earlier run ({prepare['weights'][:12]})"
    made = in_words(prepare["recipe"], prepare["settings"])
    return f"turned into a better basis first by {made}" if prepare["recipe"] == ROTATE else f"prepared by {made}"
