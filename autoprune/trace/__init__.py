"""Identity tracing: which channels of a model must be cut together, found by running it once on ids."""

from autoprune.trace.tracer import trace, trace_space
from autoprune.trace.unwrap import unwrap

__all__ = ["trace", "trace_space", "unwrap"]
