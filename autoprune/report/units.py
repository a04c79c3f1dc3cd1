"""Figures for human eyes: SI prefixes for counts, percent for rates, points for differences."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping

from autoprune.core.objectives import Objectives

NAMES = {
    "macs": "MACs",
    "params": "parameters",
    "peak_bytes": "peak memory",
    "latency": "predicted latency",
    "accuracy": "accuracy",
}
"""Figures whose name in words differs from their name in code."""

PREFIXES = ("", "k", "M", "G", "T", "P", "E")
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


def title(name: str) -> str:
    """Return the figure's name in words.

    >>> title("peak_bytes")
    'peak memory'
    >>> title("val_loss")
    'val loss'
    """
    return NAMES.get(name, name.replace("_", " "))


def count(value: float, *, digits: int = 3) -> str:
    """Return ``value`` with an SI prefix and ``digits`` significant digits.

    >>> count(40_560_000), count(999), count(1_000), count(2.04e12), count(0)
    ('40.6 M', '999', '1.00 k', '2.04 T', '0')
    """
    step = 0
    while step < len(PREFIXES) - 1 and abs(float(f"{value:.{digits}g}")) >= 1000:
        value /= 1000
        step += 1
    if step == 0:
        return f"{value:.{digits}g}"
    return f"{value:#.{digits}g}".rstrip(".") + f" {PREFIXES[step]}"


def amount(name: str, value: float, rates: Container[str] = ()) -> str:
    """Return the figure called ``name``: a rate in percent, bytes in kB, nanoseconds in ms, a count with an SI prefix.

    Args:
        name: metric or cost name.
        value: the figure.
        rates: names of metrics that are shares of 1, such as `RunMeta.rates`; any other metric is a plain number.

    >>> amount("accuracy", 0.9173, {"accuracy"}), amount("macs", 40_560_000), amount("peak_bytes", 131072)
    ('91.73 %', '40.6 M', '131 kB')
    >>> amount("latency", 2_340_000)
    '2.34 ms'
    >>> amount("accuracy", 93.25), amount("loss", 0.25)
    ('93.25', '0.25')
    """
    if name in rates:
        return f"{100 * value:.2f} %"
    if name == "peak_bytes":
        return f"{count(value)}B" if value >= 1000 else f"{value:.0f} B"
    if name == "latency":
        return f"{value / 1e6:.3g} ms"
    if name in ("macs", "params"):
        return count(value)
    return f"{value:.4g}"


def percent(ratio: float) -> str:
    """Return a ratio in percent.

    >>> percent(0.496), percent(0.0123), percent(1)
    ('49.6 %', '1.2 %', '100 %')
    """
    return "100 %" if ratio == 1 else f"{100 * ratio:.1f} %"


def difference(name: str, value: float, rates: Container[str] = ()) -> str:
    """Return a signed difference of the figure called ``name``: percentage points for a rate.

    >>> difference("f1", -0.0041, {"f1"}), difference("f1", 0.0002, {"f1"}), difference("loss", 0.1)
    ('\N{MINUS SIGN}0.4 points', '\N{PLUS-MINUS SIGN}0.0 points', '+0.1')
    """
    text = f"{100 * value:+.1f} points" if name in rates else f"{value:+.3g}"
    if not any(digit in text for digit in "123456789"):
        return f"{PLUS_MINUS}{text[1:]}"
    return text.replace("-", MINUS)


def duration(seconds: float) -> str:
    """Return a time span in its two largest units.

    >>> duration(0.25), duration(59.6), duration(125), duration(7300), duration(200_000)
    ('0.2 s', '60 s', '2 min 5 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    for size, big, small_size, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {big} {whole % size // small_size} {small}"
    return f"{whole} s"


def standard_error(rate: float, n: int) -> str:
    """Return the standard error of a ``rate`` measured on ``n`` independent images, in points.

    >>> standard_error(0.9, 2000)
    '0.67 points'
    """
    return f"{100 * math.sqrt(rate * (1 - rate) / n):.2f} points"


def image_counts(images: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the number of images by use, in words; says which search-validation images are meant where it was kept."""
    halves = {"steer": "search-validation images that steer", "proxy": "search-validation images that score"}
    names = halves if "steer" in images else {}
    return [(names.get(use, f"{use} images"), f"{n:,}") for use, n in images.items()]


def directions(objectives: Objectives) -> str:
    """Return what is wanted of every objective, in words.

    >>> directions(Objectives.parse(("accuracy", "macs")))
    'most accuracy, least MACs'
    """
    return ", ".join(f"{'most' if item.maximize else 'least'} {title(item.name)}" for item in objectives.items)
