import json
from dataclasses import replace

import pytest

from autoprune.core.budget import Spending
from autoprune.core.jobs import (
    Candidate,
    Evaluate,
    Outcome,
    Prepare,
    Status,
    WeightSet,
    outcome_from_json,
    outcome_to_json,
)
from autoprune.errors import InvalidArgumentError

WEIGHTS = WeightSet("w" * 64, "o" * 64)


def evaluated() -> Outcome:
    """Return an evaluation with every field set."""
    job = Evaluate(3, Candidate((1, 0, 7), WEIGHTS), "short", seed=5)
    spent = Spending(10**15 + 1, 1, 0.25)
    return Outcome(job, Status.OK, {"accuracy": 1 / 3}, {"macs": 2**60}, "", spent, None, None, True, "host:1", 1e9)


def prepared() -> Outcome:
    """Return what a recipe made."""
    job = Prepare(4, "dais", {"epochs": 3, "limits": {"macs": 0.5}}, WEIGHTS, seed=1)
    return Outcome(job, Status.OK, weight_set=WeightSet("a" * 64, "b" * 64), genome=(0, 1))


def failed() -> Outcome:
    """Return a failure."""
    return Outcome(Prepare(9, "dais", {}, WEIGHTS), Status.FAILED, message="ValueError: näh")


@pytest.mark.parametrize("make", [evaluated, prepared, failed])
def test_outcomes_survive_json_exactly(make: object) -> None:
    """An outcome read back from JSON text equals the one written, floats and large integers included."""
    outcome = make()  # type: ignore[operator]
    assert outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome)))) == outcome


def test_malformed_outcomes_are_refused() -> None:
    """A missing field and a status that does not exist are errors of the family."""
    data = outcome_to_json(evaluated())
    with pytest.raises(InvalidArgumentError, match="JSON of an outcome"):
        outcome_from_json({**data, "status": "maybe"})
    del data["spent"]
    with pytest.raises(InvalidArgumentError, match="spent"):
        outcome_from_json(data)


def test_identity_forgets_only_who_and_when() -> None:
    """Outcomes that differ in worker and times have one identity; any other difference shows."""
    outcome = evaluated()
    elsewhere = replace(outcome, worker="other", started=2.0, spent=replace(outcome.spent, seconds=9.0))
    assert elsewhere.identity() == outcome.identity()
    assert replace(outcome, metrics={"accuracy": 0.5}).identity() != outcome.identity()
    assert replace(outcome, spent=Spending(1, 1)).identity() != outcome.identity()
