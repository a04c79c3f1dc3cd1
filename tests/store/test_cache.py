import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoprune.core.jobs import Candidate, Evaluate, WeightSet, failed
from autoprune.errors import AutopruneWarning
from autoprune.store.cache import EvaluationCache
from autoprune.testing.search_toys import TRAINED, ToyRunner


def job(**changed: Any) -> Evaluate:
    """Return an evaluation."""
    return replace(Evaluate(3, Candidate((1, 2, 0, 4), TRAINED)), **changed)


def remember(cache: EvaluationCache, outcome: Any) -> None:
    """Put one evaluation into a cache."""
    cache.put({cache.key(outcome.job): outcome})


def recall(cache: EvaluationCache, wanted: Evaluate) -> Any:
    """Return what a cache knows of a job."""
    return cache.get(cache.key(wanted), wanted)


def open_cache(path: Path, **changed: Any) -> EvaluationCache:
    """Return the cache at ``path``."""
    return EvaluationCache(path, **({"space": "s", "evaluator": {"batch": 256, "threads": 1}, "data": "d"} | changed))


def test_what_was_measured_comes_back_under_the_new_id_at_its_recorded_cost(tmp_path: Path) -> None:
    """Another job with the same key gets figures and charge, marked as cached."""
    cache = open_cache(tmp_path / "cache.sqlite")
    outcome = ToyRunner()(job())
    remember(cache, outcome)
    assert recall(cache, job(id=99)) == replace(outcome, job=job(id=99), cached=True)


OTHER_WEIGHTS = WeightSet("c" * 64, TRAINED.order)
OTHER_ORDER = WeightSet(TRAINED.weights, "c" * 64)


@pytest.mark.parametrize(
    "other",
    [
        job(candidate=Candidate((1, 2, 0, 3), TRAINED)),
        job(candidate=Candidate((1, 2, 0, 4), OTHER_WEIGHTS)),
        job(candidate=Candidate((1, 2, 0, 4), OTHER_ORDER)),
        job(fidelity="short"),
        job(seed=1),
    ],
)
def test_everything_that_decides_a_measurement_is_in_the_key(tmp_path: Path, other: Evaluate) -> None:
    """Genome, weights, order, fidelity and seed each make another entry."""
    cache = open_cache(tmp_path / "cache.sqlite")
    remember(cache, ToyRunner()(job()))
    assert recall(cache, other) is None


@pytest.mark.parametrize("changed", [{"space": "t"}, {"data": "e"}, {"evaluator": {"batch": 128, "threads": 1}}])
def test_every_setting_is_in_the_key(tmp_path: Path, changed: dict[str, Any]) -> None:
    """The same file under another space, data or evaluator setting knows nothing; under equal ones it does."""
    remember(open_cache(tmp_path / "cache.sqlite"), ToyRunner()(job()))
    assert recall(open_cache(tmp_path / "cache.sqlite", **changed), job()) is None
    same = open_cache(tmp_path / "cache.sqlite", evaluator={"threads": 1, "batch": 256})
    assert recall(same, job()) is not None


def test_failures_and_hits_are_not_remembered(tmp_path: Path) -> None:
    """A failure may have been bad luck; a hit is known already."""
    cache = open_cache(tmp_path / "cache.sqlite")
    remember(cache, failed(job(), "out of memory"))
    remember(cache, replace(ToyRunner()(job()), cached=True))
    assert len(cache) == 0


def test_processes_share_the_file(tmp_path: Path) -> None:
    """Two processes that start together and write at once both succeed, and what they wrote is there."""
    path = tmp_path / "cache.sqlite"
    script = """
import sys
from pathlib import Path
from autoprune.core.jobs import Candidate, Evaluate
from autoprune.store.cache import EvaluationCache
from autoprune.testing.search_toys import TRAINED, ToyRunner
first = int(sys.argv[2])
cache = EvaluationCache(sys.argv[1], space="s", evaluator={"batch": 256, "threads": 1}, data="d")
for seed in range(first, first + 50):
    measured = ToyRunner()(Evaluate(0, Candidate((1, 2, 0, 4), TRAINED), seed=seed))
    cache.put({cache.key(measured.job): measured})
"""
    children = [subprocess.Popen([sys.executable, "-c", script, str(path), str(first)]) for first in (0, 25)]
    assert [child.wait(timeout=60) for child in children] == [0, 0]
    cache = open_cache(path)
    assert len(cache) == 75
    assert all(recall(cache, job(seed=seed)) is not None for seed in range(75))


def test_a_foreign_file_is_left_alone_and_stops_nobody(tmp_path: Path) -> None:
    """A file that is no cache is not written to: nothing is remembered, and a warning says so."""
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"my thesis" * 1000)
    with pytest.warns(AutopruneWarning, match="not remembered.*cannot use"):
        cache = open_cache(path)
    remember(cache, ToyRunner()(job()))
    assert recall(cache, job()) is None
    assert len(cache) == 0
    cache.close()
    assert path.read_bytes() == b"my thesis" * 1000
