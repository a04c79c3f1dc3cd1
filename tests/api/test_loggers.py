"""Trackers that follow a search: every step arrives, resumed searches go on in the same place, mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

import autoprune as ap
from autoprune.api import loggers
from autoprune.core.budget import Spending
from autoprune.errors import MissingDependencyError, UnknownNameError
from autoprune.orchestrator.progress import SearchProgress
from tests.api.conftest import MakeProblem
from tests.report.made_up import make_meta, make_run

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}

Steps = list[tuple[int, float]]


def from_tensorboard(folder: Path) -> Steps:
    """The executed MACs in TensorBoard's files, by step."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in folder.glob("tensorboard/events.out.tfevents.*"):
        data = file.read_bytes()
        while data:  # length, checksum of it, event, checksum
            size = int.from_bytes(data[:8], "little")
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            figures = [value for value in event.summary.value if value.tag == "search/executed_macs"]
            found += [(event.step, value.simple_value) for value in figures]
    return sorted(found)


def from_mlflow(folder: Path) -> Steps:
    """The same from the one run in MLflow's database."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("autoprune")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.params["strategy"] == "random"
    return sorted((item.step, item.value) for item in client.get_metric_history(found.info.run_id, "executed_macs"))


@pytest.mark.filterwarnings("ignore")  # of what these packages stand on
@pytest.mark.parametrize(("name", "read"), [("tensorboard", from_tensorboard), ("mlflow", from_mlflow)])
def test_a_search_and_what_goes_on_with_it_are_recorded(
    make_problem: MakeProblem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    read: object,
) -> None:
    """Steps are numbers of candidates; the last figure of each session is what the run says that it spent."""
    pytest.importorskip(PACKAGES[name])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for n in (3, 5):
        run = ap.search(make_problem(), "random", n, store=tmp_path / "run", loggers=[name])
        step, macs = read(tmp_path / "run")[-1]  # type: ignore[operator]
        assert step == n
        assert macs == pytest.approx(run.spent.macs, rel=1e-6)
        if n == 3:
            first = read(tmp_path / "run")  # type: ignore[operator]
    assert set(first) <= set(read(tmp_path / "run"))  # type: ignore[operator]


@pytest.mark.filterwarnings("ignore")
def test_wandb_stays_offline(make_problem: MakeProblem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked for a key: what is recorded lies in the run's folder."""
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    ap.search(make_problem(), "random", 3, store=tmp_path / "run", loggers=["wandb"])
    (file,) = (tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb")
    assert b"hypervolume" in file.read_bytes()


def test_what_is_recorded() -> None:
    """The best accuracy within 70, 50 and 30 % of the multiply-adds is that of the best point there."""
    meta, record = make_meta(limits={}), make_run(40, limits={}).record
    progress = SearchProgress(
        evaluations=40,
        failed=1,
        rate=1.0,
        hypervolume=0.5,
        eta=None,
        spent=Spending(7, 40, 1.0),
        front=tuple(record.front),
    )
    found = loggers.figures_of(progress, meta)
    assert (found["failed"], found["executed_macs"], found["hypervolume"]) == (1, 7, 0.5)
    assert found["points_on_front"] == len(record.front)
    for share in (70, 50, 30):
        inside = [p for p in record.front if p.costs["macs"] <= share / 100 * meta.dense.costs["macs"]]
        best = max((point.metrics["accuracy"] for point in inside), default=None)
        assert found.get(f"accuracy_within_{share}_percent_macs") == best
    assert "accuracy_within_70_percent_macs" in found


def test_mistakes_are_named_before_any_work(
    make_problem: MakeProblem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown logger, and one whose package is not there; no folder is begun."""
    with pytest.raises(UnknownNameError, match="did you mean 'tensorboard'"):
        ap.search(make_problem(), "random", 3, store=tmp_path / "run", loggers=["tensorbord"])
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="pip install wandb"):
        ap.search(make_problem(), "random", 3, store=tmp_path / "run", loggers=["wandb"])
    assert not (tmp_path / "run").exists()
