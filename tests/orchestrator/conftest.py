"""Fixtures that run the toy search."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from autoprune.core.budget import Budget
from autoprune.core.jobs import Job
from autoprune.execute.in_process import InProcessExecutor
from autoprune.orchestrator import SearchResult, run_search
from autoprune.store.ledger import Ledger
from autoprune.store.record import RunRecord
from autoprune.store.run import RunStore
from autoprune.testing.search_toys import OBJECTIVES, ToyRunner, ToyStrategy

Search = Callable[..., SearchResult]


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """Return a function that runs, or resumes, a toy search in a folder called ``name``."""

    def run(name: str = "run", *, make_strategy: Any = ToyStrategy, budget: Any = 40, **changed: Any) -> SearchResult:
        runner = changed.pop("runner", ToyRunner())
        executor = changed.pop("executor", None) or InProcessExecutor(runner)
        limit = budget if isinstance(budget, Budget) else Budget(evaluations=budget)
        settings = {"objectives": OBJECTIVES, "price": runner.price} | changed
        with RunStore(tmp_path / name) as store:
            return run_search(make_strategy, executor, store, limit, **settings)

    return run


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., RunRecord]:
    """Return a function that reads the folder called ``name``."""
    return lambda name="run": RunRecord.read(tmp_path / name)


@pytest.fixture
def deaths(tmp_path: Path) -> Callable[..., dict[int, int]]:
    """Return a function that says how often the driver died over which jobs; it is given how far they have got."""

    def read(mark: Callable[[Job], str] = lambda _: "") -> dict[int, int]:
        with closing(Ledger(tmp_path / "run" / "run.sqlite", readonly=True)) as ledger:
            return ledger.deaths(mark)

    return read
