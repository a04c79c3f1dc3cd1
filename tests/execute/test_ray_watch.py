"""A driver on Ray that ends without a word: someone says so, nothing of it is left, and the search resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoprune.store.run import RunStore

pytestmark = [pytest.mark.ray, pytest.mark.faults]

DRIVER = Path(__file__).with_name("ray_driver.py")


def processes(word: bytes) -> dict[int, bytes]:
    """Return the command lines, by process, that hold a word."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if word in line:
            found[int(path.parent.name)] = line
    return found


@pytest.mark.parametrize("victim", ["driver", "agent", "gcs"])
def test_a_lost_cluster_is_said_and_leaves_nothing(tmp_path: Path, victim: str) -> None:
    """Killed from outside, or by Ray after one of its processes was: our words, and no process after some seconds."""
    before = set(Path("/tmp").glob("autoprune-*"))
    child = subprocess.Popen(
        [sys.executable, str(DRIVER), str(tmp_path / "run"), "local", "4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "running\n"
    (folder,) = (
        path for path in set(Path("/tmp").glob("autoprune-*")) - before if processes(str(path).encode() + b"/")
    )
    word = {"agent": b"dashboard/agent.py", "gcs": b"gcs_server"}.get(victim, b"ray_driver.py")
    victims = [pid for pid, line in processes(str(folder).encode()).items() if word in line]
    os.kill(child.pid if victim == "driver" else victims[0], signal.SIGKILL)
    _, errors = child.communicate(timeout=150)
    assert child.returncode != 0
    assert "run the same call again to resume" in errors
    end = time.monotonic() + 10
    while left := processes(str(folder).encode()):
        assert time.monotonic() < end, left
        time.sleep(0.1)
    assert not folder.exists()
    with RunStore(tmp_path / "run") as store:
        assert store.ledger.outcomes()
