"""Searches that train, whose drivers die in the middle of a training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import autoprune as ap
from autoprune.core.jobs import preparations

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("ray_cluster")]

DRIVER = Path(__file__).with_name("preparing_driver.py")


@contextmanager
def driving(folder: Path, address: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a driver; whatever happens, it does not outlive the test."""
    env = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    driver = subprocess.Popen([sys.executable, str(DRIVER), str(folder), *address], env=env)
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()


def reached(folder: Path) -> tuple[int, int]:
    """Return the phases that the latest checkpoint has, and the steps of the last one."""
    n_phases, step = 0, 0
    for path in folder.glob("checkpoints/*.safetensors"):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            phase, data = data[8 : 8 + size], data[8 + size :]
            header = json.loads(phase[8 : 8 + int.from_bytes(phase[:8], "little")])
            n_phases, step = n_phases + 1, int(json.loads(header["__metadata__"]["autoprune"])["step"])
    return n_phases, step


def ledger(folder: Path) -> list[object]:
    """Return jobs and outcomes up to times and workers."""
    run = ap.open_run(folder)
    return [*run.record.jobs, *(outcome.identity() for outcome in run.outcomes)]


@pytest.mark.parametrize("on_ray", [False, True])
def test_a_killed_driver_goes_on_in_the_middle_of_a_training(tmp_path: Path, on_ray: bool) -> None:
    """The second driver starts from the checkpoint, never behind it; the run is that of a driver that nobody killed."""
    import ray

    address = [ray.get_runtime_context().gcs_address] * on_ray
    folder = tmp_path / "killed" / "run"  # with an evaluation cache of its own beside it
    with driving(folder, address) as driver:
        while reached(folder) == (0, 0):
            assert driver.poll() is None
            time.sleep(0.05)
    killed_at = reached(folder)
    assert not preparations(ap.open_run(folder).outcomes)
    seen = {killed_at}
    with driving(folder, address) as driver:
        while driver.poll() is None:
            seen |= {reached(folder)} - {(0, 0)}
            time.sleep(0.05)
        assert driver.returncode == 0
    assert min(seen) == killed_at
    assert not (folder / "checkpoints").exists()
    with driving(tmp_path / "here" / "run", []) as driver:
        assert driver.wait() == 0
    assert ledger(folder) == ledger(tmp_path / "here" / "run")
