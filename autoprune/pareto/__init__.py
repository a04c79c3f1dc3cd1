"""Pareto fronts in numpy: dominance, hypervolume, selection, attainment; everything is minimised."""
