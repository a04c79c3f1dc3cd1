"""Runs and caches in which single bits have changed: what is read from them is right, or someone says otherwise."""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.core.budget import Budget
from autoprune.core.jobs import evaluations
from autoprune.errors import AutopruneError, AutopruneWarning
from autoprune.execute.in_process import InProcessExecutor
from autoprune.orchestrator import run_search
from autoprune.store.cache import EvaluationCache
from autoprune.store.record import RunRecord
from autoprune.store.run import RunStore
from autoprune.testing.search_toys import OBJECTIVES, ToyRunner, ToyStrategy

N = 24
"""Evaluations of the run that is damaged; it is resumed to twice as many."""

MAX_MESSAGE = 2000

RUN, CACHE = "run/run.sqlite", "evaluations.sqlite"


@dataclass
class Verdict:
    """Counts of what came of many damaged files.

    Attributes:
        counts: cases by what happened: ``"same"``, ``"warned"``, ``"refused"``.
        silent: cases that gave other figures and said nothing.
        tracebacks: cases that raised what is not one of our errors.
        long: cases whose message was longer than `MAX_MESSAGE`.
    """

    counts: Counter[str] = field(default_factory=Counter)
    silent: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    long: list[str] = field(default_factory=list)

    @property
    def is_fine(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.silent or self.tracebacks or self.long)


def searched(folder: Path, evaluations: int = N) -> list[Any]:
    """Run or resume a toy search in a folder, with a cache beside it; returns what came out."""
    meta = {"name": "toy", "seed": 3, "limits": {"macs": 0.5}}
    runner = ToyRunner()
    cache = EvaluationCache(folder / CACHE, space="s", evaluator={}, data="d")
    try:
        with RunStore(folder / "run", meta=meta) as store:
            result = run_search(
                lambda: ToyStrategy(seed=5),
                InProcessExecutor(runner),
                store,
                Budget(evaluations=evaluations),
                objectives=OBJECTIVES,
                price=runner.price,
                window=4,
                cache=cache,
            )
            if not store.ledger.records("latency"):
                store.ledger.add_record("latency", {"median": 1.25, "rows": [1, 2, 3]})
    finally:
        cache.close()
    return [result.stop, result.fork, *figures(folder)]


def figures(folder: Path) -> list[Any]:
    """Return what readers see of a run, without times and what came from the cache."""
    run = RunRecord.read(folder / "run")
    outcomes = [replace(outcome.identity(), cached=False) for outcome in evaluations(run.outcomes)]
    return [run.description, run.jobs, outcomes, run.events, run.records("latency"), len(run.starts)]


def flip(path: Path, rng: np.random.Generator) -> str:
    """Change one random bit of a file; returns which."""
    data = bytearray(path.read_bytes())
    place, bit = int(rng.integers(len(data))), int(rng.integers(8))
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"{path.name}: bit {bit} of byte {place}"


def damage_and_use(work: Path, cases: int, seed: int) -> Verdict:
    """Damage copies of a run or of its cache, read and resume them, and compare.

    Args:
        work: an empty folder.
        cases: number of cases.
        seed: seed for the damaged places.
    """
    searched(work / "whole")
    before = figures(work / "whole")
    shutil.copytree(work / "whole", work / "resumed")
    resumed = comparable(searched(work / "resumed", 2 * N))
    fresh = comparable(searched(work / "fresh", 2 * N))
    verdict = Verdict()
    for case in range(cases):
        rng = np.random.default_rng([seed, case])
        folder = work / "case"
        shutil.copytree(work / "whole", folder)
        if case % 4 == 0:  # nobody but a new run asks the cache for what this one has measured
            shutil.rmtree(folder / "run")
            where = flip(folder / CACHE, rng)
            _judge(verdict, where, partial(_again, folder), fresh, may_refuse=False)
        else:
            where = flip(folder / RUN, rng)
            _judge(verdict, f"reading {where}", partial(figures, folder), before)
            _judge(verdict, f"resuming {where}", partial(_again, folder), resumed)
        shutil.rmtree(folder)
    return verdict


def _again(folder: Path) -> list[Any]:
    """Search in a folder, to twice the evaluations."""
    return comparable(searched(folder, 2 * N))


def comparable(found: list[Any]) -> list[Any]:
    """Leave out the number of starts, and the events that tell where a search was interrupted."""
    stop, fork, meta, jobs, outcomes, events, records, _ = found
    return [stop, fork, meta, jobs, outcomes, [event for event in events if event.is_decision], records]


def _judge(
    verdict: Verdict, where: str, use: Callable[[], list[Any]], right: list[Any], *, may_refuse: bool = True
) -> None:
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            is_same = use() == right
        except AutopruneError as error:
            is_same = False
            said.append(str(error))
            verdict.counts["refused"] += 1
            if not may_refuse:
                verdict.tracebacks.append(f"{where}: stopped a search: {error}")
        except Exception as error:  # noqa: BLE001  that is what is looked for
            verdict.tracebacks.append(f"{where}: {type(error).__name__}: {error}")
            return
    said += [str(item.message) for item in caught if issubclass(item.category, AutopruneWarning)]
    if is_same:
        verdict.counts["warned" if said else "same"] += 1
    elif not said:
        verdict.silent.append(where)
    elif not may_refuse:
        verdict.silent.append(f"{where}: a damaged cache changed the figures")
    else:
        verdict.counts["warned"] += 1
    verdict.long += [f"{where}: {text[:200]}" for text in said if len(text) > MAX_MESSAGE]
