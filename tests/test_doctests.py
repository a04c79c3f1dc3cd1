"""The examples in docstrings are run: they are the manual."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import autoprune

DOORS = ("autoprune.execute._ray", "autoprune.finetuning._tune")
"""Importing these starts heavy libraries; they hold no examples."""

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(autoprune.__path__, "autoprune.")
    if info.name not in DOORS and ".searchspaces." not in info.name and not info.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name: str) -> None:
    """Every example in the module gives what it says."""
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
