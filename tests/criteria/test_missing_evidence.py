"""Criteria that know nothing about a group say so, once, and leave it to its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from autoprune.criteria.registry import CRITERIA, CriterionInfo
from autoprune.criteria.scoring import scores
from autoprune.errors import AutopruneWarning
from autoprune.trace.tracer import trace


class Backbone(nn.Module):
    """Two layers that gradients may not reach, and two that they do."""

    def __init__(self, how: str = "plain") -> None:
        super().__init__()
        self.how = how
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 7)
        self.c, self.d = nn.Linear(7, 5), nn.Linear(5, 3)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.b(F.relu(self.a(x))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "no_grad":
            with torch.no_grad():
                x = self.features(x)
        elif self.how == "checkpoint":
            x = checkpoint(self.features, x, use_reentrant=True)
        else:
            x = self.features(x)
            x = x.detach() if self.how == "detach" else x
        return self.d(F.relu(self.c(x)))


def case(how: str) -> tuple[nn.Module, Any, dict[str, Any]]:
    """Return a model, its structure, and what criteria need."""
    torch.manual_seed(0)
    model = Backbone().eval()
    structure = trace(model, torch.randn(2, 6), validate=False)
    model.how = how
    batches = [(torch.randn(16, 6), torch.randint(3, (16,))) for _ in range(2)]
    return model, structure, {"batches": batches, "loss": lambda m, batch: F.cross_entropy(m(batch[0]), batch[1])}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("how", ["no_grad", "detach", "checkpoint"])
def test_layers_that_gradients_do_not_reach_are_ranked_by_their_weights(how: str) -> None:
    """A frozen backbone is named; layers behind it have the scores that they have without it."""
    model, structure, given = case(how)
    with pytest.warns(
        AutopruneWarning, match=r"'taylor' says nothing about the channels of 'a' \(1 of 3 groups\)"
    ) as w:
        found = scores("taylor", model, structure, **given)
    assert len([item for item in w if item.category is AutopruneWarning]) == 1
    norms = scores("l2", model, structure)
    model.how = "plain"
    known = scores("taylor", model, structure, **given)
    np.testing.assert_allclose(found[0], norms[0])
    for i in (1, 2):
        np.testing.assert_allclose(found[i], known[i])


def test_frozen_parameters_are_evidence_like_others() -> None:
    """The derivative by a gate does not depend on what is trained."""
    model, structure, given = case("plain")
    before = scores("taylor", model, structure, **given)
    model.requires_grad_(requires_grad=False)
    for mine, theirs in zip(scores("taylor", model, structure, **given), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_model_without_any_gradient_is_ranked_by_its_weights() -> None:
    """All groups are named, instead of an error of autograd's."""
    model, structure, given = case("plain")
    frozen = {**given, "loss": lambda m, batch: given["loss"](m, batch).detach()}
    with pytest.warns(AutopruneWarning, match="3 of 3 groups"):
        found = scores("taylor", model, structure, **frozen)
    for mine, theirs in zip(found, scores("l2", model, structure), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_layer_that_does_not_run_needs_no_gradient() -> None:
    """A head for training only reads the channels, and changes nothing in evaluation."""

    class Aux(Backbone):
        def __init__(self) -> None:
            super().__init__()
            self.aux = nn.Linear(7, 3)

        def forward(self, x: torch.Tensor) -> Any:
            y = self.features(x)
            return self.d(F.relu(self.c(y))) + (self.aux(y) if self.training else 0.0)

    _, _, given = case("plain")
    model = Aux().eval()
    structure = trace(model, torch.randn(2, 6), validate=False)
    assert any("aux.weight" in {axis[0] for axis in group.axes} for group in structure.groups)
    assert len(scores("taylor", model, structure, **given)) == 3  # a warning would be an error here


@pytest.mark.parametrize("value", [0.0, 2.0, np.nan, np.inf])
def test_scores_that_say_nothing_fall_back_for_any_criterion(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """All zero, all equal, or no numbers, also of a third party: L2 norms at the level of the other groups."""
    model, structure, _ = case("plain")

    def odd(evidence: Any) -> Any:
        return tuple(
            np.full(group.width, value) if i == 1 else 3.0 * np.arange(group.width)
            for i, group in enumerate(evidence.structure.groups)
        )

    monkeypatch.setattr(CriterionInfo, "load", lambda _: odd)
    with pytest.warns(AutopruneWarning, match="'fpgm' says nothing about the channels of 'b'"):
        found = scores("fpgm", model, structure)
    monkeypatch.undo()
    level = np.mean([found[0].mean(), found[2].mean()])
    np.testing.assert_allclose(found[1], level * scores("l2", model, structure)[1])


def test_groups_without_a_batch_norm_are_named() -> None:
    """Network slimming on a model that has none is L2, and says so."""
    model, structure, _ = case("plain")
    with pytest.warns(AutopruneWarning, match="'batchnorm' says nothing about the channels of 'a', 'b', 'c'"):
        found = scores("batchnorm", model, structure)
    for mine, theirs in zip(found, scores("l2", model, structure), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_warning_stays_short() -> None:
    """A model of many groups names five."""
    layers = [layer for _ in range(9) for layer in (nn.Linear(4, 4), nn.ReLU())]
    model = nn.Sequential(*layers).eval()
    with pytest.warns(AutopruneWarning, match=r"and 3 more \(8 of 8 groups\)"):
        scores("batchnorm", model, trace(model, torch.randn(2, 4), validate=False))
    assert "batchnorm" in CRITERIA
