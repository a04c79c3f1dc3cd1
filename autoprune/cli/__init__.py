"""The command line: `autoprune demo | doctor | plan | search | compare | report | export | show | list`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; Ctrl-C while it is still being loaded ends it with one line, too."""
    try:
        from autoprune.cli.app import app
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before anything was done\n")
        sys.exit(130)
    app()
