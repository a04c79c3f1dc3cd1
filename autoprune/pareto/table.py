"""Tables as users get them: data frames that print whole. Only loaded where a table is asked for, since pandas is."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pandas as pd


class Table(pd.DataFrame):
    """A data frame that prints every row and column: what is wider than the terminal goes on below, without dots."""

    @property
    def _constructor(self) -> Callable[..., Table]:
        """Make what comes out of pandas' own methods, such as a choice of columns, a table as well."""
        return Table

    def __repr__(self) -> str:
        """Return all of it as text."""
        whole = ("display.max_columns", None, "display.max_rows", None, "display.max_colwidth", None)
        columns = shutil.get_terminal_size().columns  # 80 where there is no terminal
        with pd.option_context(*whole, "display.width", columns, "display.expand_frame_repr", True):
            return super().__repr__()
