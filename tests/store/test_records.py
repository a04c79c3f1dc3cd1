"""Measurements that are not outcomes, and whether a run is being driven."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.core.jobs import Candidate, Evaluate, Evaluation, Status, WeightSet
from autoprune.store.ledger import Event, Ledger
from autoprune.store.record import RunRecord
from autoprune.store.run import RunStore


def test_records_are_kept_by_kind_in_order(tmp_path: Path) -> None:
    """Records come back as they were given, oldest first, and only those of the kind asked for."""
    with RunStore(tmp_path / "run") as store:
        store.ledger.add_record("latency", {"median": 1.5})
        store.ledger.add_record("metrics", {"point": 3})
        store.ledger.add_record("latency", {"median": 1.25})
    reader = RunRecord.read(tmp_path / "run")
    assert reader.records("latency") == [{"median": 1.5}, {"median": 1.25}]
    assert reader.records("metrics") == [{"point": 3}]
    assert not reader.records("other")


def test_starts_count_the_processes_that_drove_the_run(tmp_path: Path) -> None:
    """Every opening for writing is a start; reading is not."""
    for _ in range(3):
        RunStore(tmp_path / "run").close()
    reader = RunRecord.read(tmp_path / "run")
    starts = reader.starts
    assert len(starts) == 3
    assert starts == sorted(starts)


def test_is_driven_while_open_for_writing(tmp_path: Path) -> None:
    """A reader sees that a driver is there, and that it is gone."""
    with RunStore(tmp_path / "run"):
        reader = RunRecord.read(tmp_path / "run")
        assert reader.is_driven
    assert not RunRecord.read(tmp_path / "run").is_driven


def test_a_record_is_of_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a driver commits while the tables are read is in none of them, or in all."""
    job = Evaluate(0, Candidate((1, 2), WeightSet("w" * 64, "o" * 64)))
    with RunStore(tmp_path / "run") as store:
        read = Ledger.events

        def commit_meanwhile(ledger: Ledger) -> list[Event]:
            events = read(ledger)
            store.ledger.asked(1, [job], elapsed=0.0)
            store.ledger.committed(Evaluation(job, Status.OK), elapsed=0.0)
            store.ledger.commit()
            return events

        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "events", commit_meanwhile)
            found = RunRecord.read(tmp_path / "run")
        assert (found.events, found.jobs, found.outcomes, found.damage) == ([], [], [], [])
        later = RunRecord.read(tmp_path / "run")
        assert [outcome.job for outcome in later.outcomes] == later.jobs == [job]
        assert len(later.events) == 2
