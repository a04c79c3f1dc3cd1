"""ACP-style search: a particle swarm that starts from clusters of channels, and from the knapsack's optima.

Chang et al., "ACP: Automatic channel pruning via clustering and swarm intelligence optimization for CNN", 2021
(2101.06407), after the released code: the paper's constants could not be checked. From there: a population around the
numbers of clusters (particle 0 is the clustering itself, the others move each gene by -1, 0 or +1 times their index),
10 particles, the swarm rule with chi 0.729, c1 = c2 = 2, largest velocity 2 and inertia from 0.6 to 0.4, steps that
move a part of the genes, particles that move on as soon as they were measured.

Bugs of the release that are not repeated:

1. positions moved by the velocity of the step before: the velocity is updated first;
2. the genes that move were drawn with replacement and never the last one: without replacement, from all;
3. velocities were updated for the first genes instead of those that move;
4. both pulls had one random number for the whole particle: every gene draws two;
5. widths were clipped below the full width: every level of the space can be reached;
6. ``int()`` rounded towards zero, so that widths drifted down: rounded to the nearest;
7. clusters and fitness came from test images: from training and search-validation images here.

Ours, since the release has no control of cost and knows one budget at a time:

* positions are levels of the search space, not channels: the smallest step that the space allows stays the unit of
  the rule. With eight levels the longest step, four levels, is half the range, where four channels of 64 are a
  sixteenth; with every width allowed (``levels=None``) it is the release's. Eight genes move per step there, of 13 to
  54; here a share of them;
* several clusterings, their eps bisected to costs spread over the feasible range, with an equal part of the particles
  around each, and two particles at the ends of that range, which no front can do without, unless these are measured;
* where something was measured before (``warm_start="knapsack"``: the optima that sensitivities predict), the particles
  start from the best of that instead, spread over cost, and know what it was worth. Widths are the knapsack's then, and
  clusters say which channels stay: one clustering gives an order of which every width keeps one channel of each of as
  many clusters. Every second particle begins by measuring its place once more in that order, and all moves are in the
  order of the two that was better in more of these places;
* steps from such a start are cost-aware: a particle follows leaders of nearly its own cost, and what it moves to costs
  no more than a random amount between the two, so that candidates compete at equal cost instead of drifting along it;
* where a candidate is scored on few items, or without labels, positions are compared by the distance from the dense
  outputs, which has almost no noise, in the place of the first measured objective;
* the fitness is the vector of objectives, costs among them: a particle's best position is replaced unless it dominates
  the new one, and the leader of each move is drawn from the archive of all non-dominated candidates, of two the one in
  the less crowded place (Coello Coello et al., MOPSO, IEEE TEC 2004; Deb's crowding distance);
* moves are repaired into the hard limits. A move that leads to nothing new is drawn again with a fresh velocity; a
  particle that finds nothing new in that way goes to a random genome;
* candidates inherit weights and are not trained for three epochs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoprune.core import check
from autoprune.core.groups import FloatArray, IntArray
from autoprune.core.jobs import Candidate, Evaluate, Evaluation, Job, Preparation, Prepare, WeightSet
from autoprune.core.protocols import SearchSetup
from autoprune.pareto.dominance import non_dominated
from autoprune.strategies._base import BaseStrategy, Genome, child_seeds, spread_cost
from autoprune.strategies._curve import widest_gap_first
from autoprune.strategies._evolution import crowding
from autoprune.strategies._population import likely_evaluations
from autoprune.strategies._preparation import Preparations, sized
from autoprune.strategies._sensitivity import DISTANCE
from autoprune.strategies._swarm import Particle, SwarmRule, advance, fresh_velocity
from autoprune.strategies._unseen import UnseenGenomes

_TRIES = 10  # moves of a particle to known genomes, each with a fresh velocity, until it is sent to a random one
_CYCLES = 8  # of the release, where the number of evaluations is unknown
_ENDS = 2  # particles that begin at the largest and the smallest network
_FEWEST_IMAGES = 50  # per clustering
_SLACK = 0.02  # above the cost that a step may reach: levels are coarse
_FEW_ITEMS = 1000  # one standard error of an accuracy is more than a point below

SCORES = ("auto", "objectives", "distance")
"""What positions of the swarm are compared by."""


@dataclass(frozen=True)
class SwarmSettings:
    """Settings of the swarm.

    Attributes:
        particles: members of the swarm, each with one candidate in flight.
        rule: constants of the moves.
        cost_aware: whether particles follow leaders of nearly their own cost and stay between the costs of the two;
            None: where they start from what was measured before (without a start it narrows the search too early).
        score: figure that positions are compared by beside the costs: ``"objectives"``, those that are measured;
            ``"distance"`` from the dense model's outputs in the place of the first of them; ``"auto"`` for the latter
            where fewer than 1,000 items score a candidate.

    Raises:
        InvalidArgumentError: there are fewer than 4 particles; UnknownNameError: there is no such score.
    """

    particles: int = 10
    rule: SwarmRule = field(default_factory=SwarmRule)
    cost_aware: bool | None = None
    score: str = "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        check.at_least(self, _ENDS + 2, "particles")
        check.one_of(self, "score", SCORES)


class AcpUnclusteredStrategy(BaseStrategy):
    """The swarm alone, from random genomes spread over cost, on what every other strategy inherits: the twin.

    Every particle has one candidate in flight. The search ends when every feasible genome was proposed.
    """

    Settings = SwarmSettings

    def __init__(self, setup: SearchSetup, settings: SwarmSettings | None = None) -> None:
        super().__init__(setup, settings)
        for_unseen, for_moves, self._for_preparation = child_seeds(setup.seed, 3)
        self._unseen = UnseenGenomes(setup, np.random.default_rng(for_unseen))
        self._rng = np.random.default_rng(for_moves)
        self._cycles = max(
            1, (likely_evaluations(setup) or _CYCLES * self.settings.particles) // self.settings.particles
        )
        self._particles: list[Particle] = []
        self._weight_sets: list[WeightSet] = []  # of the particles
        self._idle: deque[int] = deque()  # particles without a candidate in flight, longest idle first
        self._sent: dict[int, int] = {}  # particle of every job in flight
        self._archive: dict[Genome, FloatArray] = {}  # figures of the non-dominated candidates
        self._inherits: dict[Genome, WeightSet] = {}  # weights of everything that was measured
        self._is_cost_aware = bool(self.settings.cost_aware)
        self._tried: WeightSet | None = None  # order that is measured beside the one that was measured before
        self._votes = 0  # places where it was better, minus those where it was worse
        few = setup.items is not None and setup.items < _FEW_ITEMS
        self._by_distance = few if self.settings.score == "auto" else self.settings.score == "distance"
        self._values_of: list[FloatArray | None] = []  # of every particle's best position

    @property
    def window(self) -> int:
        """The particles: each has one candidate in flight."""
        return int(self.settings.particles)

    def _propose(self, ids: range) -> Sequence[Job]:
        if not self._particles:
            self._populate([])
        jobs: list[Job] = []
        for id_ in ids:
            if not self._idle:
                break
            index = self._idle.popleft()
            genome = self._next(index)
            if genome is None:
                self._idle.appendleft(index)
                break
            self._sent[id_] = index
            jobs.append(Evaluate(id_, Candidate(genome, self._weight_sets[index])))
        return jobs

    def _learn(self, told: Sequence[Evaluation]) -> None:
        for evaluation in told:
            values = self._scored(evaluation)
            index = self._sent.pop(evaluation.job.id, None)  # None in an earlier run's outcomes
            if values is not None:
                if index is not None and self._particles[index].steps == 1:
                    self._vote(index, evaluation.job.candidate, values)
                self._keep(evaluation.job.candidate, values)
            if index is not None:
                self._idle.append(index)
                if values is not None:
                    self._improve(index, values)

    def _absorb(self, told: Sequence[Evaluation]) -> None:
        self._learn(told)
        for evaluation in told:
            self._unseen.add(evaluation.genome)

    def _populate(self, starts: Sequence[Candidate]) -> None:
        """Make the particles: at the ends that were not measured yet, at the best of what was, else around the starts.

        With a start every second one of those at measured places measures its own anew, in the start's order. Without
        either, particles begin at random.
        """
        space, setup = self.setup.space, self.setup
        ends = space.repair(np.stack([space.full_genome, space.min_genome]), setup.costs, setup.limits)
        ends = ends[[tuple(end) not in self._unseen for end in ends.tolist()]]
        n = self.settings.particles - len(ends)
        measured = self._measured_before(n)
        if starts and measured and all(item.weight_set == setup.weight_set for item in measured):
            self._tried = starts[0].weight_set
        if self.settings.cost_aware is None:
            self._is_cost_aware = bool(measured)
        n_around = n - len(measured)
        if starts and n_around:
            turns, which = np.divmod(np.arange(n_around), len(starts))
            around = np.array([start.genome for start in starts])[which]
            around += turns[:, None] * self._rng.integers(-1, 2, around.shape)
            inside = np.clip(around, 0, space.n_levels - 1)
            weight_sets = [starts[i].weight_set for i in (*which.tolist(), 0, -1)][: n_around + len(ends)]
        else:
            inside = space.sample(n_around, self._rng, setup.costs, setup.limits)
            weight_sets = [setup.weight_set] * (n_around + len(ends))
        for position in space.repair(np.concatenate([inside, ends]), setup.costs, setup.limits):
            velocity = fresh_velocity(self.settings.rule, space.n_variables, self._rng)
            self._particles.append(Particle(position, velocity, position))
        for candidate in measured:
            position = np.array(candidate.genome, dtype=np.int64)
            velocity = fresh_velocity(self.settings.rule, space.n_variables, self._rng)
            self._particles.append(Particle(position, velocity, position))
        self._weight_sets = [*weight_sets, *(candidate.weight_set for candidate in measured)]
        if self._tried is not None:
            for i in range(len(weight_sets) + 1, len(self._particles), 2):
                self._weight_sets[i] = self._tried
        self._values_of = [None] * len(weight_sets) + [self._archive[item.genome] for item in measured]
        self._idle.extend(range(len(self._particles)))

    def _measured_before(self, n: int) -> list[Candidate]:
        """Return up to ``n`` candidates of the archive, spread over cost, with the weights that they inherit."""
        if not self._archive:
            return []
        genomes = np.array(list(self._archive), dtype=np.int64)
        order = widest_gap_first(self.setup.costs(genomes)[spread_cost(self.setup)])
        chosen = [tuple(genome) for genome in genomes[order[:n]].tolist()]
        return [Candidate(genome, self._inherits[genome]) for genome in chosen]

    def _scored(self, evaluation: Evaluation) -> FloatArray | None:
        """Return the (m,) figures that positions are compared by, all minimised; None where the measurement failed."""
        values = self._values(evaluation)
        if values is None or not self._by_distance or DISTANCE not in evaluation.metrics:
            return values
        first = next((i for i, item in enumerate(self.setup.objectives.items) if not item.is_cost), None)
        if first is not None:
            values[first] = float(evaluation.metrics[DISTANCE])
        return values

    def _next(self, index: int) -> Genome | None:
        """Return where a particle goes next, and send it there; None where no genome is left."""
        particle = self._particles[index]
        genome: Genome | None = tuple(particle.position.tolist()) if not particle.steps else None
        is_tried = (
            genome is not None and self._inherits.get(genome, self._tried) != self._tried == self._weight_sets[index]
        )
        for attempt in range(_TRIES):
            if genome is not None and (is_tried or genome not in self._unseen):
                break
            if attempt:
                particle.velocity = fresh_velocity(self.settings.rule, len(particle.position), self._rng)
            genome = tuple(self._moved(particle).tolist())
            if self._tried is not None:
                self._weight_sets[index] = self._tried if self._votes > 0 else self.setup.weight_set
        if genome is None or (genome in self._unseen and not is_tried):
            genome = next(iter(self._unseen.substitute(1)), None)
        if genome is not None:
            self._unseen.add(genome)
            particle.position = np.array(genome, dtype=np.int64)
            particle.steps += 1
        return genome

    def _vote(self, index: int, candidate: Candidate, values: FloatArray) -> None:
        """Compare a place that was measured in the other order, too, with what it was worth before."""
        before = self._values_of[index]
        if candidate.weight_set == self._tried and before is not None:
            self._votes += int(np.any(values < before)) - int(np.any(values > before))

    def _moved(self, particle: Particle) -> IntArray:
        """Return the (d,) position that the rule sends a particle to, within the limits."""
        setup, rule = self.setup, self.settings.rule
        leader = self._leader(particle)
        inertia = rule.inertia_at(particle.steps, self._cycles)
        moved = advance(particle, leader, setup.space.n_levels, rule, inertia, self._rng)
        limits = dict(setup.limits)
        if self._is_cost_aware:
            cost = spread_cost(setup)
            ends = setup.costs(np.stack([particle.position, leader]))[cost]
            ceiling = int(self._rng.uniform(ends.min(), ends.max()) * (1 + _SLACK))
            smallest = int(setup.costs(setup.space.min_genome[None, :])[cost][0])
            limits[cost] = max(smallest, min(ceiling, limits.get(cost, ceiling)))
        return setup.space.repair(moved[None, :], setup.costs, limits)[0]

    def _leader(self, particle: Particle) -> IntArray:
        """Return the (d,) less crowded of two members of the archive; the particle's best while it is empty.

        They are any two, or in cost-aware steps two of the third that is nearest in cost.
        """
        if not self._archive:
            return particle.best
        members = np.array(list(self._archive), dtype=np.int64)
        near = np.arange(len(members))
        if self._is_cost_aware:
            cost = spread_cost(self.setup)
            logs = np.log(self.setup.costs(np.concatenate([members, particle.position[None, :]]))[cost])
            near = np.argsort(np.abs(logs[:-1] - logs[-1]), kind="stable")[: max(2, len(members) // 3)]
        distances = crowding(np.array(list(self._archive.values())))
        first, second = near[self._rng.integers(len(near), size=2)]
        chosen: IntArray = members[first if distances[first] >= distances[second] else second]
        return chosen

    def _keep(self, candidate: Candidate, values: FloatArray) -> None:
        """Put a candidate into the archive, and out of it what it dominates; of two orders of a genome the better."""
        before = self._archive.get(candidate.genome)
        if before is not None and np.any(values > before):
            return
        self._archive[candidate.genome] = values
        self._inherits[candidate.genome] = candidate.weight_set
        stays = non_dominated(np.array(list(self._archive.values())))
        self._archive = {g: v for (g, v), keep in zip(self._archive.items(), stays, strict=True) if keep}

    def _improve(self, index: int, values: FloatArray) -> None:
        """Make a particle's position its best one, unless the best one dominates it."""
        best = self._values_of[index]
        if best is None or not (np.all(best <= values) and np.any(best < values)):
            self._values_of[index] = values
            self._particles[index].best = self._particles[index].position


