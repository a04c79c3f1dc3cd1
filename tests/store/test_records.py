"""Measurements that are not outcomes, and whether a run is being driven."""

from __future__ import annotations

from pathlib import Path

from autoprune.store.run import RunStore


def test_records_are_kept_by_kind_in_order(tmp_path: Path) -> None:
    """Records come back as they were given, oldest first, and only those of the kind asked for."""
    with RunStore(tmp_path / "run") as store:
        store.add_record("latency", {"median": 1.5})
        store.add_record("metrics", {"point": 3})
        store.add_record("latency", {"median": 1.25})
    reader = RunStore.open_readonly(tmp_path / "run")
    assert reader.records("latency") == [{"median": 1.5}, {"median": 1.25}]
    assert reader.records("metrics") == [{"point": 3}]
    assert reader.records("other") == []
    reader.close()


def test_starts_count_the_processes_that_drove_the_run(tmp_path: Path) -> None:
    """Every opening for writing is a start; reading is not."""
    for _ in range(3):
        RunStore(tmp_path / "run").close()
    reader = RunStore.open_readonly(tmp_path / "run")
    starts = reader.starts()
    reader.close()
    assert len(starts) == 3
    assert starts == sorted(starts)


def test_is_driven_while_open_for_writing(tmp_path: Path) -> None:
    """A reader sees that a driver is there, and that it is gone."""
    with RunStore(tmp_path / "run"):
        reader = RunStore.open_readonly(tmp_path / "run")
        assert reader.is_driven
    assert not reader.is_driven
    reader.close()
