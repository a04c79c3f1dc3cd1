"""The evaluation cache: what was measured once is never measured again, by any run or process."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoprune.core.jobs import Evaluate, Evaluation, Status, outcome_from_json, outcome_to_json
from autoprune.errors import AutopruneWarning, StoreError
from autoprune.store.database import Database, FileKind, Table

EVALUATIONS = Table("evaluations", (("key", "TEXT PRIMARY KEY"), ("outcome", "TEXT NOT NULL")), has_rowid=False)

CACHE = FileKind(
    name="evaluation cache",
    application_id=0x41507243,  # "APrC"
    tables=(EVALUATIONS,),
)


class EvaluationCache:
    """Successful evaluations by everything that decides them. Processes may share the file.

    It only saves time, so it never stops anyone: a damaged entry is dropped, and where the file cannot be used a
    warning says so and nothing is remembered.

    Args:
        path: the file; made when it is not there.
        space: fingerprint of the search space.
        evaluator: the evaluator's settings, JSON types; device kind, torch version, threads and batch size included.
        data: fingerprint of the data that evaluations see.
    """

    def __init__(self, path: str | Path, *, space: str, evaluator: Mapping[str, Any], data: str) -> None:
        self.path = Path(path)
        setting = json.dumps([space, dict(evaluator), data], sort_keys=True, allow_nan=False)
        self._setting = hashlib.sha256(setting.encode()).hexdigest()
        self._database: Database | None = None
        try:
            if not self.path.exists():
                Database.create(self.path, CACHE)
            self._database = Database(self.path, CACHE)
        except StoreError as error:
            self._give_up(error)

    def key(self, job: Evaluate) -> str:
        """Return the SHA-256 over everything that decides what ``job`` measures: its id does not."""
        inherits = job.candidate.weight_set
        parts = (self._setting, inherits.weights, inherits.order, job.candidate.genome, job.fidelity, job.seed)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def get(self, key: str, job: Evaluate) -> Evaluation | None:
        """Return what was recorded under the `key` of ``job``, charged at its recorded cost, or None."""
        if self._database is None:
            return None
        try:
            rows, damaged = self._database.rows(EVALUATIONS, "WHERE key = ?", (key,))
            try:
                found = [outcome_from_json(json.loads(text), job) for _, text in rows]
            except (ValueError, TypeError, LookupError, RecursionError):  # of a file that has no checksums yet
                found, damaged = [], [key]
            if damaged:
                self._database.execute("DELETE FROM evaluations WHERE key = ?", (key,))
                msg = f"{self.path} is damaged: an evaluation is dropped and measured again"
                warnings.warn(msg, AutopruneWarning, stacklevel=2)
        except StoreError as error:
            self._give_up(error)
            return None
        return next((replace(hit, cached=True) for hit in found if isinstance(hit, Evaluation)), None)

    def put(self, measured: Mapping[str, Evaluation]) -> None:
        """Remember the successful evaluations in ``measured``, by `key`, that are not known yet."""
        rows = [
            (key, json.dumps(outcome_to_json(evaluation)))
            for key, evaluation in measured.items()
            if evaluation.status is Status.OK and not evaluation.cached
        ]
        if not rows or self._database is None:
            return
        try:
            self._database.add(EVALUATIONS, rows, otherwise="IGNORE")
            self._database.commit()
        except StoreError as error:
            self._give_up(error)

    def __len__(self) -> int:
        """Return the number of evaluations, of all spaces and settings."""
        return 0 if self._database is None else int(self._database.query("SELECT count(*) FROM evaluations")[0][0])

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()

    def _give_up(self, error: StoreError) -> None:
        self.close()
        self._database = None
        msg = f"evaluations are not remembered from now on: {error} (deleting a cache only costs time)"
        warnings.warn(msg, AutopruneWarning, stacklevel=3)
