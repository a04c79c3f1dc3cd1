"""Docstrings say what an engineer would say aloud, and the page of the package leaves no public name out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import autoprune

ROOT = Path(autoprune.__file__).parent

CLIPPED = ("of", "for", "where", "who", "whom", "with", "by", "as", "from", "what", "which")
"""An item of ``Args:`` or ``Attributes:`` that begins so lacks its noun: write "seed for the order", not "of it"."""


def clipped_items(source: str) -> list[str]:
    """Return the items of a module's docstrings that begin with a word of `CLIPPED`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            sections = re.split(r"^(\w+):$", ast.get_docstring(node) or "", flags=re.MULTILINE)
            for title, text in zip(sections[1::2], sections[2::2], strict=True):
                if title in ("Args", "Attributes"):
                    items = re.findall(r"^    (\*{0,2}\w+): (\w+.*)$", text, flags=re.MULTILINE)
                    found += [f"{name}: {said}" for name, said in items if said.split()[0] in CLIPPED]
    return found


def test_items_are_phrases() -> None:
    """No item leaves out its noun."""
    clipped = {
        path.relative_to(ROOT).as_posix(): items
        for path in sorted(ROOT.rglob("*.py"))
        if (items := clipped_items(path.read_text("utf-8")))
    }
    assert not clipped, f"begin these with a noun, as in 'seed for the order' or 'the device of the batches': {clipped}"


def test_a_clipped_item_is_found() -> None:
    """The check sees a planted item, and only in the sections of arguments."""
    sections = (
        "Args:\n        seed: of the order.\n        n: number of items.\n\n    Returns:\n        x: of all.\n    "
    )
    assert clipped_items(f'def f(seed, n):\n    """Say.\n\n    {sections}"""\n') == ["seed: of the order."]


def test_the_package_speaks_of_every_name() -> None:
    """The overview at the top of `help(autoprune)` leaves no public name out."""
    left_out = set(autoprune.__all__) - {"__version__"} - set(re.findall(r"`(\w+)`", autoprune.__doc__ or ""))
    assert not left_out, f"say in the docstring of autoprune/__init__.py what these are for: {sorted(left_out)}"
