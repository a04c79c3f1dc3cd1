"""What is better than what, in numpy: dominance, hypervolume, fronts, selection, attainment; everything minimized."""
