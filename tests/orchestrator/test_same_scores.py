"""The alarm for scores that tell networks no longer apart."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest

from autoprune.core.jobs import Candidate, Evaluate, Evaluation, Job, Status, WeightSet
from autoprune.errors import AutopruneWarning
from autoprune.orchestrator import SearchResult
from autoprune.orchestrator.progress import MIN_NETWORKS, SameScores
from autoprune.store.ledger import EventKind
from autoprune.store.run import RunStore
from autoprune.testing.search_toys import ToyRunner


def outcome(i: int, genome: int, *, accuracy: float = 0.1, loss: float = 2.3) -> Evaluation:
    """Return the outcome of one candidate."""
    job = Evaluate(i, Candidate((genome,), WeightSet("weights", "order")))
    return Evaluation(job, Status.OK, {"accuracy": accuracy, "loss": loss})


class Blind(ToyRunner):
    """Gives every network the same accuracy."""

    def __call__(self, job: Job) -> Evaluation:
        return replace(super().__call__(job), metrics={"accuracy": 0.1})


def test_it_rings_once_and_names_the_figures() -> None:
    """With the smallest number of different networks that share their figures, and never again."""
    alarm = SameScores()
    heard = [alarm.hear(outcome(i, i)) for i in range(3 * MIN_NETWORKS)]
    assert [i for i, text in enumerate(heard) if text] == [MIN_NETWORKS - 1]
    assert "12 of 12 different networks" in heard[MIN_NETWORKS - 1]
    assert "accuracy=0.1, loss=2.3" in heard[MIN_NETWORKS - 1]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda i: outcome(i, i, loss=2.3 + i), id="another metric differs"),
        pytest.param(lambda i: outcome(i, i % 3), id="few networks again and again"),
        pytest.param(lambda i: outcome(i, i, accuracy=i % 3 / 10), id="a third are alike"),
        pytest.param(lambda i: replace(outcome(i, i), status=Status.FAILED), id="failures"),
    ],
)
def test_it_keeps_quiet_where_networks_differ(make: Callable[[int], Evaluation]) -> None:
    """Equal networks have equal figures, ties happen, and failures have none."""
    alarm = SameScores()
    assert not any(alarm.hear(make(i)) for i in range(40))


def test_a_search_warns_and_its_ledger_remembers(
    search: Callable[..., SearchResult], read: Callable[..., RunStore]
) -> None:
    """One warning, one event; a run that goes on does not repeat them, a sound search has none."""
    with pytest.warns(AutopruneWarning, match="different networks have exactly the same figures"):
        search("blind", runner=Blind(), budget=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search("blind", runner=Blind(), budget=30)
        search("sound", budget=30)
    rung = {name: [e for e in read(name).events if e.kind is EventKind.WARNING] for name in ("blind", "sound")}
    assert len(rung["blind"]) == 1
    assert "accuracy=0.1" in rung["blind"][0].text
    assert not rung["sound"]
