"""`autoprune list` and `autoprune doctor`."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from autoprune.cli import doctor
from autoprune.cli.app import app
from autoprune.config import SPACES
from autoprune.criteria.registry import CRITERIA
from autoprune.prepare.registry import RECIPES
from autoprune.regularizers import REGULARIZERS
from autoprune.strategies.registry import STRATEGIES
from autoprune.train.named_data import NAMED_DATA


def listed(kind: str) -> list[dict[str, Any]]:
    """Return what `autoprune list KIND --json` prints."""
    result = CliRunner().invoke(app, ["list", kind, "--json"])
    assert result.exit_code == 0
    entries: list[dict[str, Any]] = json.loads(result.stdout)
    return entries


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("strategies", STRATEGIES),
        ("criteria", CRITERIA),
        ("spaces", SPACES),
        ("recipes", RECIPES),
        ("regularizers", REGULARIZERS),
        ("data", NAMED_DATA),
    ],
)
def test_everything_registered_is_listed_with_a_summary(kind: str, names: Any) -> None:
    """Names agree with the registry and each has one line."""
    entries = listed(kind)
    assert {entry["name"] for entry in entries} == set(names)
    assert all(entry["summary"] and "\n" not in entry["summary"] for entry in entries)


def test_the_table_shows_names_and_papers() -> None:
    """The human form holds the same."""
    shown = CliRunner().invoke(app, ["list", "strategies"]).stdout
    assert "pymoo:nsga2" in shown
    assert "IEEE TEC 2002" in shown


def test_doctor_finds_this_environment() -> None:
    """Versions are those of the installed packages; the processor is always there."""
    result = CliRunner().invoke(app, ["doctor", "--json"])
    findings = json.loads(result.stdout)
    assert findings["packages"]["torch"] == metadata.version("torch")
    assert findings["devices"][0]["device"] == "cpu"
    assert findings["devices"][0]["cores"] >= 1


def test_doctor_says_what_is_missing_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing extra is a hint, a missing requirement an error with exit code 1."""
    monkeypatch.setitem(doctor.EXTRAS, "no-such-extra", "autoprune export")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert 'no no-such-extra: autoprune export; pip install "autoprune[export]"' in result.stdout
    monkeypatch.setitem(doctor.PACKAGES, "no-such-package", "everything")
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    assert {
        "required": True,
        "what": "no no-such-package: everything",
        "do": "pip install no-such-package",
    } in json.loads(result.stdout)["problems"]


def test_doctor_reports_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where the run folder should be is found before a search starts."""
    (tmp_path / "runs").write_text("a file")
    result = CliRunner().invoke(app, ["doctor", "--runs", str(tmp_path / "runs" / "deeper")])
    assert result.exit_code == 1
    assert "cannot be written (runs); name another folder" in result.stdout
