import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
)
from autoprune.core.objectives import Objectives
from autoprune.errors import InfeasibleError, InvalidArgumentError, UnknownNameError
from autoprune.pareto.front import Front
from autoprune.pareto.hypervolume import ReferenceBox

WEIGHTS = WeightSet("w" * 64, "o" * 64)


def objectives() -> Objectives:
    """Return accuracy, maximized, and macs."""
    return Objectives.parse(("accuracy", "macs"))


def measured(job_id: int, accuracy: float, macs: int, fidelity: str = "proxy") -> Evaluation:
    """Return a successful evaluation."""
    job = Evaluate(job_id, Candidate((job_id,), WEIGHTS), fidelity)
    return Evaluation(job, Status.OK, {"accuracy": accuracy}, {"macs": macs, "params": 2 * macs})


def outcomes() -> list[Outcome]:
    """Five points; number 2 is dominated, number 4 equals number 1, and two jobs gave no point."""
    broken = failed(Evaluate(5, Candidate((5,), WEIGHTS)), "boom")
    prepared = Preparation(Prepare(6, "dais", {}, WEIGHTS), Status.OK, weight_set=WEIGHTS)
    return [
        measured(3, 0.95, 400),
        measured(0, 0.5, 100),
        measured(1, 0.9, 200),
        measured(2, 0.85, 300),
        measured(4, 0.9, 200),
        broken,
        prepared,
    ]


def test_front_has_the_non_dominated_evaluations_once_cheapest_first() -> None:
    """Dominated, failed and preparing jobs are left out; of equal points the first found stays."""
    front = Front.of(outcomes(), objectives())
    assert [outcome.job.id for outcome in front] == [0, 1, 3]
    np.testing.assert_array_equal(front.values, [[-0.5, 100], [-0.9, 200], [-0.95, 400]])


def test_front_of_nothing_is_empty() -> None:
    """A run in which everything failed has an empty front, and picking says so."""
    front = Front.of([], objectives())
    assert len(front) == 0
    assert front.values.shape == (0, 2)
    with pytest.raises(InvalidArgumentError, match="empty front"):
        front.pick(at_most={"macs": 100})


@pytest.mark.parametrize(
    ("limits", "job_id"),
    [
        ({"at_most": {"macs": 399.0}}, 1),
        ({"at_most": {"macs": 400.0}}, 3),  # inclusive
        ({"at_most": {"params": 200.0}}, 0),
        ({"at_most": {"macs": 400.0, "params": 500.0}}, 1),
        ({"at_least": {"accuracy": 0.9}}, 1),  # inclusive, and the cheapest that is good enough
        ({"at_least": {"accuracy": 0.1}}, 0),
        ({"at_most": {"accuracy": 0.92}}, 0),  # a metric alone: the cheapest
        ({"at_most": {"macs": 400.0}, "at_least": {"accuracy": 0.6}}, 3),
        ({}, 1),  # the knee
    ],
)
def test_pick_is_the_best_point_within_the_limits(limits: dict[str, dict[str, float]], job_id: int) -> None:
    """Most accurate under a cost limit, cheapest above an accuracy, the knee without either."""
    assert Front.of(outcomes(), objectives()).pick(**limits).job.id == job_id


def test_pick_out_of_reach_says_how_near_the_front_comes() -> None:
    """The message has the best reachable figure and the limit."""
    with pytest.raises(InfeasibleError, match=r"smallest macs 100 \(limit 50\).*largest accuracy 0.95 \(limit 0.99\)"):
        Front.of(outcomes(), objectives()).pick(at_most={"macs": 50}, at_least={"accuracy": 0.99})


def test_nearest_works_in_the_natural_direction() -> None:
    """Accuracy is maximized, so its stored sign is turned; users never see that."""
    front = Front.of(outcomes(), objectives())
    assert front.nearest("accuracy", 0.92).job.id == 1
    assert front.nearest("macs", 320).job.id == 3
    with pytest.raises(UnknownNameError, match="did you mean 'macs'"):
        front.nearest("mac", 320)


