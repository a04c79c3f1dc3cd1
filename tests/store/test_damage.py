"""A bit that changed is noticed: in the ledger it is said, in the cache it costs time, and old files still open."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from autoprune.core.jobs import (
    Candidate,
    Evaluate,
    Status,
    evaluations,
    failed,
)
from autoprune.errors import AutopruneWarning, StoreError
from autoprune.store.cache import EvaluationCache
from autoprune.store.ledger import EventKind
from autoprune.store.record import RunRecord
from autoprune.store.run import RunStore
from autoprune.testing.search_toys import TRAINED
from tests.store.damaged_stores import CACHE, RUN, N, comparable, damage_and_use, figures, searched

RECORDED = Path(__file__).parent / "recorded"

OLD_TABLES = {
    "run.sqlite": (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE drivers (id INTEGER PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL,"
        " started REAL NOT NULL, closed INTEGER NOT NULL DEFAULT 0)",
        "CREATE TABLE jobs (id INTEGER PRIMARY KEY, job TEXT NOT NULL)",
        "CREATE TABLE attempts (job INTEGER NOT NULL, driver INTEGER NOT NULL, started REAL NOT NULL)",
        "CREATE INDEX attempts_by_job ON attempts (job)",
        "CREATE TABLE outcomes (id INTEGER PRIMARY KEY, outcome TEXT NOT NULL)",
        "CREATE TABLE events (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, jobs TEXT NOT NULL, n INTEGER NOT NULL,"
        " text TEXT NOT NULL, elapsed REAL NOT NULL)",
        "CREATE TABLE records (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, data TEXT NOT NULL)",
    ),
    "evaluations.sqlite": ("CREATE TABLE evaluations (key TEXT PRIMARY KEY, outcome TEXT NOT NULL) WITHOUT ROWID",),
}
"""What the first release wrote, word by word."""


def make_old(path: Path) -> None:
    """Turn a file into what the first release would have written."""
    with closing(sqlite3.connect(path)) as new:
        application_id = new.execute("PRAGMA application_id").fetchone()[0]
        old_path = path.with_suffix(".old")
        with closing(sqlite3.connect(old_path)) as old:
            for statement in OLD_TABLES[path.name]:
                old.execute(statement)
                name = statement.split()[2]
                if statement.startswith("CREATE TABLE"):
                    columns = [row[1] for row in old.execute(f"PRAGMA table_info({name})")]
                    for row in new.execute(f"SELECT {', '.join(columns)} FROM {name}").fetchall():
                        if "outcome" in columns:
                            row = (row[0], with_job(new, *row))
                        old.execute(f"INSERT INTO {name} VALUES ({', '.join('?' for _ in columns)})", row)
            old.execute(f"PRAGMA application_id = {application_id}")
            old.execute("PRAGMA user_version = 1")
            old.commit()
    old_path.replace(path)


def with_job(file: sqlite3.Connection, key: int | str, outcome: str) -> str:
    """Return the text of an outcome as it was when evaluations and preparations were one kind, job and all."""
    found = json.loads(outcome)
    is_ledger = isinstance(key, int)  # a cache holds evaluations of any job
    job = json.loads(file.execute("SELECT job FROM jobs WHERE id = ?", (key,)).fetchone()[0]) if is_ledger else {}
    return json.dumps({"job": job, "weight_set": None, "genome": None, **found})


def change(path: Path, statement: str) -> None:
    """Change something behind the back of the ledger."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


@pytest.mark.parametrize("seed", range(2))
def test_no_flipped_bit_gives_other_figures_in_silence(tmp_path: Path, seed: int) -> None:
    """Ledgers are right, warned about or refused; caches are right; ``benchmarks/fuzz/stores.py`` tries thousands."""
    verdict = damage_and_use(tmp_path, 16, seed)
    assert (verdict.silent, verdict.tracebacks, verdict.long) == ([], [], [])


