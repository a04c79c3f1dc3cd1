"""Comparing fine-tunings."""

from __future__ import annotations

import torch

from autoprune.api import TunedFront


def assert_same(one: TunedFront, other: TunedFront) -> None:
    """Check that two fine-tunings have the same points, weights and figures, bit for bit."""
    figures = [[(point.id, point.metrics, point.test_metrics) for point in tuned] for tuned in (one, other)]
    assert figures[0] == figures[1]
    states = [[dict(point.build().state_dict()) for point in tuned] for tuned in (one, other)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
