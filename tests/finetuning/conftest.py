"""A searched run to fine-tune, made once per module and copied."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

import autoprune as ap

DRIVER = Path(__file__).with_name("driver.py")


@pytest.fixture(scope="module")
def driver() -> ModuleType:
    """Return the driver as a module."""
    spec = importlib.util.spec_from_file_location("driver", DRIVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def untuned(driver: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished search on digits, to be copied."""
    folder = tmp_path_factory.mktemp("untuned")
    driver.make_run(folder)
    return folder


@pytest.fixture(scope="module")
def run(driver: ModuleType, untuned: Path, tmp_path_factory: pytest.TempPathFactory) -> ap.Run:
    """Return a copy of the search."""
    folder = tmp_path_factory.mktemp("copy") / "copy"
    shutil.copytree(untuned, folder)
    return driver.make_run(folder)


@pytest.fixture(scope="module")
def undisturbed(
    driver: ModuleType, run: ap.Run, untuned: Path, tmp_path_factory: pytest.TempPathFactory
) -> ap.TunedFront:
    """Return the points of another copy, trained in this process by a driver that nobody killed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "copy"
    shutil.copytree(untuned, folder)
    return driver.tune(ap.open_run(folder / "run", run.problem))
