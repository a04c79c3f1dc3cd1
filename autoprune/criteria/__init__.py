"""Criteria: how much each channel of a group matters, higher stays longer. One file each, listed in `registry`."""
