"""Searches that train, whose drivers die in the middle of a training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import autoprune as ap

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("ray_cluster")]

DRIVER = Path(__file__).with_name("preparing_driver.py")


def drive(folder: Path, *address: str) -> subprocess.Popen[bytes]:
    """Start a driver."""
    env = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    return subprocess.Popen([sys.executable, str(DRIVER), str(folder), *address], env=env)


def steps_done(folder: Path) -> int:
    """Return the steps that the latest checkpoint has; 0 where there is none."""
    for path in folder.glob("checkpoints/*.safetensors"):
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return int(json.loads(header["__metadata__"]["autoprune"])["step"])
    return 0


def ledger(folder: Path) -> list[object]:
    """Return jobs and outcomes up to times and workers."""
    run = ap.open_run(folder)
    return [*run.store.jobs(), *(outcome.identity() for outcome in run.outcomes)]


@pytest.mark.parametrize("on_ray", [False, True])
def test_a_killed_driver_goes_on_in_the_middle_of_a_training(tmp_path: Path, on_ray: bool) -> None:
    """The second driver starts from the checkpoint, never behind it; the run is that of a driver that nobody killed."""
    import ray

    address = [ray.get_runtime_context().gcs_address] * on_ray
    folder = tmp_path / "killed"
    driver = drive(folder, *address)
    while not steps_done(folder):
        assert driver.poll() is None
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    reached = steps_done(folder)
    assert not [outcome for outcome in ap.open_run(folder).outcomes if outcome.weight_set is not None]
    driver = drive(folder, *address)
    seen = {reached}
    while driver.poll() is None:
        seen |= {steps_done(folder)} - {0}
        time.sleep(0.02)
    assert driver.returncode == 0
    assert min(seen) == reached
    assert not (folder / "checkpoints").exists()
    assert drive(tmp_path / "here").wait() == 0
    assert ledger(folder) == ledger(tmp_path / "here")
