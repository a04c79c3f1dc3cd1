"""Counted and measured costs of pruned models."""
