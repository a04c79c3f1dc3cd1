"""Latency of a node that is named: measured once there, it costs candidates that run anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import autoprune as ap
from autoprune.errors import AutopruneWarning, ExecutorError, InvalidArgumentError
from autoprune.execute.ray.target import run_on
from autoprune.execute.settings import RaySettings
from autoprune.testing.digits_network import digits_network

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

QUICK = {"seconds": 0.1, "candidates": 16, "checks": 10, "batch_size": 8}
NODE = "node:127.0.0.1"
"""A resource that Ray gives every node."""


def process() -> int:
    """Return the process that calls it."""
    import os

    return os.getpid()


def test_a_search_by_the_times_of_a_node(tmp_path: Path) -> None:
    """The table is made on the node, workers and driver cost by it alike, and finalists are timed there as well."""
    problem = ap.Problem(
        digits_network(),
        data=ap.load_data("digits"),
        objectives=("accuracy", "latency"),
        latency={**QUICK, "target": NODE},
    )
    assert problem.latency is not None
    assert problem.latency.conditions["target"] == NODE
    assert run_on(NODE, process) != process()
    here, there = (
        ap.search(problem, "random", 6, executor=executor, store=tmp_path / name / "run")
        for name, executor in (("here", None), ("there", RaySettings(workers=1)))
    )
    assert [o.identity() for o in here.outcomes] == [o.identity() for o in there.outcomes]
    widths = problem.space.widths(torch.tensor([o.genome for o in there.outcomes]).numpy())
    predicted = (1e9 * problem.latency.seconds(widths)).round().astype(int).tolist()
    assert [o.costs["latency"] for o in there.outcomes] == predicted
    [record] = there.record.records("latency")
    assert record["conditions"] == problem.latency.conditions
    assert NODE in record["setting"]
    assert there.front.table()["latency_ms_measured"].notna().any()


@pytest.mark.parametrize("target", ["edge", "kind=edge"])
def test_a_target_that_is_not_there(target: str) -> None:
    """The message names what the cluster has; what was timed there once is timed here, and that is said."""
    problem = ap.Problem(digits_network(), data=ap.load_data("digits"), latency=QUICK)
    with pytest.raises(ExecutorError, match=r"node:127\.0\.0\.1"):
        ap.Problem(problem.model, data=problem.data, latency={**QUICK, "target": target})
    assert problem.latency is not None
    moved = ap.LatencyTable.from_json(
        {**problem.latency.to_json(), "conditions": {**problem.latency.conditions, "target": target}}
    )
    with pytest.warns(AutopruneWarning, match="timed on this machine"):
        run = ap.search(problem.with_latency(moved), "random", 1)
    assert "latency_ms_measured" not in run.front.table()


def test_errors_travel() -> None:
    """What is wrong there is said here, as if it had been measured here."""
    with pytest.raises(InvalidArgumentError, match="latency is measured on a device"):
        ap.Problem(digits_network(), data=ap.load_data("digits"), latency={**QUICK, "target": NODE, "device": "meta"})
