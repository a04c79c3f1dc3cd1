"""Jobs on a Ray cluster; with `autoprune.finetuning` the only place that knows Ray."""
