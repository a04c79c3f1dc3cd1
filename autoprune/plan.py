"""The preflight of a search: what it could do to a model, before any time is spent on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from autoprune.core.clock import SystemClock
from autoprune.core.explanation import LayerExplanation
from autoprune.core.groups import BoolArray, Structure
from autoprune.core.jobs import Candidate, Evaluate, Status, WeightSet
from autoprune.core.protocols import Costs, JobRunner
from autoprune.core.space import SearchSpace
from autoprune.execute.in_process import attempt
from autoprune.latency.outlook import Outlook, outlook
from autoprune.latency.table import LatencyTable
from autoprune.reconstruct import MAX_BYTES, survey


@dataclass(frozen=True)
class Reach:
    """The range that one cost can reach.

    Attributes:
        smallest: cost of the smallest genome.
        dense: cost of the dense model.
        limit: the hard limit, None without one.
    """

    smallest: int
    dense: int
    limit: int | None = None


@dataclass(frozen=True)
class Pilot:
    """Measured seconds of two evaluations.

    Attributes:
        dense_seconds: seconds to evaluate the dense model.
        smallest_seconds: seconds to evaluate the smallest candidate.
    """

    dense_seconds: float
    smallest_seconds: float

    def seconds(self, evaluations: int) -> float:
        """Estimate the time of ``evaluations`` candidates, spread evenly over cost, one after the other."""
        return evaluations * (self.dense_seconds + self.smallest_seconds) / 2


@dataclass(frozen=True)
class ConsumerPlan:
    """The way in which the evaluator ``reconstructed`` re-solves a weight that reads prunable channels.

    Attributes:
        weight: its name.
        statistics: ``"full"``: second moments of every pair of inputs; ``"channels"``: of channels, mixed alike for all
            kernel taps; ``"none"``: the weight stays plain.
        features: rows of the second moments.
        bytes: their size.
        reason: the reason why they are not full; "" if they are.
    """

    weight: str
    statistics: str
    features: int
    bytes: int
    reason: str


@dataclass(frozen=True)
class Plan:
    """The preflight of a search.

    Attributes:
        layers: the layers in execution order: allowed widths, or why not.
        variables: names of the width variables.
        log10_size: decimal logarithm of the number of genomes.
        shares: share in 0..1 of the ``"macs"`` and ``"params"`` that lies in layers driven by a variable.
        reach: range that each cost can reach, by cost name.
        consumers: how closed-form reconstruction would treat each weight; empty when it was not asked for.
        notes: remarks on what the counted costs mean or leave out; usually empty.
        latency: prospect of gaining time by fewer channels; None where no latency table is known.
    """

    layers: tuple[LayerExplanation, ...]
    variables: tuple[str, ...]
    log10_size: float
    shares: Mapping[str, float]
    reach: Mapping[str, Reach]
    consumers: tuple[ConsumerPlan, ...] = ()
    notes: tuple[str, ...] = ()
    latency: Outlook | None = None

    @property
    def pinned(self) -> tuple[LayerExplanation, ...]:
        """The layers of which some or all channels stay, with the reason."""
        return tuple(layer for layer in self.layers if layer.reason)


def make_plan(space: SearchSpace, costs: Costs, limits: Mapping[str, int], table: LatencyTable | None = None) -> Plan:
    """Work out what a search in ``space`` could do.

    Args:
        space: the search space.
        costs: counts genomes of ``space``.
        limits: hard upper limits, absolute, by cost name.
        table: predicts latency in ``space``.
    """
    counted = costs(np.stack([space.min_genome, space.full_genome]))
    return Plan(
        layers=space.explain().layers,
        variables=tuple(variable.name for variable in space.variables),
        log10_size=math.log10(space.size),
        shares=_prunable_shares(space.structure, space.variable_of >= 0),
        reach={name: Reach(int(low), int(dense), limits.get(name)) for name, (low, dense) in counted.items()},
        notes=space.structure.notes,
        latency=None if table is None else outlook(table, space),
    )


def plan_reconstruction(model: nn.Module, structure: Structure, max_bytes: int = MAX_BYTES) -> tuple[ConsumerPlan, ...]:
    """Say for every weight that reads prunable channels which second moments the evaluator would collect.

    Args:
        model: the dense model.
        structure: the traced structure of the model.
        max_bytes: memory for all second moments together.
    """
    found = survey(model, structure, max_bytes=max_bytes)
    solved = [
        ConsumerPlan(
            consumer.weight,
            "channels" if consumer.shared_taps else "full",
            consumer.features,
            consumer.bytes,
            consumer.why,
        )
        for consumer in found.consumers
    ]
    return (*solved, *(ConsumerPlan(weight, "none", 0, 0, reason) for weight, reason in found.left_out.items()))


def run_pilot(space: SearchSpace, runner: JobRunner, weight_set: WeightSet) -> Pilot | str:
    """Evaluate the dense and the smallest candidate once each; return the error's text if one of them fails."""
    seconds = []
    genomes = (space.full_genome, space.full_genome, space.min_genome)  # the first one also loads the data
    for job_id, genome in enumerate(genomes):
        job = Evaluate(job_id, Candidate(tuple(genome.tolist()), weight_set))
        outcome = attempt(runner, job, clock=SystemClock(), worker="")
        if outcome.status is Status.FAILED:
            return outcome.message
        seconds.append(outcome.spent.seconds)
    return Pilot(*seconds[1:])


def _prunable_shares(structure: Structure, driven: BoolArray) -> dict[str, float]:
    """Return the shares of the dense costs in layers with a driven group; ``driven`` is (g,) boolean."""
    full = structure.full_widths[None, :]
    macs = {True: 0, False: 0}
    for operator in structure.operators:
        groups = [group for factor in operator.factors for group, _ in factor.terms]
        size = operator.weight * math.prod(int(factor.at(full)[0]) for factor in operator.factors)
        macs[any(driven[group] for group in groups)] += size
    params = {True: 0, False: 0}
    for tensor in structure.tensors:
        if tensor.kind == "parameter":
            genes = np.concatenate(
                [axis.genes for axis in structure.axes_of.get(tensor.name, ())] or [np.zeros(0, int)]
            )
            is_driven = bool(driven[structure.group_of[genes[genes >= 0]]].any())
            params[is_driven] += math.prod(tensor.shape)
    return {
        name: sizes[True] / max(1, sizes[True] + sizes[False]) for name, sizes in (("macs", macs), ("params", params))
    }
