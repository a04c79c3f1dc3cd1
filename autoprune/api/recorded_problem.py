"""Whether a run's folder and a problem belong together: to build and report, to write into it, to measure more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from autoprune.api.problem import Problem
from autoprune.core.objectives import Objectives
from autoprune.core.space import SearchSpace
from autoprune.errors import InvalidArgumentError, StoreError
from autoprune.latency.table import LatencyTable
from autoprune.store.identity import Identity, metrics_evidence
from autoprune.store.ledger import Ledger
from autoprune.store.meta import RunMeta
from autoprune.store.record import RunRecord
from autoprune.store.run import LEDGER

BEFORE = "which did not record what the model did"
"""What is said of runs that have no identity."""


def check_problem(problem: Any) -> None:
    """Refuse what is no problem, such as the model alone."""
    if not isinstance(problem, Problem):
        msg = f"expected a problem, such as ap.Problem(model, data=data), got {type(problem).__name__}"
        raise InvalidArgumentError(msg)


def as_recorded(problem: Problem, meta: Mapping[str, Any]) -> Problem:
    """Return the problem with what a run was searched with where the problem leaves that open.

    The evaluator and the criterion where the problem chose none, so that runs go on that were started under other
    defaults. And the latency table: one is measured, so that of another day has other digits; the run's own makes its
    figures comparable.

    Raises:
        StoreError: the problem asks for the latency of another batch size, device, ..., or for none.
    """
    problem = problem.measured_as(RunMeta.from_json(meta).settings)
    if not meta.get("latency"):
        return problem
    table = LatencyTable.from_json(meta["latency"])
    asked = None if problem.latency is None else problem.latency.conditions
    if asked != table.conditions:
        msg = f"the run predicted latency for {dict(table.conditions)}, and the problem asks for {asked}"
        raise StoreError(msg)
    return problem.with_latency(table)


def as_recorded_in(folder: Path, problem: Problem) -> Problem:
    """Return the problem as `as_recorded` does for the run in a folder; where there is none, as it is.

    Raises:
        StoreError: the run's files cannot be used, or see `as_recorded`.
    """
    meta = _recorded_meta(folder)
    return problem if meta is None else as_recorded(problem, meta)


def recorded_table(folder: Path) -> LatencyTable | None:
    """Return the latency table that the run in a folder was searched with; None where there is no run, or no table.

    Raises:
        StoreError: the run's files cannot be used.
    """
    meta = _recorded_meta(folder)
    return LatencyTable.from_json(meta["latency"]) if meta and meta.get("latency") else None


def _recorded_meta(folder: Path) -> Mapping[str, Any] | None:
    """Return what the run in a folder says of itself; None where there is no run."""
    if not (folder / LEDGER).exists():
        return None
    with closing(Ledger(folder / LEDGER, readonly=True)) as ledger:
        return ledger.meta


def check_readable(record: RunRecord, problem: Problem) -> None:
    """Refuse to build the points of a run from another problem. Any machine and version of torch will do.

    Raises:
        StoreError: the message names what differs beyond rounding.
    """
    _check_near(record.folder, record.description, problem.behaviour, record)
    check_same_objectives(record.folder, record.meta, problem)


def check_writable(folder: Path, meta: Mapping[str, Any], problem: Problem) -> None:
    """Refuse to put figures of another problem beside those of a run; its metrics are looked at, too.

    Raises:
        StoreError: the message names what differs beyond rounding.
    """
    _check_near(folder, meta, problem.identity)


def check_resumable(folder: Path, meta: Mapping[str, Any], problem: Problem) -> None:
    """Refuse to measure more candidates into a ledger unless they would have the bits that its candidates have.

    Raises:
        StoreError: the message names what differs, and says what still works.
    """
    if meta.get("problem") == problem.identity.fingerprint:
        return
    if not meta.get("identity"):
        _check_near(folder, meta, problem.identity)
        made = meta.get("environment", {}).get("autoprune", "")
        msg = (
            f"the run in {folder} was made by an earlier autoprune {made}, {BEFORE}: reports, export and fine-tuning "
            "work; to measure more candidates, start in a new folder"
        )
        raise StoreError(msg)
    recorded = Identity.from_json(meta["identity"])
    _check_near(folder, meta, problem.identity)
    there, here = problem.identity.other_machine(recorded)
    if there:
        msg = (
            f"the run in {folder} was measured with {there}; here is {here}, whose figures differ in their last "
            "digits: building points, reports, export and fine-tuning work; to measure more candidates, start in a "
            "new folder"
        )
        raise StoreError(msg)
    changed = problem.identity.other_bits(recorded)
    if changed:
        msg = (
            f"the run in {folder} cannot be continued here: {_listed(changed)} differ in the last digits (a slightly "
            "changed model, metric or preprocessing, or a processor or library that rounds differently); start in a "
            "new folder"
        )
        raise StoreError(msg)


def check_same_objectives(folder: Path, recorded: RunMeta, problem: Problem) -> None:
    """Refuse a problem that takes a metric the other way round than a run did.

    Raises:
        StoreError: it does.
    """
    wanted = tuple(map(str, problem.objectives.items))
    if recorded.objectives != wanted:
        msg = (
            f"the run in {folder} optimised {', '.join(recorded.objectives)}, and the problem asks for "
            f"{', '.join(wanted)}; write the objectives as recorded, or search in another folder"
        )
        raise StoreError(msg)


def _check_near(folder: Path, meta: Mapping[str, Any], here: Identity, record: RunRecord | None = None) -> None:
    """Refuse a problem that differs from a recorded one beyond rounding."""
    recorded = Identity.from_json(meta["identity"]) if meta.get("identity") else _before(meta, here, record)
    differences = here.differences(recorded)
    if differences:
        msg = (
            f"the run in {folder} searched another problem: {_listed(differences)} differ; open it with the problem "
            "that was searched, or choose another folder"
        )
        raise StoreError(msg)


def _before(meta: Mapping[str, Any], here: Identity, record: RunRecord | None) -> Identity:
    """Return what a run says that was made before identities were recorded."""
    run = RunMeta.from_json(meta)
    space = SearchSpace.from_json(run.space)
    decided = {
        "the search space": space.fingerprint,
        "the objectives": json.dumps(list(Objectives.parse(run.objectives).names)),
        "the limits": json.dumps(sorted(run.limits.items())),
        "the criterion": str(run.settings.get("criterion")),
        "the evaluator": str(run.settings.get("evaluator")),
    }
    if record is not None and here.decided["the weights"] not in record.weights:
        decided["the weights"] = "others"
    metrics = metrics_evidence(run.dense.metrics.get(run.role_of(run.fidelity), {}), run.images.get("proxy", 1))
    return Identity(decided, {}, {"the metrics": metrics})


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if names[:-1] else "") + names[-1]
