"""Pages from templates: one self-contained HTML file each, which by its own content security policy asks no network.

The only module that imports Jinja2 and plotly. Every value that a template prints is escaped (autoescape); the pictures
are plain dictionaries in plotly's documented format. Plotly's Python package ships the full browser library only
(4.8 MB); gzip and base64 make it 2.0 MB, which every browser since 2023 unpacks by itself (``DecompressionStream``).
"""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from autoprune.report import units
from autoprune.report.figures.layout import Figure

if TYPE_CHECKING:
    from plotly import graph_objects

    PlotlyFigure: TypeAlias = graph_objects.Figure

HERE = "autoprune.report"

Cell = tuple[str, str]
"""Of a table: a figure, and a small remark below it."""

MISSING: Cell = ("-", "")


def document(template: str, figures: Mapping[str, Figure], *, package: str = HERE, **values: Any) -> str:
    """Return a page of our style, complete in itself.

    Args:
        template: its name in the folder ``templates`` of ``package``; it extends ``page.html``.
        figures: plotly's, by the id of their place on the page.
        package: package that holds the template.
        values: values that the template prints.
    """
    page = _environment(package).get_template(template)
    return page.render(figures=figures, library=_library() if figures else "", units=units, **values)


def card(title: str, lines: Sequence[str] = (), heads: Sequence[str] = (), rows: Sequence[Sequence[Any]] = ()) -> str:
    """Return a piece of HTML for a notebook, which brings its own style: a title, lines below it, a table.

    Args:
        title: stands above all, in bold.
        lines: paragraphs.
        heads: heads of the table's columns; the first column is aligned to the left.
        rows: cells of the table: texts, or pairs of a text and a small remark.
    """
    pairs = [[cell if isinstance(cell, tuple) else (str(cell), "") for cell in row] for row in rows]
    return _environment(HERE).get_template("card.html").render(title=title, lines=lines, heads=heads, rows=pairs)


def drawn(figure: Figure) -> PlotlyFigure:
    """Return a picture as plotly's own object, which notebooks show; ``write_html`` and ``update_layout`` are its."""
    from plotly import graph_objects  # slow to import, needed for pictures in notebooks only

    return graph_objects.Figure(figure)


def packed(text: str) -> str:
    """Return text as base64 of gzip, which a page's script unpacks; the same for the same text."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def prose(text: str) -> Markup:
    """Return text as HTML without line breaks, in which a number and its percent sign stay on one line.

    >>> prose("a < b:  5 %")
    Markup('a &lt; b: 5&nbsp;%')
    """
    return Markup(re.sub(r"[ \n]+", " ", escape(text)).strip(" ").replace(" %", "&nbsp;%"))


def date(seconds: float) -> str:
    """Return a Unix time as date and time of day.

    >>> date(1_795_000_000)
    '2026-11-18 11:06 UTC'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


@cache
def _library() -> str:
    """Return plotly's library for browsers, packed."""
    from plotly.offline import get_plotlyjs  # slow to import, needed for pages with pictures only

    return packed(get_plotlyjs())


@cache
def _environment(package: str) -> Environment:
    loader = ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, HERE))])
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.filters |= {"prose": prose, "date": date}
    found.globals["source"] = lambda name: Markup(loader.get_source(found, name)[0])
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return found
