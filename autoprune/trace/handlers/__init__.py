"""Handlers that follow ids through torch functions: one module per family, each of which registers its handlers."""

from autoprune.trace.handlers import contraction, elementwise, indexing, joining, movement, reduction
from autoprune.trace.handlers.elementwise import ELEMENTWISE
from autoprune.trace.handlers.movement import MOVING
from autoprune.trace.handlers.registry import HANDLERS, Handler, TracedCall, plain_name

__all__ = [
    "ELEMENTWISE",
    "HANDLERS",
    "MOVING",
    "Handler",
    "TracedCall",
    "contraction",
    "elementwise",
    "indexing",
    "joining",
    "movement",
    "plain_name",
    "reduction",
]
