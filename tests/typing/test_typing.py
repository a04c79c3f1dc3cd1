"""Type checkers agree with what the public names promise: `api.py` has no mistake, and every planted one is found.

mypy checks `api.py` wherever it checks the package (`files` in pyproject.toml); what is tested here is pyright, and
what both need of an installed package.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import autoprune

API = Path(__file__).parent / "api.py"
PACKAGE = Path(autoprune.__file__).parent


def test_the_package_says_that_it_is_typed() -> None:
    """Without the marker, type checkers would take every name of an installed package for Any."""
    assert (PACKAGE / "py.typed").is_file()


def test_mypy_checks_the_public_names() -> None:
    """The file is among those that mypy is given, strictly: an ignored line that is no mistake would be reported."""
    settings = tomllib.loads((API.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert "tests/typing/api.py" in settings["files"]
    assert settings["strict"]


@pytest.mark.skipif(importlib.util.find_spec("basedpyright") is None, reason="needs basedpyright, of the dev extras")
def test_pyright(tmp_path: Path) -> None:
    """Pyright infers what `api.py` asserts and refuses what it marks."""
    settings = tmp_path / "pyrightconfig.json"
    chosen = {
        "include": [str(API)],
        "extraPaths": [str(PACKAGE.parent)],
        "typeCheckingMode": "standard",
        "enableTypeIgnoreComments": True,
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    settings.write_text(json.dumps(chosen), encoding="utf-8")
    command = [sys.executable, "-m", "basedpyright", "--project", str(settings), "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