@dataclass(frozen=True)
class AcpSettings(SwarmSettings):
    """Settings of `AcpStrategy`.

    Attributes:
        clusterings: number of clusterings, spread over the feasible costs; at most one for each particle but two.
        images: calibration images of each.
        share: largest share of the budget's multiply-adds, if these are limited, that all clusterings together take.
        preparation: further settings of the recipe ``clusters``, JSON types, such as ``{"method": "dbscan"}``. With
            ``"eps"`` there is one clustering.

    Raises:
        InvalidArgumentError: a setting is out of its range.
    """

    clusterings: int = 5
    images: int = 500
    share: float = 0.1
    preparation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        check.at_least(self, 1, "clusterings")
        check.at_least(self, _FEWEST_IMAGES, "images")
        check.share(self, "share", but=(0, 1))


class AcpStrategy(AcpUnclusteredStrategy):
    """Clusterings first, then the swarm around them.

    A clustering that fails is left out; without any the swarm starts as its twin does. With a warm start there is one
    clustering, for its order, and the particles begin at what was measured.

    Raises:
        BudgetError: the budget is too small to cluster by the fewest images.
    """

    Settings = AcpSettings

    def __init__(self, setup: SearchSetup, settings: AcpSettings | None = None) -> None:
        super().__init__(setup, settings)
        self._targets = self._spread_targets()
        self._clusterings = Preparations(self._targets)
        self._clustering(0, self._targets[0])  # a budget that is too small for it fails here, before any work

    def _propose(self, ids: range) -> Sequence[Job]:
        if not self._particles:
            if self._archive and self._clusterings.waiting == len(self._targets):
                middle = len(self._targets) // 2  # whatever the target: of a nested order every width is one
                self._clusterings = Preparations(self._targets[middle : middle + 1])
            n = self._clusterings.waiting
            jobs = [self._clustering(id_, self._clusterings.start()) for id_ in ids[:n]]
            if jobs or not self._clusterings.is_complete:
                return jobs
            self._populate(list(self._clusterings.found.values()))
        return super()._propose(ids)

    def _learn_prepared(self, told: Sequence[Preparation]) -> None:
        for preparation in told:
            self._clusterings.hear(preparation.job.settings["target"], preparation)

    def _spread_targets(self) -> list[float]:
        """Return shares of the dense cost, in the middle of equal parts of the feasible range, the largest first."""
        space, cost = self.setup.space, spread_cost(self.setup)
        ends = np.stack([space.min_genome, space.full_genome])
        smallest, dense = (int(value) for value in self.setup.costs(ends)[cost])
        low, high = smallest / dense, min(1.0, self.setup.limits.get(cost, dense) / dense)
        n = 1 if "eps" in self.settings.preparation else min(self.settings.clusterings, self.settings.particles - _ENDS)
        targets = [low + (high - low) * (n - i - 0.5) / n for i in range(n)]
        return list(dict.fromkeys(targets))  # all the same where nothing can be chosen

    def _clustering(self, id_: int, target: float) -> Prepare:
        """Return the job that clusters at ``target``, with as many images as its share of the budget allows."""
        settings = self.settings
        seed = int(self._for_preparation.generate_state(1)[0])  # one for all: they cluster the same images
        can_nest = {"representative", "method"}.isdisjoint(settings.preparation)
        nested = {"nested": True} if self._archive and can_nest else {}

        def job(epochs: float) -> Prepare:
            fixed = {"images": round(epochs * settings.images), "target": target, "cost": spread_cost(self.setup)}
            chosen = {**nested, **settings.preparation, **fixed}
            return Prepare(id_, "clusters", chosen, self.setup.weight_set, seed)

        macs = None if self.setup.macs is None else settings.share * self.setup.macs / len(self._targets)
        return sized(self.setup, job, 1.0, macs=macs, min_epochs=_FEWEST_IMAGES / settings.images)
