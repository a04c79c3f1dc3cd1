"""Strategies side by side at one counted cost: who runs, from which seeds, and what the figures allow one to say.

`plan` names the runs of a comparison, `statistics` holds the rules for a handful of seeds, `summarize` computes every
figure of a `summary.ComparisonSummary` from finished runs. Nothing here measures or draws.
"""
