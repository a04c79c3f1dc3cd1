"""Search-based pruning: a trained model, data and a budget in; a Pareto front of smaller models out."""
