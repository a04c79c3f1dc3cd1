"""Fine-tuning in this process."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autoprune as ap
from autoprune.errors import InvalidArgumentError, UnknownNameError
from autoprune.evaluate.measure import measure
from tests.finetuning.equality import assert_same

DRIVER = Path(__file__).with_name("driver.py")
ROUNDS = [0, *(pytest.param(i, marks=pytest.mark.faults) for i in range(1, 21))]


@pytest.fixture(scope="module")
def tuned(driver: ModuleType, run: ap.Run) -> ap.TunedFront:
    """Return five of its points, trained."""
    return ap.finetune(run, points=5, epochs=driver.EPOCHS, settings=driver.settings())


def test_five_in_five_out(run: ap.Run, tuned: ap.TunedFront) -> None:
    """Every point comes out, cheapest first; the hardest cut gains, those that had lost nothing lose nothing."""
    assert [point.id for point in tuned] == [point.id for point in run.choose(5)]
    assert len(tuned) == 5
    gains = [point.metrics["accuracy"] - point.point.metrics["accuracy"] for point in tuned]
    assert gains[0] > 0.1
    assert min(gains) >= 0
    assert tuned.table().shape[0] == 5
    correlation = tuned.rank_correlation()
    assert correlation is None or -1.0 <= correlation <= 1.0


def test_a_point_is_a_model(tuned: ap.TunedFront, tmp_path: Path) -> None:
    """Built, saved and loaded, it measures what was recorded, exactly."""
    problem = tuned.run.problem
    point = tuned.points[2]
    point.save(tmp_path / "small.autoprune")
    loaded = ap.load(tmp_path / "small.autoprune", problem.model)
    for model in (point.build(), loaded):
        assert measure(model, problem.data.score, problem.task, problem.evaluation) == point.metrics
        assert problem.test(model) == point.test_metrics


def test_pick_goes_by_what_training_made_of_a_point(tuned: ap.TunedFront) -> None:
    """The most accurate point within the limit."""
    dearest = tuned.points[-1].costs["macs"]
    allowed = [point for point in tuned if point.costs["macs"] < dearest]
    best = max(point.metrics["accuracy"] for point in allowed)
    assert tuned.pick(max_macs=float(dearest - 1)).metrics["accuracy"] == best


def test_figures_are_in_the_run_and_test_items_come_last(tuned: ap.TunedFront) -> None:
    """One record per point and role; no test figure was known before all points were trained; nothing else is left."""
    records = ap.open_run(tuned.run.folder).record.records("finetune")
    assert [record["role"] for record in records] == ["val"] * 5 + ["test"] * 5
    assert {record["point"] for record in records} == {point.id for point in tuned}
    assert records[0]["settings"]["batch_size"] == 64
    assert records[0]["spent"]["macs"] > 0
    assert not list((tuned.run.folder / "finetune").rglob("*.checkpoint"))


def test_the_same_call_again_trains_nothing(driver: ModuleType, run: ap.Run, tuned: ap.TunedFront) -> None:
    """Results are read back; a larger number of points would train the new ones only."""
    calls: list[int] = []
    again = ap.finetune(
        run, points=5, epochs=driver.EPOCHS, settings=driver.settings(), progress=lambda point, _: calls.append(point)
    )
    assert not calls
    assert_same(again, tuned)


def test_each_point_keeps_the_settings_that_suit_it(driver: ModuleType, run: ap.Run, tuned: ap.TunedFront) -> None:
    """Of a good and a hopeless learning rate the good one is kept, charged for both; the result is the good one's."""
    good = driver.settings()
    hopeless = ap.FitSettings(batch_size=64, learning_rate=1e-6, distillation=good.distillation)
    points = run.choose(5)[1:3]
    both = ap.finetune(run, points=points, epochs=driver.EPOCHS, settings=[hopeless, good])
    records = [record for record in ap.open_run(run.folder).record.records("finetune") if record["role"] == "val"]
    assert {record["settings"]["learning_rate"] for record in records[5:]} == {0.05}
    assert records[5]["spent"]["macs"] == 2 * records[1]["spent"]["macs"]
    assert_same(both, ap.TunedFront(run, tuned.points[1:3]))


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_driver_that_was_ended_resumes(
    driver: ModuleType, untuned: Path, undisturbed: ap.TunedFront, tmp_path: Path, round_: int
) -> None:
    """By SIGKILL or SIGTERM at any moment of any point, and called again: what an undisturbed call gives."""
    n_calls = driver.N_POINTS * driver.CALLS_PER_POINT
    die_at = int(np.random.default_rng(round_).integers(1, n_calls + 1))
    shutil.copytree(untuned, tmp_path / "killed")
    number = signal.SIGTERM if round_ % 2 else signal.SIGKILL
    command = [sys.executable, str(DRIVER), str(tmp_path / "killed"), str(die_at), number.name]
    assert subprocess.run(command, timeout=100, check=False).returncode == -number
    run = ap.open_run(tmp_path / "killed" / "run", undisturbed.run.problem)
    assert len(run.record.records("finetune")) == (die_at - 1) // driver.CALLS_PER_POINT
    again = driver.tune(run)
    assert len(again) == driver.N_POINTS == 5
    assert_same(again, undisturbed)


def test_mistakes_are_named(run: ap.Run, tmp_path: Path) -> None:
    """An unknown executor or logger, a logger without Ray, no points, a run without its problem."""
    with pytest.raises(UnknownNameError, match="executor 'dask'"):
        ap.finetune(run, executor="dask")
    with pytest.raises(UnknownNameError, match="logger 'tensorbord'"):
        ap.finetune(run, executor="ray", loggers=["tensorbord"])
    with pytest.raises(InvalidArgumentError, match="loggers are Ray Tune's"):
        ap.finetune(run, loggers=["tensorboard"])
    with pytest.raises(InvalidArgumentError, match="expected points"):
        ap.finetune(run, points=[])
    with pytest.raises(InvalidArgumentError, match="open the run with its problem"):
        ap.finetune(ap.open_run(run.folder))


class Rows(nn.Module):
    """Reads an image row by row, in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 32, num_layers=2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 10) scores of (n, 1, 8, 8) images."""
        return self.fc(self.lstm(x[:, 0])[0].mean(1))


@pytest.mark.filterwarnings("ignore:the criterion 'obs' says nothing")
def test_the_defaults_suit_a_network_without_norms(tmp_path: Path) -> None:
    """An LSTM, which SGD at the usual rate of residual networks leaves at guessing, or brings there, is trained on.

    The rate that was found, within those that are tried, is on record.
    """
    torch.manual_seed(0)
    model, data = Rows(), ap.load_data("digits")
    ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=20, optimizer="adamw", learning_rate=5e-3))
    problem = ap.Problem(model, data=data)
    run = ap.search(problem, "uniform", 8, prepare="none", store=tmp_path / "run", progress=False)
    tuned = ap.finetune(run, [run.front[0], run.front[-2]], 6, progress=False)
    before, after = ([point.metrics["accuracy"] for point in points] for points in ([t.point for t in tuned], tuned))
    assert after[0] > before[0] + 0.2
    assert after[1] >= before[1] - 0.01
    records = [record for record in run.record.records("finetune") if record["role"] == "val"]
    assert all(record["settings"]["optimizer"] == "adamw" for record in records)
    assert {record["settings"]["learning_rate"] for record in records} <= {1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5}
