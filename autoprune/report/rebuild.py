"""How the reader gets a point back as a model: one shell command, one line of Python."""

from __future__ import annotations

import shlex


def rebuild_command(folder: str, point: int) -> str:
    """Return the shell command that writes the model of job ``point``, for a run whose folder names its problem.

    >>> rebuild_command("runs/r 56", 17)
    "autoprune export 'runs/r 56' --point 17"
    """
    return f"autoprune export {shlex.quote(folder)} --point {point}"


def rebuild_python(folder: str, point: int) -> str:
    """Return the Python expression that builds the model of job ``point``, given the ``problem`` that was searched.

    >>> rebuild_python("runs/r56", 17)
    "ap.open_run('runs/r56', problem).point(17).build()"
    """
    return f"ap.open_run({folder!r}, problem).point({point}).build()"
