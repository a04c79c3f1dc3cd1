"""The examples of the README and of the pages are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def blocks(page: Path = README) -> list[str]:
    """Return the Python examples of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def words(summary: str) -> list[str]:
    """Return what a summary says of costs and accuracy, without the numbers; times depend on the machine."""
    return [re.sub(r"[\d.]+", "#", part) for part in summary.split("; ")[:2]]


def test_first_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first example prunes, saves and loads; the second goes on with its names, searches and reports."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(blocks()[0], "README.md", "exec"), names)
    found, small = names["found"], names["small"]
    assert found.share["macs"] <= 0.5  # type: ignore[attr-defined]
    assert found.point.run._require_problem("measure").evaluator.measure(small) == found.after  # type: ignore[attr-defined]
    (shown,) = re.findall(r"```text\n(.*)\n```", README.read_text(encoding="utf-8"))
    assert words(found.summary) == words(shown)  # type: ignore[attr-defined]
    exec(compile(blocks()[1], "README.md", "exec"), names)
    assert (tmp_path / "runs/digits/report.html").stat().st_size > 100_000
    point, again = names["point"], names["again"]
    problem = names["problem"]
    assert problem.evaluator.measure(again) == dict(point.metrics)  # type: ignore[attr-defined]


def test_the_example_without_labels_runs() -> None:
    """The example of docs/data.md: half of the MACs of a network, from inputs alone."""
    names: dict[str, object] = {}
    exec(compile(blocks(README.parent / "docs" / "data.md")[0], "data.md", "exec"), names)
    found = names["found"]
    assert found.share["macs"] <= 0.5  # type: ignore[attr-defined]
    assert set(found.after) == {"distance"}  # type: ignore[attr-defined]
