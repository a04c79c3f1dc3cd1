"""Particle swarm optimization of integer positions (Kennedy and Eberhart 1995, with Clerc's constriction)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoprune.core import check
from autoprune.core.groups import FloatArray, IntArray


@dataclass(frozen=True)
class SwarmRule:
    """The constants of the standard rule; defaults as in the released ACP, but for the share.

    Attributes:
        chi: constriction factor.
        c1: pull of the best position that the particle has seen.
        c2: pull of the leader.
        v_max: largest velocity.
        inertia: weight of the old velocity at the start and, after the last cycle, at the end.
        reach: levels moved per unit of velocity (channels in the released code).
        share: share of the genes that move per step (8 of 13 to 54 in the released code).

    Raises:
        InvalidArgumentError: a constant is not positive, or the share is above 1.
    """

    chi: float = 0.729
    c1: float = 2.0
    c2: float = 2.0
    v_max: float = 2.0
    inertia: tuple[float, float] = (0.6, 0.4)
    reach: float = 2.0
    share: float = 0.8

    def __post_init__(self) -> None:
        """Check the constants."""
        check.positive(self, "chi", "c1", "c2", "v_max", "reach")
        check.share(self, "share", but=(0,))

    def inertia_at(self, step: int, steps: int) -> float:
        """Return the weight of the old velocity in step ``step`` of ``steps``; constant after the last one.

        >>> [round(SwarmRule().inertia_at(t, 8), 3) for t in range(8)]
        [0.6, 0.575, 0.55, 0.525, 0.5, 0.475, 0.45, 0.425]
        """
        first, last = self.inertia
        return first + (last - first) * min(step, steps) / steps

    def n_moved(self, n_genes: int) -> int:
        """Return how many of ``n_genes`` genes move per step."""
        return max(1, round(self.share * n_genes))


@dataclass
class Particle:
    """One member of a swarm.

    Attributes:
        position: (d,) levels.
        velocity: (d,) levels per step, before `SwarmRule.reach`.
        best: (d,) the best position it has seen.
        steps: moves so far.
    """

    position: IntArray
    velocity: FloatArray
    best: IntArray
    steps: int = 0


def fresh_velocity(rule: SwarmRule, n_genes: int, rng: np.random.Generator) -> FloatArray:
    """Return the (d,) velocity of a particle that begins: uniform within the largest one."""
    return rng.uniform(-rule.v_max, rule.v_max, n_genes)


def advance(
    particle: Particle, leader: IntArray, n_levels: IntArray, rule: SwarmRule, inertia: float, rng: np.random.Generator
) -> IntArray:
    """Update the velocity of some genes of ``particle``, in place, and return the (d,) position that they move to.

    Args:
        particle: its position stays; the caller decides whether it goes where the rule sends it.
        leader: (d,) position of the leader.
        n_levels: (d,) number of levels per gene.
        rule: constants.
        inertia: weight of the old velocity.
        rng: draws which genes move, all equally likely, and two independent pulls per gene.
    """
    genes = rng.choice(len(n_levels), size=rule.n_moved(len(n_levels)), replace=False)
    r1, r2 = rng.random((2, len(genes)))
    x = particle.position[genes]
    pull = rule.c1 * r1 * (particle.best[genes] - x) + rule.c2 * r2 * (leader[genes] - x)
    velocity = rule.chi * (inertia * particle.velocity[genes] + pull)
    particle.velocity[genes] = np.clip(velocity, -rule.v_max, rule.v_max)
    moved = particle.position.copy()
    moved[genes] = np.rint(x + rule.reach * particle.velocity[genes]).astype(np.int64)
    return np.clip(moved, 0, n_levels - 1)
