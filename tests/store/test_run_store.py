from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from autoprune.core.jobs import Candidate, Evaluate, failed
from autoprune.errors import StoreError
from autoprune.store.ledger import Event, EventKind, Ledger
from autoprune.store.record import RunRecord
from autoprune.store.run import RunStore
from autoprune.testing.search_toys import TRAINED, ToyRunner


def job(job_id: int) -> Evaluate:
    """Return an evaluation."""
    return Evaluate(job_id, Candidate((1, 2, 0, 4), TRAINED))


def fill(store: RunStore, n: int = 3) -> None:
    """Record ``n`` jobs from asking to telling, each part committed on its own, as the loop does."""
    ledger = store.ledger
    for i in range(n):
        ledger.asked(1, [job(i)], elapsed=i)
        ledger.started(job(i), unix=0.0, elapsed=i)
        ledger.commit()
        ledger.committed(ToyRunner()(job(i)), elapsed=i)
        ledger.commit()
        ledger.told(i, elapsed=i)
    ledger.commit()


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Give up the rights of the administrator, who may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_what_is_recorded_comes_back(tmp_path: Path) -> None:
    """Meta, jobs, outcomes and events are read as written, in order."""
    with RunStore(tmp_path / "run", meta={"name": "toy", "seed": 3, "limits": {"macs": 0.5}}) as store:
        fill(store, 2)
        store.ledger.update_meta({"seed": 4})
    with RunStore(tmp_path / "run") as store:
        assert store.ledger.meta == {"name": "toy", "seed": 4, "limits": {"macs": 0.5}, "problem": ""}
        assert store.ledger.jobs() == [job(0), job(1)]
        assert store.ledger.outcomes() == [ToyRunner()(job(0)), ToyRunner()(job(1))]
        assert store.ledger.events() == [
            event
            for i in range(2)
            for event in (
                Event(EventKind.ASKED, (i,), n=1),
                Event(EventKind.STARTED, (i,)),
                Event(EventKind.COMMITTED, (i,)),
                Event(EventKind.TOLD, (i,)),
            )
        ]


def test_closing_forgets_what_was_not_committed(tmp_path: Path) -> None:
    """Records are durable by `commit`, all together or not at all."""
    with RunStore(tmp_path) as store:
        fill(store, 1)
        store.ledger.asked(4, [job(1)], elapsed=0.0)
    with RunStore(tmp_path) as store:
        assert store.ledger.jobs() == [job(0)]
        assert len(store.ledger.events()) == 4


def test_a_second_driver_is_turned_away_by_name(tmp_path: Path) -> None:
    """While one store is open for writing another is refused, and told who holds it; afterwards it is welcome."""
    with RunStore(tmp_path), pytest.raises(StoreError, match=f"driven by process {os.getpid()} on "):
        RunStore(tmp_path)
    RunStore(tmp_path).close()


