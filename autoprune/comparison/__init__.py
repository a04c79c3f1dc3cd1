"""Strategies side by side at one counted cost: who runs, what the figures of a few seeds allow one to say, the report.

`plan` names the runs of a comparison, `statistics` holds the rules for a handful of seeds, `summarize` computes every
figure of a `summary.ComparisonSummary` from finished runs; `tables` makes pandas tables of it, `page` one HTML file
with the pictures of `figures` and `fronts`.
"""
