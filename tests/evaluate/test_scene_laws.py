"""Evaluators under their laws on a detector and on a segmenter."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.evaluate.inherited import InheritedWeights
from autoprune.evaluate.registry import EVALUATORS
from autoprune.testing.evaluator_laws import EvaluatorLaws
from autoprune.testing.scene_subjects import scene_space, scene_subject

KINDS = ("detection", "segmentation")


class TestOnScenes(EvaluatorLaws):
    @pytest.fixture(params=[f"{kind}+{name}" for kind in KINDS for name in EVALUATORS if name != "generated"])
    def factory(self, request: pytest.FixtureRequest) -> str:
        return f"autoprune.testing.scene_subjects:scene_subject:{request.param}"

    @pytest.fixture
    def genomes(self, factory: str) -> tuple[tuple[int, ...], ...]:
        """In between, full, minimal."""
        space = scene_space(factory.rpartition(":")[2].partition("+")[0])
        between = np.maximum(space.full_genome - np.arange(space.n_variables) % 3, 0)
        return tuple(tuple(genome.tolist()) for genome in (between, space.full_genome, space.min_genome))


@pytest.mark.parametrize("kind", KINDS)
def test_re_solved_readers_are_nearer(kind: str) -> None:
    """Of the same channels: the answers of a network with re-solved readers are nearer to the dense model's."""
    inherited, reconstructed = (scene_subject(f"{kind}+{name}") for name in ("inherited", "reconstructed"))
    space = inherited.setup.space
    for less in (1, 2):
        genome = tuple(np.maximum(space.full_genome - less, 0).tolist())
        plain, solved = (
            subject.evaluator.evaluate(genome, subject.inherited)["distance"] for subject in (inherited, reconstructed)
        )
        assert 0 < solved < plain


@pytest.mark.parametrize("name", ["inherited", "reconstructed"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_probes_share_changes_no_bit(kind: str, name: str) -> None:
    """The beginning of a detector that is run once for many probes gives the figures of whole runs."""
    plain, sharing = (scene_subject(f"{kind}+{name}") for _ in range(2))
    assert isinstance(plain.evaluator, InheritedWeights)
    plain.evaluator._shared = (plain.inherited.weights, None)
    full = plain.setup.space.full_genome
    for variable in range(len(full)):
        genome = tuple(np.where(np.arange(len(full)) == variable, 0, full).tolist())
        expected = plain.evaluator.probe(genome, plain.inherited)
        assert sharing.evaluator.probe(genome, sharing.inherited) == expected, genome
