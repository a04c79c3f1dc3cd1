"""Run by `test_structured_output` in an environment where the package of `examples/structured_output` is installed."""

from __future__ import annotations

import pytest
import torch
from structured_output.network import build
from structured_output.task import StructuredOutput, structured_output

import autoprune as ap
from autoprune.testing.task_laws import Subject, TaskLaws


class TestStructuredOutput(TaskLaws):
    @pytest.fixture
    def subject(self) -> Subject:
        torch.manual_seed(0)
        data = ap.load_data("landmarks")
        small = ap.Data(data.train.source, data.validation.source)
        labels = torch.cat([points for _, points in small.train.loader(256)])
        others = StructuredOutput(labels, weight=0.0, steps=50), StructuredOutput(labels, steps=50, seed=1)
        return Subject(StructuredOutput(labels, steps=50), build().eval(), small, others)


def test_the_encoder_knows_what_a_face_is() -> None:
    """It keeps faces and moves what is none; equal arguments make equal ones, and no weight of it learns."""
    task = structured_output()
    faces = torch.cat([points for _, points in ap.load_data("landmarks").test.loader(400)])
    noisy = faces + 0.03 * torch.randn(faces.shape, generator=torch.Generator().manual_seed(0))
    kept, cleaned = ((task.prior(points) - faces).square().mean() for points in (faces, noisy))
    assert kept < (noisy - faces).square().mean() / 4
    assert cleaned < (noisy - faces).square().mean() / 2
    again, other = (structured_output(steps=20, seed=seed).fingerprint for seed in (1, 2))
    assert structured_output(steps=20, seed=1).fingerprint == again != other
    assert not any(parameter.requires_grad for parameter in task.prior.parameters())
