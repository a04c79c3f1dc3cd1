"""Fixtures that run the toy search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprune.core.budget import Budget
from autoprune.execute.in_process import InProcessExecutor
from autoprune.orchestrator import SearchResult, run_search
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
        settings = {"objectives": OBJECTIVES, "estimate": runner.estimate} | changed
        with RunStore(tmp_path / name) as store:
            return run_search(make_strategy, executor, store, limit, **settings)

    return run


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., RunStore]:
    """Return a function that opens the folder called ``name`` for reading."""
    return lambda name="run": RunStore.open_readonly(tmp_path / name)