def test_knee_is_the_corner_of_an_l_shaped_front() -> None:
    """Scaled to 0..1, the corner has the smallest sum of objectives."""
    points = [measured(0, 0.1, 1000), measured(1, 0.89, 1100), measured(2, 0.9, 9000)]
    assert Front.of(points, objectives()).knee().job.id == 1


def test_fidelities_are_never_mixed_silently() -> None:
    """A figure of a short training is not comparable with an inherited one."""
    mixed = [measured(0, 0.5, 100), measured(1, 0.9, 100, "short")]
    with pytest.raises(InvalidArgumentError, match="proxy, short"):
        Front.of(mixed, objectives())
    assert [o.job.id for o in Front.of(mixed, objectives(), fidelity="proxy")] == [0]


@dataclass(frozen=True)
class Shown:
    """An evaluation that can stand in a table."""

    outcome: Outcome

    @property
    def metrics(self) -> Mapping[str, float]:
        return self.outcome.metrics

    @property
    def costs(self) -> Mapping[str, int]:
        return self.outcome.costs

    @property
    def genome(self) -> tuple[int, ...]:
        return self.outcome.job.candidate.genome

    def row(self) -> dict[str, Any]:
        return {"id": self.outcome.job.id, **self.metrics, **self.costs}


def test_a_front_of_other_things_is_the_same_front(tmp_path: Path) -> None:
    """Order, values, table and files are of what the points were made into; an empty table has the columns it can."""
    front = Front.of(outcomes(), objectives())
    shown = front.map(Shown)
    assert [point.outcome for point in shown] == list(front)
    assert shown.values is front.values
    table = shown.table()
    assert table.index.tolist() == [0, 1, 3]
    assert table["accuracy"].tolist() == [0.5, 0.9, 0.95]
    shown.to_json(tmp_path / "front.json")
    rows = json.loads((tmp_path / "front.json").read_text())
    assert rows[0] == {"id": 0, "accuracy": 0.5, "macs": 100, "params": 200, "genome": [0]}
    shown.to_csv(tmp_path / "front.csv")
    assert (tmp_path / "front.csv").read_text().startswith("id,accuracy,macs,params")
    assert Front.of([], objectives()).map(Shown).table().empty


def test_a_front_is_a_sequence_cheapest_first() -> None:
    """Whatever the order of its jobs: places, slices and loops go by cost, or by the last objective without one."""
    turned = [
        measured(9 - i, accuracy, macs) for i, (accuracy, macs) in enumerate(((0.5, 100), (0.9, 200), (0.95, 400)))
    ]
    front = Front.of(turned, objectives())
    assert [front[i].costs["macs"] for i in range(len(front))] == [100, 200, 400] == [o.costs["macs"] for o in front]
    assert front[-1] is front.points[2]
    assert front[:2] == front.points[:2]
    np.testing.assert_array_equal(front.values[:, 1], [100, 200, 400])
    pairs = [replace(measured(i, i / 4, 1), metrics={"iou": 1 - i / 4, "accuracy": i / 4}) for i in (2, 0, 1)]
    by_last = Front.of(pairs, Objectives.parse(("max:iou", "max:accuracy")))
    assert [o.metrics["accuracy"] for o in by_last] == [0.0, 0.25, 0.5]


def test_a_hypervolume_needs_a_reference_point() -> None:
    """With one it is the share of its box; without one an error says so."""
    box = ReferenceBox.of(objectives(), {"accuracy": 0.0, "macs": 400})
    assert Front.of([measured(0, 0.5, 100)], objectives(), box=box).hypervolume == pytest.approx(0.5 * 0.75)
    with pytest.raises(InvalidArgumentError, match="without one"):
        _ = Front.of(outcomes(), objectives()).hypervolume


def test_a_missing_figure_is_an_error_that_names_it() -> None:
    """An evaluation without the objective cannot be compared."""
    with pytest.raises(InvalidArgumentError, match="'macs' was not measured"):
        Front.of([replace(measured(0, 0.5, 1), costs={})], objectives())
