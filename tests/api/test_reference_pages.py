"""The package and its pages of public names are the reference: complete, listed, and readable with `help`."""

from __future__ import annotations

import importlib
import inspect
import pydoc
import subprocess
import sys
from typing import Any

import pytest

import autoprune as ap
from autoprune.core.registry import Registry
from autoprune.criteria import CRITERIA
from autoprune.evaluators import EVALUATORS
from autoprune.recipes import RECIPES
from autoprune.regularizers import REGULARIZERS
from autoprune.strategies import STRATEGIES

PAGES = ("criteria", "data", "evaluators", "recipes", "regularizers", "strategies", "tasks")


@pytest.mark.parametrize("page", ["", *PAGES])
def test_a_page_lists_what_it_offers(page: str) -> None:
    """Every public name exists and says what it is; listing the names shows these and no others."""
    module = importlib.import_module(f"autoprune.{page}".rstrip("."))
    assert {name for name in dir(module) if not name.startswith("_")} == set(module.__all__) - {"__version__"}
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value):
            assert inspect.getdoc(value), f"{module.__name__}.{name} says nothing about itself"


@pytest.mark.parametrize(
    "registry", [STRATEGIES, CRITERIA, EVALUATORS, RECIPES, REGULARIZERS], ids=lambda registry: registry.kind
)
def test_a_page_has_the_settings_of_all_that_ships(registry: Registry[Any]) -> None:
    """The class that `settings` of a registry returns is found where the registry is."""
    page = importlib.import_module(registry.group)
    for name in registry.built_in:
        settings = registry.settings(name)
        assert getattr(page, type(settings).__name__) is type(settings)
        assert type(settings).__name__ in page.__all__


def test_help_shows_the_overview_and_the_names() -> None:
    """`help(autoprune)` begins with the overview and shows what lazily imported names are."""
    shown = pydoc.render_doc(ap, renderer=pydoc.plaintext)
    assert "One smaller model, in one call" in shown[:600]
    assert "prune(\n    model:" in shown or "prune(model:" in shown
    assert "class Problem" in shown


def test_pages_are_there_without_an_import_of_their_own() -> None:
    """`ap.strategies` works after `import autoprune as ap` alone, and so does a wrong name's message."""
    code = "import autoprune as ap; print(ap.strategies.BaseStrategy.__name__, hasattr(ap, 'no_such_name'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["BaseStrategy", "False"]
