"""Packages of somebody else, installed with their entry points into a folder that subprocesses look into."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., str]


def install(package: Path, folder: Path, scratch: Path) -> None:
    """Install a package from its source; the source is copied, since a build writes beside it."""
    copied = scratch / package.name
    subprocess.run(["cp", "-r", str(package), str(copied)], check=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", "--target", str(folder), str(copied)], check=True)


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Run:
    """Return what runs ``python ARGUMENTS`` with the package installed and returns its standard output."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path]), "COLUMNS": "200"}

    def running(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    return running
