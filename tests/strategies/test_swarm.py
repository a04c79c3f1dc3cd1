"""The rule of the swarm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoprune.errors import InvalidArgumentError
from autoprune.strategies._swarm import Particle, SwarmRule, advance, fresh_velocity

N_GENES = 10
LEVELS = np.full(N_GENES, 8)


def particle(position: int = 3, best: int = 3, velocity: float = 0.0) -> Particle:
    """Return a particle whose genes are all alike."""
    return Particle(np.full(N_GENES, position), np.full(N_GENES, velocity), np.full(N_GENES, best))


def test_inertia_falls_as_released() -> None:
    """Over eight cycles .600, .575, ... .425; afterwards the end value."""
    series = [SwarmRule().inertia_at(t, 8) for t in range(8)]
    np.testing.assert_allclose(series, [0.600, 0.575, 0.550, 0.525, 0.500, 0.475, 0.450, 0.425])
    assert SwarmRule().inertia_at(8, 8) == SwarmRule().inertia_at(99, 8) == pytest.approx(0.4)


def test_velocity_is_clipped_and_levels_are_too() -> None:
    """However strong the pull: no velocity beyond the largest, no level outside the space."""
    rng = np.random.default_rng(0)
    rule = replace(SwarmRule(), c1=50.0, c2=50.0, reach=5.0)
    for target in (0, 7):
        moving = particle(best=target)
        for _ in range(5):
            moving.position = advance(moving, np.full(N_GENES, target), LEVELS, rule, 0.6, rng)
            assert np.abs(moving.velocity).max() <= rule.v_max
            assert moving.position.min() >= 0
            assert moving.position.max() <= 7
        assert (moving.position == target).sum() >= 8


def test_every_gene_moves_and_every_level_is_reached() -> None:
    """No gene is left out (the release never moved the last one), and neither is the full width."""
    rng = np.random.default_rng(1)
    moved, reached = np.zeros(N_GENES, dtype=int), set()
    for _ in range(300):
        start = particle(position=4, best=4, velocity=0.0)
        start.velocity = fresh_velocity(SwarmRule(), N_GENES, rng) * 4
        there = advance(start, rng.integers(0, 8, N_GENES), LEVELS, SwarmRule(v_max=4.0), 0.6, rng)
        moved += there != 4
        reached |= set(there.tolist())
    assert moved.min() > 0.5 * moved.max() > 0
    assert reached == set(range(8))


def test_a_share_of_the_genes_moves_with_their_own_velocities() -> None:
    """Without replacement; genes that stay keep their velocity, genes that move get a new one."""
    rule = replace(SwarmRule(), share=0.3)
    moving = particle(position=0, best=7, velocity=0.25)
    there = advance(moving, np.full(N_GENES, 7), LEVELS, rule, 0.6, np.random.default_rng(3))
    changed = moving.velocity != 0.25
    assert changed.sum() == rule.n_moved(N_GENES) == 3
    assert not there[~changed].any()
    assert (moving.position == 0).all()
    assert replace(SwarmRule(), share=0.01).n_moved(4) == 1


def test_pulls_are_drawn_per_gene_and_apart() -> None:
    """Equal genes get different velocities; a pull up and an equal pull down do not cancel."""
    rule = replace(SwarmRule(), share=1.0, v_max=100.0)
    moving = particle(position=3, best=0)
    advance(moving, np.full(N_GENES, 6), LEVELS, rule, 0.0, np.random.default_rng(0))
    assert len(np.unique(moving.velocity)) == N_GENES
    assert (np.abs(moving.velocity) > 1e-3).all()


def test_the_velocity_is_the_standard_rule() -> None:
    """Without pulls it is chi times inertia times the old one, and the position moves by the new one, rounded."""
    rule = replace(SwarmRule(), share=1.0)
    moving = particle(velocity=2.0)
    there = advance(moving, np.full(N_GENES, 3), LEVELS, rule, 0.6, np.random.default_rng(0))
    np.testing.assert_allclose(moving.velocity, 0.729 * 0.6 * 2.0)
    np.testing.assert_array_equal(there, 5)  # 3 + 2 * 0.87 is nearer to 5 than to 4


def test_rounding_does_not_drift() -> None:
    """Velocities around zero change levels up and down equally often (the release rounded towards zero)."""
    rng = np.random.default_rng(4)
    steps = []
    for _ in range(2000):
        moving = particle(position=4, best=4)
        moving.velocity = rng.uniform(-2, 2, N_GENES)
        steps.append(advance(moving, moving.best, LEVELS, replace(SwarmRule(), share=1.0), 0.6, rng) - 4)
    assert abs(np.mean(steps)) < 0.03
    assert np.mean(np.abs(steps)) > 0.3


@pytest.mark.parametrize("wrong", [{"chi": 0.0}, {"v_max": -1.0}, {"share": 1.5}, {"reach": 0.0}])
def test_impossible_constants_are_refused(wrong: dict[str, float]) -> None:
    """The message names the constant's value."""
    with pytest.raises(InvalidArgumentError, match=str(next(iter(wrong.values())))):
        SwarmRule(**wrong)
