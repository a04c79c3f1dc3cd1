"""`autoprune list`: what can be named on the command line and in problem files."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from autoprune.cli.console import print_json, print_table
from autoprune.core.registry import imported


class Kind(StrEnum):
    """Kinds of names that can be listed."""

    STRATEGIES = "strategies"
    CRITERIA = "criteria"
    SPACES = "spaces"
    EVALUATORS = "evaluators"
    RECIPES = "recipes"
    REGULARIZERS = "regularizers"
    DATA = "data"


def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """List strategies, criteria, search spaces, evaluators, recipes, regularizers or data: name, one line, paper."""
    entries = _ENTRIES[kind]()
    if as_json:
        print_json([{"name": name, "summary": summary, "paper": paper} for name, summary, paper in entries])
    else:
        print_table(("name", "what it is", "paper"), entries)


def names_of(kind: str) -> list[str]:
    """Return the names of one kind, such as ``"strategies"``."""
    return [name for name, *_ in _ENTRIES[Kind(kind)]()]


def _registered(registry: str) -> Callable[[], list[tuple[str, str, str]]]:
    """Return what lists a registry, given as ``"module:name"``, once it is asked for."""

    def entries() -> list[tuple[str, str, str]]:
        return [(info.name, info.summary, info.paper) for info in imported(registry).values()]

    return entries


_ENTRIES = {
    Kind.STRATEGIES: _registered("autoprune.strategies.registry:STRATEGIES"),
    Kind.CRITERIA: _registered("autoprune.criteria.registry:CRITERIA"),
    Kind.SPACES: _registered("autoprune.config.reading:SPACES"),
    Kind.EVALUATORS: _registered("autoprune.evaluate.registry:EVALUATORS"),
    Kind.RECIPES: _registered("autoprune.prepare.registry:RECIPES"),
    Kind.REGULARIZERS: _registered("autoprune.regularizers.registry:REGULARIZERS"),
    Kind.DATA: _registered("autoprune.train.named_data:NAMED_DATA"),
}
