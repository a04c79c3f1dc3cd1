"""The examples in docstrings are run: they are the manual."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import autoprune

ROOT = Path(autoprune.__file__).parent

MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_there_are_examples() -> None:
    """The search for examples finds those of the modules that are known to have some."""
    assert {"autoprune.train", "autoprune.train.data", "autoprune.surgery.forward"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name: str) -> None:
    """Every example in the module gives what it says, and there is one."""
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
