"""The package of `examples/structured_output`, installed: a task, data and a search space of somebody else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.plugins.conftest import Run, install

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "examples" / "structured_output"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which the package was installed, entry points included."""
    folder = tmp_path_factory.mktemp("site")
    install(PACKAGE, folder, tmp_path_factory.mktemp("structured"))
    return folder


@pytest.mark.slow
def test_its_space_is_searched_by_name(run: Run) -> None:
    """Listed with its data, and searched by its task from nothing but its name; the file has the task's settings."""
    for kind in ("spaces", "data"):
        assert "landmarks" in [entry["name"] for entry in json.loads(run("-m", "autoprune", "list", kind, "--json"))]
    quick = ("--set", "training.epochs=2", "--strategy", "uniform", "--evaluations", "3", "--json")
    run("-m", "autoprune", "search", "landmarks", *quick, "--store", "run")
    assert "nme" in run("-m", "autoprune", "show", "run", "--json")
    wrong = run("-m", "autoprune", "search", "landmarks", "--set", "task.kwargs.weights=1", *quick, code=1)
    assert re.search(r"task.factory.*unexpected keyword argument 'weights'", wrong)


def test_its_task_passes_the_law_suite(run: Run) -> None:
    """The laws that `autoprune.testing` offers for tasks, and what the auto-encoder is for."""
    shown = run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "structured_output_laws.py"))
    assert re.search(r"\b7 passed", shown), shown