def test_a_second_driver_in_another_process_is_turned_away(tmp_path: Path) -> None:
    """The lock holds between processes, and goes when its holder is killed."""
    script = (
        "import sys, time\nfrom autoprune.store.run import RunStore\n"
        "store = RunStore(sys.argv[1])\nprint('open', flush=True)\ntime.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"open\n"
    with pytest.raises(StoreError, match=f"driven by process {child.pid}"):
        RunStore(tmp_path)
    child.kill()
    child.wait()
    child.stdout.close()
    RunStore(tmp_path).close()


def test_a_run_can_be_read_while_it_goes_on(tmp_path: Path) -> None:
    """A reader beside the driver sees everything committed, nothing else, and later what came since."""
    with RunStore(tmp_path) as store:
        fill(store, 1)
        assert len(RunRecord.read(tmp_path).outcomes) == 1
        store.ledger.asked(1, [job(1)], elapsed=0.0)
        assert len(RunRecord.read(tmp_path).jobs) == 1
        store.ledger.commit()
        assert len(RunRecord.read(tmp_path).jobs) == 2


def test_readers_cannot_write(tmp_path: Path) -> None:
    """Opening for reading never changes a run."""
    RunStore(tmp_path).close()
    before = (tmp_path / "run.sqlite").read_bytes()
    RunRecord.read(tmp_path)
    with (
        closing(Ledger(tmp_path / "run.sqlite", readonly=True)) as ledger,
        pytest.raises(StoreError, match="may write"),
    ):
        ledger.update_meta({"name": "mine"})
    assert (tmp_path / "run.sqlite").read_bytes() == before


def test_another_problem_is_refused(tmp_path: Path) -> None:
    """A folder keeps one problem; the message says what to do."""
    RunStore(tmp_path, problem="a" * 64).close()
    with pytest.raises(StoreError, match=r"another problem.*choose another folder"):
        RunStore(tmp_path, problem="b" * 64)
    RunStore(tmp_path, problem="a" * 64).close()


def test_an_unknown_schema_version_is_refused(tmp_path: Path) -> None:
    """A ledger of a later autoprune is not guessed at."""
    RunStore(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "run.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for open_store in (RunStore, RunRecord.read):
        with pytest.raises(StoreError, match=r"schema version 3, got version 99.*another version of autoprune"):
            open_store(tmp_path)


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A foreign SQLite file called run.sqlite keeps its content."""
    connection = sqlite3.connect(tmp_path / "run.sqlite")
    connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    before = (tmp_path / "run.sqlite").read_bytes()
    with pytest.raises(StoreError, match="database of something else"):
        RunStore(tmp_path)
    assert (tmp_path / "run.sqlite").read_bytes() == before


def test_a_folder_without_a_run_is_refused_for_reading(tmp_path: Path) -> None:
    """Reading never makes a run."""
    with pytest.raises(StoreError, match="expected a run ledger"):
        RunRecord.read(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 1, 50, 100, 4096, 10_000, 20_000])
def test_a_truncated_ledger_is_an_error_with_advice(tmp_path: Path, keep: int) -> None:
    """Cut anywhere it is refused, for writing and for reading, never read as a shorter run."""
    with RunStore(tmp_path) as store:
        fill(store, 60)
    path = tmp_path / "run.sqlite"
    assert path.stat().st_size > 20_000
    path.write_bytes(path.read_bytes()[:keep])
    for open_store in (RunStore, RunRecord.read):
        with pytest.raises(StoreError, match=r"cannot use .*(damaged|something else)|something else"):
            open_store(tmp_path)


def test_garbage_is_an_error_with_advice(tmp_path: Path) -> None:
    """A file of noise is refused."""
    (tmp_path / "run.sqlite").write_bytes(b"\xff\x00noise" * 999)
    with pytest.raises(StoreError, match=r"not a database.*damaged.*another folder"):
        RunStore(tmp_path)


def test_a_torn_log_is_a_prefix_of_the_run(tmp_path: Path) -> None:
    """Whatever is left of the write-ahead log after a crash, the run reads as some earlier moment of itself."""
    with RunStore(tmp_path / "run") as store:
        fill(store, 4)
        complete = store.ledger.events()
        for name in ("run.sqlite", "run.sqlite-wal"):
            shutil.copy(tmp_path / "run" / name, tmp_path / name)
    log = (tmp_path / "run.sqlite-wal").read_bytes()
    lengths = set()
    for i, size in enumerate(range(0, len(log), 1501)):
        folder = tmp_path / str(i)
        folder.mkdir()
        shutil.copy(tmp_path / "run.sqlite", folder)
        (folder / "run.sqlite-wal").write_bytes(log[:size])
        with RunStore(folder) as store:
            events = store.ledger.events()
            assert events == complete[: len(events)]
            assert [outcome.job.id for outcome in store.ledger.outcomes()] == [
                event.jobs[0] for event in events if event.kind is EventKind.COMMITTED
            ]
        lengths.add(len(events))
    assert len(lengths) > 5  # the cuts did hit different moments


@pytest.mark.usefixtures("ordinary_user")
def test_a_folder_that_cannot_be_written_is_an_error_with_advice_but_can_be_read() -> None:
    """A run on read-only storage opens for reading only."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with RunStore(folder) as store:
            fill(store, 2)
        for path in folder.iterdir():
            path.chmod(0o444)
        folder.chmod(0o555)
        try:
            with pytest.raises(StoreError, match=r"folder that you may write to|may write to it"):
                RunStore(folder)
            with pytest.raises(StoreError, match="cannot write to the folder"):
                RunStore(folder / "new")
            assert len(RunRecord.read(folder).outcomes) == 2
        finally:
            folder.chmod(0o755)


def test_two_outcomes_of_one_job_are_refused(tmp_path: Path) -> None:
    """The ledger never has a job twice."""
    with RunStore(tmp_path) as store:
        fill(store, 1)
        with pytest.raises(StoreError, match="outcomes"):
            store.ledger.committed(failed(job(0), ""), elapsed=0.0)


def test_weights_live_in_the_folder(tmp_path: Path) -> None:
    """Blobs are under weights/, models beside them, and readers get at both."""
    with RunStore(tmp_path) as store:
        name = store.weights.put(b"weights")
        assert store.models == tmp_path / "models"
    reader = RunRecord.read(tmp_path)
    assert reader.weights.get(name) == b"weights"
    assert (tmp_path / "weights" / name).is_file()
