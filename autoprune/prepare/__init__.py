"""Recipes: what makes the weights that candidates inherit, by training or by statistics, as a job that can resume."""
