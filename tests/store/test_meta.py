"""The description of a run."""

from __future__ import annotations

import json

import pytest

from autoprune.core.budget import Budget, Spending
from autoprune.errors import StoreError
from autoprune.store.meta import Dense, Role, RunMeta


def make_meta() -> RunMeta:
    """A description with every field of its own kind."""
    return RunMeta(
        name="<b>digits</b>",
        model="ResNet",
        strategy="random",
        seed=3,
        objectives=("max:accuracy", "min:macs"),
        limits={"macs": 500},
        budget=Budget(evaluations=10),
        space={"schema": 1},
        dense=Dense({"macs": 1000}, {"test": {"accuracy": 0.9}}),
        reference={"accuracy": 0.0, "macs": 1000},
        prior=Spending(5, 0, 0.5),
        roles={"proxy": "proxy", "full": "val"},
    )


def test_meta_round_trip() -> None:
    """The description survives JSON; keys that it does not know do not disturb it."""
    meta = make_meta()
    assert RunMeta.from_json({**json.loads(json.dumps(meta.to_json())), "problem": "f00"}) == meta


def test_role_of_a_fidelity() -> None:
    """A fidelity has the role that the run gave it, proxy by default."""
    meta = make_meta()
    assert [meta.role_of(name) for name in ("full", "proxy", "short")] == [Role.VALIDATION, Role.PROXY, Role.PROXY]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "schema 1, got 99"),
        ({"budget": {"macs": None}}, "malformed"),
        ({"roles": {"proxy": "training"}}, "'training'"),
    ],
)
def test_meta_of_another_kind_is_refused(change: dict[str, object], message: str) -> None:
    """Another schema version, a broken budget or an unknown role is a StoreError that shows it."""
    with pytest.raises(StoreError, match=message):
        RunMeta.from_json({**make_meta().to_json(), **change})
