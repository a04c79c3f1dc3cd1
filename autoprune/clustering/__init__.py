"""Channels that do the same: what is observed of them, distances between them, clusters and orders."""
