"""Problem files: TOML in, checked tables out, and what they describe built."""

from autoprune.config.reading import SPACES, ProblemFile, SpaceInfo, find_problem_file, read_problem_file
from autoprune.config.record import record_problem, recorded_problem

__all__ = [
    "SPACES",
    "ProblemFile",
    "SpaceInfo",
    "find_problem_file",
    "read_problem_file",
    "record_problem",
    "recorded_problem",
]
