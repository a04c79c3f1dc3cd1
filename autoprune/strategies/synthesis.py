"""Evolutionary synthesis: generations of offspring, each drawn from a trained parent and trained for a short time.

Shafiee et al., "Deep learning with Darwin" (2016, arXiv 1606.04393), and Wong et al., "StressedNets" (2018,
1801.05387). What one offspring is, the recipe `autoprune.prepare.synthesis` says. A generation has a budget, smaller
than the last one's, and several offspring; all are measured with their own weights, and the best one is the parent of
the next. The papers have one offspring per generation; with two or more, every other offspring has a mate, the second
best (1709.02043). *Style*: budgets per generation, numbers and selection are ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from autoprune.core import check
from autoprune.core.jobs import MATE, Candidate, Evaluate, Evaluation, Job, Preparation, Prepare
from autoprune.core.objectives import soft_cost
from autoprune.core.protocols import SearchSetup
from autoprune.strategies._base import BaseStrategy, child_seeds
from autoprune.strategies._preparation import Preparations, sized
from autoprune.strategies._sweep import check_targets, spread_targets

_MEASURED = 0.1  # of the multiply-adds, at least, is left for measuring


@dataclass(frozen=True)
class SynthesisSettings:
    """Settings of the evolution.

    Attributes:
        targets: budgets of the generations as shares of the dense model's cost, falling; None spreads ``generations``
            of them evenly in width (the root of the cost) between the largest and the smallest network.
        generations: number of generations.
        offspring: networks of a generation.
        mates: whether every other offspring has two parents.
        share: largest share of the budget's multiply-adds, if these are limited, that all trainings together take.
        epochs: most epochs of one training, and the exact number if nothing limits it.
        min_epochs: below which a training is worth nothing.
        learning_rate: learning rate of the trainings, by SGD; None: AdamW at one that the network stands.
        preparation: further settings of the recipe, JSON types, such as ``{"stress": "decay"}``.

    Raises:
        InvalidArgumentError: a value cannot be used.
    """

    targets: tuple[float, ...] | None = None
    generations: int = 5
    offspring: int = 4
    mates: bool = True
    share: float = 0.85
    epochs: float = 4.0
    min_epochs: float = 0.25
    learning_rate: float | None = None
    preparation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values."""
        check.at_least(self, 1, "generations", "offspring")
        check.share(self, "share", but=(0, 1))
        check.positive(self, "epochs", "min_epochs", "learning_rate")
        check_targets(self.targets)


class SynthesisStrategy(BaseStrategy):
    """Generations of offspring, each within its budget.

    The largest feasible network is measured with the given weights first. A generation begins when all of the last one
    were measured; offspring that fail are left out, and a generation of failures has the parent of the last one. The
    search is finished when the last generation was measured.

    Raises:
        BudgetError: the multiply-adds are not enough for the shortest trainings.
        InfeasibleError: a target is out of reach.
    """

    Settings = SynthesisSettings

    learns: ClassVar[bool] = True
    """Whether chance and stress have a say; not so in a twin."""

    def __init__(self, setup: SearchSetup, settings: SynthesisSettings | None = None) -> None:
        super().__init__(setup, settings)
        chosen = self.settings
        self._cost = soft_cost(setup.objectives.names, setup.limits)
        top = setup.space.repair(setup.space.full_genome[None, :], setup.costs, setup.limits)
        self._ancestor = Candidate(tuple(top[0].tolist()), setup.weight_set)
        self._targets = spread_targets(setup, self._cost, top, chosen.targets, chosen.generations)
        places = [(generation, i) for generation in range(len(self._targets)) for i in range(chosen.offspring)]
        self._seeds = dict(zip(places, child_seeds(setup.seed, len(places)), strict=True))
        self._births = Preparations(places)
        self._waiting = deque([self._ancestor])
        self._measured: dict[Candidate, float] = {}
        self._ended: set[Candidate] = set()
        self._job(0, places[0], self._ancestor, None)  # a budget that is too small fails here, before any work

    def _propose(self, ids: range) -> Sequence[Job]:
        jobs: list[Job] = []
        for id_ in ids:
            job = self._next(id_)
            if job is None:
                break
            jobs.append(job)
        return jobs

    def _next(self, id_: int) -> Job | None:
        while self._waiting:
            candidate = self._waiting.popleft()
            if candidate not in self._ended:
                return Evaluate(id_, candidate)
        births = self._births
        if not births.waiting:
            return None
        place = births.next
        parents = self._parents(place[0])
        if parents is None:
            return None
        births.start()
        mate = parents[1] if len(parents) > 1 and self.settings.mates and place[1] % 2 else None
        return self._job(id_, place, parents[0], mate)

    def _parents(self, generation: int) -> list[Candidate] | None:
        """Return the networks of the last generation that came to anything, best first; None while some are under way.

        Of the ancestor where there are none, or it is the first generation.
        """
        for last in range(generation - 1, -1, -1):
            found = {place: made for place, made in self._births.found.items() if place[0] == last}
            known = [place for place in self._seeds if place[0] == last]
            if any(place not in self._births.made for place in known):
                return None
            if any(candidate not in self._ended for candidate in found.values()):
                return None
            ranked = sorted((c for c in found.values() if c in self._measured), key=self._measured.__getitem__)
            if ranked:
                return list(dict.fromkeys(ranked))
        return [self._ancestor]

    def _learn(self, told: Sequence[Evaluation]) -> None:
        for evaluation in told:
            self._ended.add(evaluation.job.candidate)
            values = self._values(evaluation)
            if values is not None:
                measured = [name not in self.setup.costs.names for name in self.setup.objectives.names]
                kept = values[measured] if any(measured) else values
                self._measured[evaluation.job.candidate] = float(np.sum(kept))

    def _learn_prepared(self, told: Sequence[Preparation]) -> None:
        for preparation in told:
            place = self._place_of(preparation.job)
            if place is not None:
                self._births.hear(place, preparation)
                if place in self._births.found:
                    self._waiting.append(self._births.found[place])

    def _place_of(self, job: Prepare) -> tuple[int, int] | None:
        return next((place for place, seed in self._seeds.items() if _number(seed) == job.seed), None)

    def _job(self, id_: int, place: tuple[int, int], parent: Candidate, mate: Candidate | None) -> Prepare:
        """Return the job of one offspring, as long as what may be spent allows."""
        settings, setup = self.settings, self.setup
        given: dict[str, Any] = {
            **({} if settings.learning_rate is None else {"learning_rate": settings.learning_rate}),
            **settings.preparation,
            "learns": self.learns,
            "target": self._targets[place[0]],
            "cost": self._cost,
            "start": list(parent.genome),
        }
        if mate is not None:
            given |= {MATE: [mate.weight_set.weights, mate.weight_set.order], "mate_start": list(mate.genome)}
        macs = None
        if setup.macs is not None:
            macs = min(settings.share, 1 - _MEASURED) * setup.macs / len(self._seeds)
        seed = _number(self._seeds[place])
        return sized(
            setup,
            lambda epochs: Prepare(id_, "synthesis", {**given, "epochs": epochs}, parent.weight_set, seed),
            settings.epochs,
            macs=macs,
            min_epochs=settings.min_epochs,
        )


class UniformSynthesisStrategy(SynthesisStrategy):
    """The twin: all groups cut to one share, the strongest channels of each, trained as long without stress.

    Offspring of a generation are of one size and differ by the order of their training items.
    """

    learns = False


def _number(seed: np.random.SeedSequence) -> int:
    return int(seed.generate_state(1)[0])
