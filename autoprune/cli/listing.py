"""`autoprune list`: what can be named on the command line and in problem files."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from autoprune.cli.console import print_json, print_table


class Kind(StrEnum):
    """What can be listed."""

    STRATEGIES = "strategies"
    CRITERIA = "criteria"
    SPACES = "spaces"
    EVALUATORS = "evaluators"
    RECIPES = "recipes"


def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """List strategies, criteria, search spaces, evaluators or recipes: name, one line, paper."""
    entries = _ENTRIES[kind]()
    if as_json:
        print_json([{"name": name, "summary": summary, "paper": paper} for name, summary, paper in entries])
    else:
        print_table(("name", "what it is", "paper"), entries)


def _strategies() -> list[tuple[str, str, str]]:
    from autoprune.strategies.registry import STRATEGIES

    return [(info.name, info.summary, info.paper) for info in STRATEGIES.values()]


def _criteria() -> list[tuple[str, str, str]]:
    from autoprune.criteria.registry import CRITERIA

    return [(info.name, info.summary, info.paper) for info in CRITERIA.values()]


def _spaces() -> list[tuple[str, str, str]]:
    from autoprune.config import describe_spaces

    return describe_spaces()


def _evaluators() -> list[tuple[str, str, str]]:
    from autoprune.evaluate.registry import EVALUATORS

    return [(info.name, info.summary, info.paper) for info in EVALUATORS.values()]


def _recipes() -> list[tuple[str, str, str]]:
    from autoprune.prepare.registry import RECIPES

    return [(info.name, info.summary, info.paper) for info in RECIPES.values()]


_ENTRIES = {
    Kind.STRATEGIES: _strategies,
    Kind.CRITERIA: _criteria,
    Kind.SPACES: _spaces,
    Kind.EVALUATORS: _evaluators,
    Kind.RECIPES: _recipes,
}