@pytest.mark.slow
def test_no_flipped_bit_of_many_gives_other_figures_in_silence(tmp_path: Path) -> None:
    """The same, a thousand times."""
    verdict = damage_and_use(tmp_path, 1000, 2)
    assert (verdict.silent, verdict.tracebacks, verdict.long) == ([], [], [])
    assert verdict.counts["refused"] > 50


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE outcomes SET outcome = outcome || ' ' WHERE id IN (3, 7)", "outcome 3, 7"),
        ("UPDATE jobs SET job = replace(job, 'proxy', 'prozy') WHERE id = 5", "job 5"),
        ("UPDATE events SET kind = 'told' WHERE seq = 4", "event 4"),
        ("UPDATE attempts SET driver = 9 WHERE job = 2", "attempt 3"),
        ("UPDATE drivers SET closed = 0", "driver 1"),
        ("UPDATE records SET data = '{}'", "record 1"),
        ("UPDATE meta SET value = '4' WHERE name = 'seed'", "description of the run: entry 'seed'"),
        ("DELETE FROM outcomes WHERE id = 6", "job 6 without an outcome"),
        ("DELETE FROM jobs WHERE id = 6", "job 6 missing"),
    ],
)
def test_every_kind_of_row_is_signed(tmp_path: Path, statement: str, named: str) -> None:
    """Whatever is changed, the run is not written to any more, and the message names the row and what can be done."""
    searched(tmp_path)
    change(tmp_path / RUN, statement)
    with pytest.raises(StoreError, match=f"damaged.*{named}.*restore the file from a copy") as caught:
        RunStore(tmp_path / "run")
    assert len(str(caught.value)) < 2000
    with pytest.raises(StoreError, match="damaged"):  # and the folder is not locked by the first attempt
        RunStore(tmp_path / "run")


def test_a_damaged_outcome_is_left_out_for_readers_who_are_told(tmp_path: Path) -> None:
    """The other outcomes can be read, with one warning."""
    whole = searched(tmp_path)[4]
    change(tmp_path / RUN, "UPDATE outcomes SET outcome = outcome || ' ' WHERE id = 3")
    with pytest.warns(AutopruneWarning, match="outcome 3 left out") as caught:
        run = RunRecord.read(tmp_path / "run")
    assert len(caught) == 1
    found = [replace(outcome.identity(), cached=False) for outcome in evaluations(run.outcomes)]
    assert found == [outcome for outcome in whole if outcome.job.id != 3]
    assert run.damage == ["outcome 3"]


def test_a_damaged_entry_of_the_cache_is_measured_again(tmp_path: Path) -> None:
    """It is dropped with a warning; measured again, it is remembered again."""
    whole = comparable(searched(tmp_path))
    change(tmp_path / CACHE, "UPDATE evaluations SET outcome = outcome || ' '")
    (tmp_path / RUN).unlink()
    with pytest.warns(AutopruneWarning, match="dropped and measured again"):
        assert comparable(searched(tmp_path)) == whole
    (tmp_path / RUN).unlink()
    assert comparable(searched(tmp_path)) == whole
    assert any(outcome.cached for outcome in RunRecord.read(tmp_path / "run").outcomes)


