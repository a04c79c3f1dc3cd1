"""Fine-tuning on Ray Tune; a cluster of two cores that the session shares."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import autoprune as ap
from autoprune.finetuning._tune import MODEL, _experiment
from autoprune.finetuning.training import PointTraining
from tests.finetuning.equality import assert_same

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]

DRIVER = Path(__file__).with_name("driver.py")


def test_points_are_those_of_the_plain_loop_though_the_driver_was_killed(
    driver: ModuleType, untuned: Path, undisturbed: ap.TunedFront, tmp_path: Path
) -> None:
    """Killed when a point has reached an epoch, and called again: weights and figures are those trained in process."""
    import ray

    shutil.copytree(untuned, tmp_path / "killed")
    folder = tmp_path / "killed" / "run"
    killed = subprocess.Popen(
        [sys.executable, str(DRIVER), str(tmp_path / "killed"), "0", "SIGKILL", ray.get_runtime_context().gcs_address],
        env={**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
    )
    while not list(folder.glob("finetune/*/*/*/checkpoint_*")):
        assert killed.poll() is None
        time.sleep(0.1)
    killed.kill()
    killed.wait()
    run = ap.open_run(folder, undisturbed.run.problem)
    assert len(run.record.records("finetune")) < driver.N_POINTS
    again = driver.tune(run, executor=ap.RaySettings())
    assert len(again) == driver.N_POINTS == 5
    assert_same(again, undisturbed)
    assert not list(folder.glob("finetune/*/*"))


def test_an_experiment_whose_trained_model_is_damaged_starts_over(
    driver: ModuleType, run: ap.Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What had ended before its driver died is restored, found to be altered, and trained again to the same model."""
    problem, point = run.problem, run.front[0]
    job = PointTraining(
        *(point.id, point.build(), problem.model, problem.data.without_test(), problem.task),
        *((replace(driver.settings(), epochs=1),), problem.evaluation, "accuracy", True, 0),
    )
    resources = {"cpu": 1.0, "gpu": 0.0}
    ((_, model, report),) = _experiment(job, str(tmp_path), resources, ())
    trained = list(tmp_path.rglob(MODEL))
    for path in trained:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert trained
    ((_, again, measured),) = _experiment(job, str(tmp_path), resources, ())
    assert "starts over" in caplog.text
    assert again == model
    assert {**measured, "seconds": 0.0} == {**report, "seconds": 0.0}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what MLflow stands on
@pytest.mark.parametrize(
    ("name", "written"), [("tensorboard", "tensorboard/*/events.out.tfevents.*"), ("mlflow", "mlflow.db")]
)
def test_tune_records_a_training(
    driver: ModuleType, run: ap.Run, monkeypatch: pytest.MonkeyPatch, name: str, written: str
) -> None:
    """By Tune's own callbacks; what they wrote stays when the experiment's folder goes, and has every epoch."""
    pytest.importorskip({"tensorboard": "tensorboardX", "mlflow": "mlflow"}[name])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    point = run.front[len(name) % 2]
    tuned = ap.finetune(run, [point], 2, settings=driver.settings(), executor=ap.RaySettings(), loggers=[name])
    (folder,) = {path.parent for path in run.folder.glob(f"finetune/*/{written.split('/')[0]}")}
    files = list(folder.glob(written))
    assert files
    accuracy = tuned.points[0].metrics["accuracy"]
    found = recorded_by_mlflow(files[0], folder.name) if name == "mlflow" else recorded_by_tensorboard(files)
    assert len(found) == 2
    assert found[-1] == pytest.approx(accuracy, abs=1e-6)


def recorded_by_tensorboard(files: list[Path]) -> list[float]:
    """Return the accuracies in TensorBoard's files."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in files:
        data = file.read_bytes()
        while data:  # length, checksum of it, event, checksum
            size = int.from_bytes(data[:8], "little")
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            found += [value.simple_value for value in event.summary.value if value.tag == "ray/tune/accuracy"]
    return found


def recorded_by_mlflow(file: Path, key: str) -> list[float]:
    """Return the accuracies in MLflow's database."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{file}")
    experiment = client.get_experiment_by_name(f"autoprune-{key}")
    (training,) = client.search_runs([experiment.experiment_id])
    return [item.value for item in client.get_metric_history(training.info.run_id, "accuracy")]


def test_of_several_settings_each_point_keeps_what_the_plain_loop_keeps(
    driver: ModuleType, untuned: Path, run: ap.Run, tmp_path: Path
) -> None:
    """Whichever training is ahead in between: two points with two settings each give the same here and on Ray."""
    shutil.copytree(untuned, tmp_path / "copy")
    far = ap.open_run(tmp_path / "copy" / "run", run.problem)
    good = driver.settings()
    hopeless = ap.FitSettings(batch_size=64, learning_rate=1e-6, distillation=good.distillation)
    points = [run.front[0], run.front[-1]]
    tuned = [
        ap.finetune(where, [where.point(point.id) for point in points], 4, settings=[hopeless, good], executor=executor)
        for where, executor in ((run, None), (far, ap.RaySettings()))
    ]
    assert_same(*tuned)
    used = [record["settings"]["learning_rate"] for record in far.record.records("finetune") if record["role"] == "val"]
    assert used[0] == good.learning_rate
