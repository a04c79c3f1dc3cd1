"""What a search or a fine-tuning warned about is in the run, and in its report."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import autoprune as ap
from autoprune.errors import AutopruneWarning, warn, warnings_kept
from autoprune.report.summarize import summarize
from autoprune.report.summary import State
from autoprune.store.run import RunStore


def make_problem() -> ap.Problem:
    """Return a problem without BatchNorm, ranked by it."""
    rng = np.random.default_rng(0)
    data = ap.Data((rng.normal(size=(60, 6)).astype(np.float32), rng.integers(0, 3, 60)))
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.25)
    model[0].weight.data[:, 0] += torch.arange(8) / 8
    return ap.Problem(model, data=data, criterion="batchnorm")


def test_a_criterion_that_says_nothing_is_in_the_report(tmp_path: Path) -> None:
    """Once, however often the search is resumed, and the search has ended all the same."""
    for evaluations in (2, 3, 3):
        with pytest.warns(AutopruneWarning, match="'batchnorm' says nothing"):
            run = ap.search(make_problem(), "random", evaluations, store=tmp_path / "run")
    assert run.stop == "evaluations"
    summary = summarize(run.record)
    assert len([text for text in summary.warnings if "'batchnorm' says nothing" in text]) == 1
    assert summary.state is State.FINISHED


def test_warnings_after_the_end_leave_it_the_end(tmp_path: Path) -> None:
    """As of a polish that is not taken, in a fine-tuning: a search that is started again has ended once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is kept does not depend on filters
        run = ap.search(make_problem(), "random", 2, store=tmp_path / "run")
        fingerprint = run.record.description["problem"]
        with RunStore(tmp_path / "run", problem=fingerprint) as store, warnings_kept(store.keep_warning):
            for _ in range(2):
                warn("the polish was not taken")
        again = ap.search(make_problem(), "random", 2, store=tmp_path / "run")
    assert again.stop == run.stop == "evaluations"
    summary = summarize(again.record)
    assert summary.state is State.FINISHED
    assert summary.warnings.count("the polish was not taken") == 1
    assert [incident.kind for incident in summary.incidents].count("stop") == 1


def test_a_warning_outside_of_a_run_is_a_warning() -> None:
    """Nobody keeps it; within, whoever is innermost does, and no longer."""
    kept: list[str] = []
    keep: Callable[[str], None] = kept.append
    with pytest.warns(AutopruneWarning, match="first"):
        warn("first")
    with warnings_kept(lambda _: None), warnings_kept(keep), pytest.warns(AutopruneWarning, match="second") as caught:
        warn("second")
    assert caught[0].filename == __file__
    with pytest.warns(AutopruneWarning, match="third"):
        warn("third")
    assert kept == ["second"]
