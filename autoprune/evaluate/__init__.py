"""Candidates in, metrics out: inherited weights, short training, and the runner of jobs."""
