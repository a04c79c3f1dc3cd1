"""Drivers in processes of their own: what they leave behind, killed or interrupted, and what they listen on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autoprune.core.budget import Budget
from autoprune.errors import ExecutorError, InvalidArgumentError
from autoprune.execute.in_process import InProcessExecutor
from autoprune.execute.ray.cluster import Cluster
from autoprune.execute.settings import RaySettings
from autoprune.orchestrator import run_search
from autoprune.store.record import RunRecord
from autoprune.store.run import RunStore
from autoprune.testing.search_toys import OBJECTIVES, ToyRunner, ToyStrategy

pytestmark = pytest.mark.ray

DRIVER = Path(__file__).with_name("ray_driver.py")
ENV = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # as the cluster that it joins: everything on loopback
ROUNDS = [0, *(pytest.param(i, marks=pytest.mark.faults) for i in range(1, 21))]


def parents() -> dict[int, int]:
    """Return the parent of every process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return found


def family(pid: int) -> set[int]:
    """Return a process and all that descend from it."""
    known, members = parents(), {pid}
    while more := {child for child, parent in known.items() if parent in members} - members:
        members |= more
    return members


def listening(pids: set[int]) -> list[str]:
    """Return the addresses, in hexadecimal, that processes listen on."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            inodes |= {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in inodes:
                found.append(columns[1].partition(":")[0])
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@contextlib.contextmanager
def started(*arguments: object, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Start a driver in a session of its own; whatever happens, it does not outlive the test."""
    driver = subprocess.Popen(
        [sys.executable, "-W", "error", str(DRIVER), *map(str, arguments)],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield driver
    finally:
        driver.kill()
        driver.communicate()


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a new folder with a short path: Ray keeps sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="h", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_a_local_cluster_is_private_and_leaves_nothing_behind(tmp_path: Path, home: Path) -> None:
    """All sockets are on loopback; after Ctrl-C no process, no file, no line on standard error, and the run resumes."""
    env = {"HOME": str(home), "TMPDIR": str(home)}
    with started(tmp_path / "run", "local", 0.05, **env) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "running\n"
        members = family(driver.pid)
        addresses = listening(members)
        assert len(addresses) > 5
        assert set(addresses) <= LOOPBACK
        os.killpg(driver.pid, signal.SIGINT)
        out, err = driver.communicate(timeout=250)
        assert (out, err) == ("interrupted\n", "")
    for _ in range(100):
        if not members & parents().keys():
            break
        time.sleep(0.1)
    assert not members & parents().keys()
    assert list(home.iterdir()) == []
    assert undisturbed(tmp_path / "here")[: len(ledger(tmp_path / "run"))] == ledger(tmp_path / "run")


def ledger(folder: Path) -> list[object]:
    """Return the outcomes up to times and workers."""
    store = RunRecord.read(folder)
    found: list[object] = [outcome.identity() for outcome in store.outcomes]
    return found


def undisturbed(folder: Path) -> list[object]:
    """Return the ledger of the same search in this process."""
    runner = ToyRunner()
    with RunStore(folder) as store:
        run_search(
            lambda: ToyStrategy(seed=4),
            InProcessExecutor(runner),
            store,
            Budget(evaluations=60),
            objectives=OBJECTIVES,
            price=runner.price,
        )
    return ledger(folder)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("round_", ROUNDS)
def test_a_killed_driver_resumes(tmp_path: Path, round_: int) -> None:
    """Killed at a random moment and started again: nothing finished is lost or repeated, the ledger is undisturbed."""
    import ray

    address = ray.get_runtime_context().gcs_address
    delay = float(np.random.default_rng(round_).uniform(0.0, 0.8))
    folder = tmp_path / "run"
    with started(folder, address, 0.05, delay, **ENV) as driver:
        driver.communicate(timeout=250)
        assert driver.returncode == -signal.SIGKILL
    survivors = {outcome.job.id: outcome.started for outcome in RunRecord.read(folder).outcomes}
    assert 0 < len(survivors) < 60
    with started(folder, address, 0.0, **ENV) as driver:
        out, err = driver.communicate(timeout=250)
        assert (out, err) == ("running\nevaluations\n", "")
    assert ledger(folder) == undisturbed(tmp_path / "here")
    after = {outcome.job.id: outcome.started for outcome in RunRecord.read(folder).outcomes}
    assert survivors.items() <= after.items()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:not-a-port", "no-such-host.invalid:6379"])
def test_an_address_that_nothing_answers_at_is_a_clear_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within ten seconds, naming the address."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    started = time.monotonic()
    with pytest.raises(ExecutorError, match=f"nothing answers at the Ray address '{address}'"):
        Cluster(RaySettings(address=address))
    assert time.monotonic() - started < 10.0


@pytest.mark.slow
def test_something_else_at_the_address_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not Ray is found out within ten seconds or so."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ExecutorError, match="did not answer like a Ray cluster"):
            Cluster(RaySettings(address=address))


def test_addresses_of_rays_client_are_refused() -> None:
    """The error says what to do instead."""
    with pytest.raises(InvalidArgumentError, match="ray job submit"):
        RaySettings(address="ray://head:10001")


OPEN_CLUSTER = """
import os
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}
from ray.cluster_utils import Cluster as Nodes
from autoprune.errors import ExecutorError
from autoprune.execute.ray.cluster import Cluster
from autoprune.execute.settings import RaySettings
nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
try:
    Cluster(RaySettings(address=nodes.address))
except ExecutorError as error:
    print(error)
cluster = Cluster(RaySettings(address=nodes.address, insecure=True))
import ray
print(ray.is_initialized())
cluster.close()
nodes.shutdown()
"""


@pytest.mark.slow
def test_a_cluster_that_lets_anyone_in_is_refused() -> None:
    """Without a token on the cluster the error says how to start one; who insists may use it."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN_CLUSTER], capture_output=True, text=True, timeout=250, check=False
    )
    refusal, insisted = done.stdout.splitlines()
    assert "asks nobody for a token" in refusal
    assert "RAY_AUTH_TOKEN_PATH" in refusal
    assert insisted == "True"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("n_rounds", [1, pytest.param(20, marks=pytest.mark.faults)])
def test_nodes_come_and_go(tmp_path: Path, n_rounds: int) -> None:
    """Workers start on a node that joins; a node that is killed takes nothing with it, and the log says so."""
    script = DRIVER.with_name("ray_nodes.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(n_rounds)],
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
    rounds = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(rounds) == n_rounds, done.stderr[-2000:]
    for seen in rounds:
        assert seen["workers"] == 4  # two on each node
        assert seen["is_undisturbed"]
        assert seen["given_up"] >= 1
