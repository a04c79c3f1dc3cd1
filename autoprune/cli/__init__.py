"""The command line: `autoprune demo | doctor | plan | search | report | export | show | list`."""

from autoprune.cli.app import main

__all__ = ["main"]
