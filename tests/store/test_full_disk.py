"""A disk that is full ends a search with advice, and the same process can go on once there is room."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autoprune.core.budget import Budget
from autoprune.core.jobs import Outcome
from autoprune.errors import StoreError
from autoprune.execute.in_process import InProcessExecutor
from autoprune.orchestrator import run_search
from autoprune.store.run import RunStore
from autoprune.testing.search_toys import OBJECTIVES, ToyRunner, ToyStrategy


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def search(folder: Path) -> list[Outcome]:
    """Run or resume a toy search; returns its outcomes."""
    runner = ToyRunner()
    with RunStore(folder) as store:
        run_search(
            ToyStrategy,
            InProcessExecutor(runner),
            store,
            Budget(evaluations=60),
            objectives=OBJECTIVES,
            price=runner.price,
        )
        return [outcome.identity() for outcome in store.ledger.outcomes()]


@pytest.mark.parametrize("kilobytes", [0, 8, 50, 100])
def test_the_same_process_goes_on_after_the_disk_was_full(tmp_path: Path, kilobytes: int) -> None:
    """Wherever it was full, in the making of the run included: one clear error, and then the undisturbed ledger."""
    with full_disk(1024 * kilobytes), pytest.raises(StoreError, match="make room"):
        search(tmp_path / "run")
    assert not list(tmp_path.glob("run/*.new"))
    assert search(tmp_path / "run") == search(tmp_path / "undisturbed")


def test_a_folder_can_be_opened_again_after_an_opening_that_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes between, Ctrl-C included, the lock does not stay."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    RunStore(tmp_path).close()
    with monkeypatch.context() as patch:
        patch.setattr("autoprune.store.ledger.Ledger.open_driver", interrupt)
        with pytest.raises(KeyboardInterrupt):
            RunStore(tmp_path)
    RunStore(tmp_path).close()


def test_a_lock_file_that_is_no_lock_is_an_error_with_advice(tmp_path: Path) -> None:
    """Noise in the lock file is said, not shown as a traceback."""
    RunStore(tmp_path).close()
    (tmp_path / "driver.lock").write_bytes(b"noise" * 999)
    with pytest.raises(StoreError, match=r"driver\.lock"):
        RunStore(tmp_path)