def scribble(path: Path) -> None:
    """Overwrite the middle of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 4] + b"\x00" * (len(data) // 2) + data[3 * len(data) // 4 :])


@pytest.mark.parametrize(
    "harm", [scribble, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(path.read_bytes()[:5000])]
)
def test_a_damaged_cache_does_not_stop_a_search(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """The search measures everything itself, says so, and comes to the same."""
    whole = comparable(searched(tmp_path))
    (tmp_path / RUN).unlink()
    harm(tmp_path / CACHE)
    with pytest.warns(AutopruneWarning, match="not remembered"):
        assert comparable(searched(tmp_path)) == whole


def test_a_run_of_the_first_release_is_read_as_it_is(tmp_path: Path) -> None:
    """Reading changes nothing in the file."""
    searched(tmp_path)
    before = figures(tmp_path)
    make_old(tmp_path / RUN)
    bytes_before = (tmp_path / RUN).read_bytes()
    assert figures(tmp_path) == before
    assert (tmp_path / RUN).read_bytes() == bytes_before
    change(tmp_path / RUN, "UPDATE outcomes SET outcome = substr(outcome, 1, 40) WHERE id = 3")
    with pytest.warns(AutopruneWarning, match="outcome 3 left out"):
        figures(tmp_path)
    with pytest.raises(StoreError, match="outcome 3"):
        RunStore(tmp_path / "run")


def test_a_run_and_a_cache_of_the_first_release_are_resumed_and_signed(tmp_path: Path) -> None:
    """They go on as if they had always had checksums, and have them from then on."""
    searched(tmp_path / "new")
    searched(tmp_path / "old")
    for name in (RUN, CACHE):
        make_old(tmp_path / "old" / name)
    assert comparable(searched(tmp_path / "old", 2 * N)) == comparable(searched(tmp_path / "new", 2 * N))
    with cache_of(tmp_path / "old") as cache:
        assert len(cache) > N / 2
    change(tmp_path / "old" / RUN, "UPDATE outcomes SET outcome = outcome || ' ' WHERE id = 3")
    with pytest.raises(StoreError, match="outcome 3"):
        RunStore(tmp_path / "old" / "run")


def test_a_run_and_a_cache_of_schema_version_2_go_on(tmp_path: Path) -> None:
    """What was recorded when an outcome still repeated its job is read, replayed, resumed and gives hits."""
    shutil.copytree(RECORDED / "schema_2", tmp_path / "old")
    assert '"job":' in (tmp_path / "old" / RUN).read_text(encoding="latin-1")
    before = (tmp_path / "old" / RUN).read_bytes()
    assert figures(tmp_path / "old") == searched(tmp_path / "new")[2:]
    assert (tmp_path / "old" / RUN).read_bytes() == before
    resumed = searched(tmp_path / "old", 2 * N)
    assert resumed[1] == ""  # replayed, not absorbed
    assert comparable(resumed) == comparable(searched(tmp_path / "new", 2 * N))
    (tmp_path / "old" / RUN).unlink()
    shutil.copy(RECORDED / "schema_2" / CACHE, tmp_path / "old" / CACHE)
    assert comparable(searched(tmp_path / "old")) == comparable(searched(tmp_path / "fresh"))
    outcomes = evaluations(RunRecord.read(tmp_path / "old" / "run").outcomes)
    assert all(outcome.cached for outcome in outcomes if outcome.status is Status.OK)  # failures are measured again


def cache_of(folder: Path) -> closing[EvaluationCache]:
    """Open the cache of a toy search."""
    return closing(EvaluationCache(folder / CACHE, space="s", evaluator={}, data="d"))


def test_halves_of_characters_in_messages_are_kept(tmp_path: Path) -> None:
    """The name of an odd file in an error's text does not end the search."""
    job = Evaluate(0, Candidate((1, 2, 0, 4), TRAINED))
    outcome = failed(job, "OSError: no such file: \udcff.png")
    with RunStore(tmp_path) as store:
        store.ledger.asked(1, [job], elapsed=0.0)
        store.ledger.committed(outcome, elapsed=0.0)
        store.ledger.warned("odd \udcff", elapsed=0.0)
        store.ledger.commit()
    reader = RunRecord.read(tmp_path)
    assert reader.outcomes == [replace(outcome)]
    assert reader.events[-1].kind is EventKind.WARNING


def test_a_damaged_name_that_is_no_text_is_said(tmp_path: Path) -> None:
    """SQLite names what it cannot read, and Python cannot read the name."""
    searched(tmp_path)
    data = bytearray((tmp_path / RUN).read_bytes())
    data[data.index(b"INTEGER NOT NULL")] |= 0x80
    data[data.index(b"REATE TABLE attempts") + 13] |= 0x80
    (tmp_path / RUN).write_bytes(data)
    for open_store in (RunStore, RunRecord.read):
        with pytest.raises(StoreError, match="damaged"):
            open_store(tmp_path / "run")
