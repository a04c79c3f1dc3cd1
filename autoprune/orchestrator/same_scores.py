"""The alarm for scores that tell networks no longer apart.

Users of MetaPruning's released code report searches in which all candidates had the very same error, for many
different widths, and which ran to their end unnoticed. Whatever the cause (statistics that are not recalibrated,
weights that are not those of the widths, a saturated metric), selection is then noise.
"""

from __future__ import annotations

from collections import Counter

from autoprune.core.jobs import PROBE, Evaluation, Outcome, Status

MIN_NETWORKS = 12
"""Different networks to look at before the alarm may ring."""

SHARE = 0.5
"""It rings when this share of them have the same figures, every metric included."""


class SameScores:
    """Listens to outcomes and rings at most once."""

    def __init__(self) -> None:
        self._genomes: set[tuple[int, ...]] = set()
        self._counts: Counter[tuple[tuple[str, float], ...]] = Counter()
        self._has_rung = False

    def hear(self, outcome: Outcome) -> str:
        """Take note of an outcome; returns what is wrong the first time that something is, else ""."""
        if self._has_rung or outcome.status is not Status.OK or not isinstance(outcome, Evaluation):
            return ""
        if outcome.job.fidelity == PROBE:
            return ""
        genome = outcome.genome
        if genome in self._genomes:
            return ""
        self._genomes.add(genome)
        self._counts[tuple(sorted(outcome.metrics.items()))] += 1
        figures, count = self._counts.most_common(1)[0]
        if len(self._genomes) < MIN_NETWORKS or count < SHARE * len(self._genomes):
            return ""
        self._has_rung = True
        shown = ", ".join(f"{name}={value:g}" for name, value in figures)
        return (
            f"{count} of {len(self._genomes)} different networks have exactly the same figures ({shown}): the "
            "evaluation does not tell them apart, and selecting between them is chance. Is BatchNorm recalibrated on "
            "training items (n_calibration), are the weights those of a trained model, are there enough validation "
            "items?"
        )
