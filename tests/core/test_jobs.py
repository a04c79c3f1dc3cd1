import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from autoprune.core.budget import Spending
from autoprune.core.jobs import (
    Candidate,
    Evaluate,
    Evaluation,
    Outcome,
    Preparation,
    Prepare,
    Status,
    WeightSet,
    failed,
    job_from_json,
    outcome_from_json,
    outcome_to_json,
)
from autoprune.errors import InvalidArgumentError

WEIGHTS = WeightSet("w" * 64, "o" * 64)


def evaluated() -> Evaluation:
    """Return an evaluation with every field set."""
    job = Evaluate(3, Candidate((1, 0, 7), WEIGHTS), "short", seed=5)
    spent = Spending(10**15 + 1, 1, 0.25)
    return Evaluation(job, Status.OK, {"accuracy": 1 / 3}, {"macs": 2**60}, "", spent, True, "host:1", 1e9)


def prepared() -> Preparation:
    """Return what a recipe made."""
    job = Prepare(4, "dais", {"epochs": 3, "limits": {"macs": 0.5}}, WEIGHTS, seed=1)
    return Preparation(job, Status.OK, {"loss": 0.1}, weight_set=WeightSet("a" * 64, "b" * 64), found_genome=(0, 1))


def broken() -> Outcome:
    """Return a preparation that failed."""
    return failed(Prepare(9, "dais", {}, WEIGHTS), "ValueError: näh")


def unmeasured() -> Outcome:
    """Return an evaluation that failed."""
    return failed(evaluated().job, "out of memory", Spending(5, 1))


MADE = (evaluated, prepared, broken, unmeasured)

SCHEMA_2 = (
    '{"cached":true,"costs":{"macs":7},"genome":null,"job":{"fidelity":"short","genome":[1,0,7],"id":3,"seed":5,'
    '"type":"evaluate","weight_set":["w","o"]},"message":"","metrics":{"accuracy":0.5},"spent":[9,1,0.25],'
    '"started":2.0,"status":"ok","weight_set":null,"worker":"host:1"}',
    '{"cached":false,"costs":{},"genome":[0,1],"job":{"id":4,"parent":["w","o"],"recipe":"dais","seed":1,"settings":'
    '{"epochs":3},"type":"prepare"},"message":"","metrics":{"loss":0.1},"spent":[9,0,0.25],"started":2.0,'
    '"status":"ok","weight_set":["a","b"],"worker":"host:1"}',
)
"""What was written before evaluations and preparations were told apart."""


@pytest.mark.parametrize("make", MADE)
def test_outcomes_survive_json_exactly(make: Callable[[], Outcome]) -> None:
    """An outcome read back from JSON text equals the one written, floats and large integers included."""
    outcome = make()
    assert outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome))), outcome.job) == outcome


@pytest.mark.parametrize("text", SCHEMA_2)
def test_outcomes_of_schema_2_are_read(text: str) -> None:
    """Every field arrives where it belongs now."""
    job = job_from_json(json.loads(text)["job"])
    spent, stamp = Spending(9, job.id == 3, 0.25), {"worker": "host:1", "started": 2.0}
    expected = (
        Evaluation(job, Status.OK, {"accuracy": 0.5}, {"macs": 7}, spent=spent, cached=True, **stamp)
        if isinstance(job, Evaluate)
        else Preparation(
            job, Status.OK, {"loss": 0.1}, spent=spent, weight_set=WeightSet("a", "b"), found_genome=(0, 1), **stamp
        )
    )
    assert outcome_from_json(json.loads(text), job) == expected


def test_malformed_outcomes_are_refused() -> None:
    """A missing field, a status that does not exist, and the outcome of another kind of job are our errors."""
    for outcome in (evaluated(), prepared()):
        data = outcome_to_json(outcome)
        with pytest.raises(InvalidArgumentError, match="JSON of an outcome"):
            outcome_from_json({**data, "status": "maybe"}, outcome.job)
        with pytest.raises(InvalidArgumentError, match="JSON of an outcome"):
            outcome_from_json(data, prepared().job if outcome.job.id == 3 else evaluated().job)
        del data["spent"]
        with pytest.raises(InvalidArgumentError, match="spent"):
            outcome_from_json(data, outcome.job)


@pytest.mark.parametrize("make", [Evaluation, Preparation])
def test_figures_that_are_no_numbers_are_refused(make: type[Evaluation | Preparation]) -> None:
    """A metric must be finite, of whichever job."""
    job = evaluated().job if make is Evaluation else prepared().job
    with pytest.raises(InvalidArgumentError, match="'loss' of job"):
        make(job, Status.OK, {"loss": float("inf")})  # type: ignore[arg-type]


def test_a_preparation_that_failed_or_found_no_genome_has_no_candidate() -> None:
    """`found` pairs the genome with the weights that were made, or is None."""
    made = prepared()
    assert made.found == Candidate((0, 1), WeightSet("a" * 64, "b" * 64))
    assert replace(made, found_genome=None).found is None
    assert replace(made, status=Status.FAILED).found is None


def test_identity_forgets_only_who_and_when() -> None:
    """Outcomes that differ in worker and times have one identity; any other difference shows."""
    outcome = evaluated()
    elsewhere = replace(outcome, worker="other", started=2.0, spent=replace(outcome.spent, seconds=9.0))
    assert elsewhere.identity() == outcome.identity()
    assert replace(outcome, metrics={"accuracy": 0.5}).identity() != outcome.identity()
    assert replace(outcome, spent=Spending(1, 1)).identity() != outcome.identity()
