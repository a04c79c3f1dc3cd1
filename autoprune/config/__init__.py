"""Problem files: TOML in, checked tables out, and what they describe built."""

from autoprune.config.reading import ProblemFile, describe_spaces, find_problem_file, read_problem_file, space_names

__all__ = ["ProblemFile", "describe_spaces", "find_problem_file", "read_problem_file", "space_names"]
