"""One self-contained HTML file: it opens from a disk, and by its own content security policy asks no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from autoprune.report import _plotly
from autoprune.report.figures.layout import Figure
from autoprune.report.page.finetuned import finetuned
from autoprune.report.page.overview import overview
from autoprune.report.page.pictures import Pictures
from autoprune.report.page.points_table import points
from autoprune.report.page.records import closing, history, settings
from autoprune.report.summary import RunSummary

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def render(summary: RunSummary, *, files: Sequence[str] = ()) -> str:
    """Return the report as one HTML document.

    Args:
        summary: what to say.
        files: names of the files written beside it.
    """
    pictures = Pictures(summary)
    body = [
        overview(summary),
        pictures.front(),
        pictures.convergence(),
        pictures.keep_ratios(),
        pictures.parallel(),
        pictures.latency(),
        points(summary),
        finetuned(summary),
        settings(summary),
        history(summary),
        closing(summary, files),
    ]
    return document(f"{summary.meta.name}: autoprune report", body, pictures.figures)


def document(title: str, body: Sequence[str], figures: Mapping[str, Figure]) -> str:
    """Return a page of our style, complete in itself.

    Args:
        title: of the window.
        body: HTML.
        figures: plotly's, by the id of their place in ``body``.
    """
    library = _plotly.packed_library() if figures else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>
{_resource("style.css")}</style>
</head>
<body>
{"".join(body)}
<script type="application/json" id="figures">{script_json(figures)}</script>
<script type="text/plain" id="plotly">{library}</script>
<script>
{_resource("script.js")}</script>
</body>
</html>
"""


def script_json(data: Any) -> str:
    r"""Return ``data`` as JSON that cannot end the script element it stands in.

    >>> script_json("</script>")
    '"\\u003c/script\\u003e"'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _resource(name: str) -> str:
    return resources.files("autoprune.report.page").joinpath(name).read_text(encoding="utf-8")
