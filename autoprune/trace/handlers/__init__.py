"""Handlers that follow ids through torch functions: one module per family, each of which registers its handlers."""

from autoprune.trace.handlers import (
    attention,
    contraction,
    elementwise,
    indexing,
    joining,
    movement,
    recurrent,
    reduction,
)
from autoprune.trace.handlers.contraction import PRODUCING
from autoprune.trace.handlers.elementwise import ELEMENTWISE, combine
from autoprune.trace.handlers.factories import FACTORIES, issued, make
from autoprune.trace.handlers.movement import MOVING
from autoprune.trace.handlers.recurrent import RECURRENT
from autoprune.trace.handlers.registry import HANDLERS, Handler, TracedCall, plain_name

__all__ = [
    "ELEMENTWISE",
    "FACTORIES",
    "HANDLERS",
    "MOVING",
    "PRODUCING",
    "RECURRENT",
    "Handler",
    "TracedCall",
    "attention",
    "combine",
    "contraction",
    "elementwise",
    "indexing",
    "issued",
    "joining",
    "make",
    "movement",
    "plain_name",
    "recurrent",
    "reduction",
]
