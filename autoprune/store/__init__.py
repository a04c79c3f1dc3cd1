"""Durability: one folder a run, with a ledger of everything that happened, and a cache of evaluations beside it."""
