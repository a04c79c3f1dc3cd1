"""Identity tracing: which channels of a model must be cut together, found by running it once on ids."""

from autoprune.trace.given_model import unwrap
from autoprune.trace.tracer import AttentionCut, trace, trace_space

__all__ = ["AttentionCut", "trace", "trace_space", "unwrap"]
