"""Folders of local clusters: removed by who made them, or by the next one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.execute.ray.session import MAX_BASE, SessionFolder, sweep

KILLED = """
import os, signal
from autoprune.execute.ray.session import SessionFolder
folder = SessionFolder()
(folder.path / "log").write_text("x")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("autoprune.execute.ray.session.MAX_BASE", 1000)


def test_a_closed_folder_is_gone(tmp_path: Path) -> None:
    """Nothing is left of it, and nothing else of the temporary folder is touched."""
    (tmp_path / "autoprune-run").mkdir()  # such as a run that was given no folder
    folder = SessionFolder()
    assert folder.path.parent == tmp_path
    folder.close()
    assert [path.name for path in tmp_path.iterdir()] == ["autoprune-run"]


def test_the_folder_of_a_killed_driver_goes_with_the_next(tmp_path: Path) -> None:
    """The next cluster removes it; folders whose holders live stay."""
    held = SessionFolder()
    env = {"PYTHONPATH": ":".join(sys.path), "TMPDIR": str(tmp_path)}
    code = KILLED.replace("folder = S", "import autoprune.execute.ray.session as f; f.MAX_BASE = 1000; folder = S")
    subprocess.run([sys.executable, "-c", code], env=env, check=False)
    (dead,) = set(tmp_path.iterdir()) - {held.path}
    assert (dead / "log").exists()
    another = SessionFolder()
    assert set(tmp_path.iterdir()) == {held.path, another.path}
    sweep(tmp_path)
    assert set(tmp_path.iterdir()) == {held.path, another.path}
    held.close()
    another.close()


def test_a_long_temporary_folder_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets in it would have paths that are too long."""
    monkeypatch.setattr("autoprune.execute.ray.session.MAX_BASE", MAX_BASE)
    folder = SessionFolder()
    assert folder.path.parent == Path("/tmp")
    folder.close()
