"""Strategies side by side with the same compute: the runs, the statistics of a few seeds, the report.

`plan` names the runs of a comparison, `statistics` holds the rules for a handful of seeds, `summarize` computes every
figure of a `summary.ComparisonSummary` from finished runs; `tables` makes pandas tables of it, `page` one HTML file
with the pictures of `figures` and `fronts`.
"""
