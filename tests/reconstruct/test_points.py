"""Points of a run whose evaluator reconstructs: polished figures and the start of fine-tunes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import autoprune as ap
from autoprune.errors import AutopruneWarning, InvalidArgumentError
from autoprune.report.summarize import summarize
from autoprune.testing.digits_network import digits_network


def searched(folder: Path, evaluator: str) -> tuple[ap.Problem, ap.Run]:
    """Return a problem on the digits and a short search of it."""
    problem = ap.Problem(
        digits_network(),
        data=ap.load_data("digits"),
        evaluator=evaluator,
        evaluation=ap.ProxySettings(n_calibration=64, n_validation=64, batch_size=32),
    )
    return problem, ap.search(problem, "random", ap.Budget(evaluations=4), store=folder / "run")


def test_polished_figures_stand_beside_those_of_what_was_scored(tmp_path: Path) -> None:
    """Both are measured once, on the models that `build` returns, and kept apart."""
    problem, run = searched(tmp_path, "reconstructed")
    point = next(point for point in run.front if point.costs["macs"] < 0.9 * run.dense["macs"])
    plain, polished = point.test(), point.test(polish=True)
    assert plain == problem.test(point.build())
    assert polished == problem.test(point.build(polish=True))
    assert (point.test(), point.test(polish=True)) == (plain, polished)
    recorded = [(record["role"], record["metrics"]) for record in run.record.records("metrics")]
    assert recorded == [("test", plain), ("polished", polished)]


def test_the_report_shows_polished_figures_beside_the_others(tmp_path: Path) -> None:
    """Every measured point has both in the table and in the picture; the headline stays with what was scored."""
    _, run = searched(tmp_path, "reconstructed")
    plain = summarize(run.record).headline
    paths = run.report(points=2, polish=True)
    summary = summarize(run.record)
    tested = [point for point in summary.front if "test" in point.metrics]
    assert tested
    for point in tested:
        assert point.metrics["polished"] == run.point(point.id).test(polish=True)
    assert [role.value for role in summary.roles] == ["proxy", "test", "polished"]
    assert plain.split(" at ")[0] == summary.headline.split(" at ")[0]
    html = paths.html.read_text(encoding="utf-8")
    assert "accuracy, test (polished)" in html
    assert "front, test (polished)" in html
    assert "with --polish" in html
    assert "accuracy_polished" in paths.front_csv.read_text(encoding="utf-8")


def test_polish_needs_second_moments(tmp_path: Path) -> None:
    """Points of inherited weights cannot be polished; the error says what can."""
    _, run = searched(tmp_path, "inherited")
    for polished in (run.front[0].build, run.test, run.report):
        with pytest.raises(InvalidArgumentError, match="'reconstructed'"):
            polished(polish=True)
    assert not run.record.records("metrics")


def test_a_polish_that_leads_away_from_the_dense_model_is_not_taken(tmp_path: Path) -> None:
    """Calibrated on underexposed images, the smallest point stays what was scored, bit for bit, with a warning."""
    digits = load_digits()
    images, labels = (digits.images[:, None] / 16).astype(np.float32), digits.target
    torch.manual_seed(0)
    problem = ap.Problem(
        nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(1024, 10)),
        ),
        data=ap.Data((0.02 * images[:800], labels[:800]), val=(images[800:1200], labels[800:1200])),
        evaluator="reconstructed",
        criterion="l2",
        evaluation=ap.ProxySettings(n_calibration=16, n_validation=64, batch_size=16),
    )
    run = ap.search(problem, "random", ap.Budget(evaluations=4), store=tmp_path / "run")
    point = min(run.front, key=lambda point: point.costs["macs"])
    with pytest.warns(AutopruneWarning, match="was not taken"):
        polished = point.build(polish=True)
    for mine, theirs in zip(polished.state_dict().values(), point.build().state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_fine_tunes_start_from_polished_points(tmp_path: Path) -> None:
    """A training that hardly moves ends where the polished point is, and not where the scored one was."""
    _, run = searched(tmp_path, "reconstructed")
    point = next(point for point in run.front if point.costs["macs"] < 0.9 * run.dense["macs"])
    still = ap.FitSettings(learning_rate=1e-9, weight_decay=0.0, batch_size=64)
    (tuned,) = ap.finetune(run, [point], epochs=0.05, settings=still)
    trained, polished, scored = (
        dict(model.named_parameters()) for model in (tuned.build(), point.build(polish=True), point.build())
    )
    for name, parameter in trained.items():
        torch.testing.assert_close(parameter, polished[name], atol=1e-6, rtol=1e-5)
    assert any(not torch.allclose(parameter, scored[name], atol=1e-4) for name, parameter in trained.items())
