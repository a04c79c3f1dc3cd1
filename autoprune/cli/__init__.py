"""The command line: `autoprune demo | doctor | plan | search | compare | report | export | show | list`."""

from autoprune.cli.app import main

__all__ = ["main"]
