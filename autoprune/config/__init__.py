"""Problem files: TOML in, checked tables out, and what they describe built."""

from autoprune.config.reading import ProblemFile, describe_spaces, find_problem_file, read_problem_file, space_names
from autoprune.config.record import record_problem, recorded_problem

__all__ = [
    "ProblemFile",
    "describe_spaces",
    "find_problem_file",
    "read_problem_file",
    "record_problem",
    "recorded_problem",
    "space_names",
]
