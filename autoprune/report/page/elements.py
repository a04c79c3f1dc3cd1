"""The pieces that every part of the page is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape


def prose(text: str) -> str:
    """Return ``text`` as HTML in which a number and its percent sign stay on one line."""
    return escape(text).replace(" %", "&nbsp;%")


def section(title: str, body: str) -> str:
    """Return a section with a heading around ``body``, which is HTML."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>\n"


def note(text: str) -> str:
    """Return a quiet paragraph."""
    return f'<p class="note">{prose(text)}</p>'


def pairs(rows: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    """Return a table of names and values."""
    items = rows.items() if isinstance(rows, Mapping) else rows
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in items)
    return f'<table class="pairs"><tbody>{body}</tbody></table>'


def table(heads: Sequence[str], rows: Sequence[str]) -> str:
    """Return a table that scrolls: headings as text, rows as HTML."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "\n".join(rows)
    inner = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="scroll" tabindex="0"><table>{inner}</table></div>'


def folded(title: str, body: str) -> str:
    """Return ``body``, which is HTML, folded away under ``title``."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def plot(name: str, caption: str, height: int, *, still: str = "") -> str:
    """Return the place of a figure with its caption.

    Args:
        name: its id, and the figure's name.
        caption: text.
        height: pixels.
        still: HTML to show where scripts do not run.
    """
    text = prose(caption)
    place = f'<div class="plot" id="{escape(name)}" role="img" aria-label="{text}" style="min-height:{height}px">'
    return f"<figure><figcaption>{text}</figcaption>{place}{still}</div></figure>"
