"""Reports of runs: figures computed from a run's folder, then drawn.

`summarize.summarize` computes a `summary.RunSummary` from a run's store; `tables` makes pandas tables of it, `svg` a
still picture, `run_page` one self-contained HTML file with the pictures of `figures`, from `templates`.
`write.write_report` does all of it.
"""
