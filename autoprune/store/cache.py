"""The evaluation cache: what was measured once is never measured again, by any run or process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoprune.core.jobs import Evaluate, Outcome, Status, outcome_from_json, outcome_to_json
from autoprune.store.database import Database, FileKind

CACHE = FileKind(
    name="evaluation cache",
    application_id=0x41507243,  # "APrC"
    schema_version=1,
    tables=("CREATE TABLE evaluations (key TEXT PRIMARY KEY, outcome TEXT NOT NULL) WITHOUT ROWID",),
)


class EvaluationCache:
    """Successful evaluations by everything that decides them. Processes may share the file.

    Args:
        path: the file; made when it is not there.
        space: fingerprint of the search space.
        evaluator: the evaluator's settings, JSON types; device kind, torch version, threads and batch size included.
        data: fingerprint of the data that evaluations see.

    Raises:
        StoreError: the file cannot be used; it holds nothing that cannot be measured again, so deleting it is safe.
    """

    def __init__(self, path: str | Path, *, space: str, evaluator: Mapping[str, Any], data: str) -> None:
        path = Path(path)
        if not path.exists():
            Database.create(path, CACHE)
        self._database = Database(path, CACHE)
        setting = json.dumps([space, dict(evaluator), data], sort_keys=True, allow_nan=False)
        self._setting = hashlib.sha256(setting.encode()).hexdigest()

    def key(self, job: Evaluate) -> str:
        """Return the SHA-256 over everything that decides what ``job`` measures: its id does not."""
        inherits = job.candidate.weight_set
        parts = (self._setting, inherits.weights, inherits.order, job.candidate.genome, job.fidelity, job.seed)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def get(self, job: Evaluate) -> Outcome | None:
        """Return the recorded outcome under the id of ``job``, charged at its recorded cost, or None."""
        rows = self._database.query("SELECT outcome FROM evaluations WHERE key = ?", (self.key(job),))
        if not rows:
            return None
        return replace(outcome_from_json(json.loads(rows[0][0])), job=job, cached=True)

    def put(self, outcomes: Iterable[Outcome]) -> None:
        """Remember the successful evaluations among ``outcomes`` that are not known yet."""
        rows = [
            (self.key(outcome.job), json.dumps(outcome_to_json(outcome)))
            for outcome in outcomes
            if isinstance(outcome.job, Evaluate) and outcome.status is Status.OK and not outcome.cached
        ]
        if rows:
            self._database.begin()
            self._database.execute_many("INSERT OR IGNORE INTO evaluations VALUES (?, ?)", rows)
            self._database.commit()

    def __len__(self) -> int:
        """Return the number of evaluations, of all spaces and settings."""
        return int(self._database.query("SELECT count(*) FROM evaluations")[0][0])

    def close(self) -> None:
        """Close the file."""
        self._database.close()
