"""The criteria by name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from autoprune.criteria.evidence import Evidence, Scores
from autoprune.errors import unknown_name


class Criterion(Protocol):
    """Scores the channels of every group."""

    def __call__(self, evidence: Evidence) -> Scores:
        """Return per group (w,) finite scores, higher stays longer."""
        ...


@dataclass(frozen=True)
class CriterionInfo:
    """What is known about a criterion without importing it.

    Attributes:
        name: registry key.
        summary: one line.
        factory: ``module:function`` of the `Criterion`.
        paper: where it comes from, "" when it is folklore.
        needs: what it needs besides the weights: ``"batches"``, ``"loss"``.
    """

    name: str
    summary: str
    factory: str
    paper: str = ""
    needs: frozenset[str] = frozenset()

    def load(self) -> Criterion:
        """Import the criterion."""
        module, _, function = self.factory.partition(":")
        return cast(Criterion, getattr(import_module(module), function))


def _info(name: str, summary: str, paper: str = "", needs: tuple[str, ...] = ()) -> CriterionInfo:
    return CriterionInfo(name, summary, f"autoprune.criteria.{name}:score", paper, frozenset(needs))


CRITERIA = {
    info.name: info
    for info in (
        _info("l1", "sum of absolute weights", "Li et al., ICLR 2017"),
        _info("l2", "Euclidean norm of the weights"),
        _info("batchnorm", "absolute scale of the batch norms", "Liu et al., ICCV 2017"),
        _info("fpgm", "distance of the filter to all others (geometric median)", "He et al., CVPR 2019"),
        _info("taylor", "first-order change of the loss", "Molchanov et al., CVPR 2019", ("batches", "loss")),
        _info("random", "no information, for comparison"),
    )
}


def criterion_info(name: str) -> CriterionInfo:
    """Return the criterion called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in CRITERIA:
        raise unknown_name("criterion", name, CRITERIA)
    return CRITERIA[name]
