"""Figures belong to what was measured: a changed problem gets none of another's, the same one gets all of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoprune as ap
from autoprune.errors import AutopruneWarning, StoreError
from autoprune.train.brought_tasks import FunctionTask

DRIVER = Path(__file__).with_name("changed_problems.py")


def load_driver() -> ModuleType:
    """Return the problems."""
    spec = importlib.util.spec_from_file_location("changed_problems", DRIVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["changed_problems"] = module
    spec.loader.exec_module(module)
    return module


changed = load_driver()


@cache
def before(case: str) -> ap.Problem:
    """Return the problem of a case as it is before the change; it looks at what it measures once."""
    return changed.CASES[case][0]()


def search(problem: ap.Problem, folder: Path, n: int = 3) -> ap.Run:
    """Search with the cache beside the folder."""
    return ap.search(problem, "random", ap.Budget(evaluations=n), store=folder)


@pytest.mark.parametrize("case", changed.CASES)
def test_figures_belong_to_what_was_measured(case: str, tmp_path: Path) -> None:
    """A changed problem gets no figure of another, from cache or ledger; the same one, made again, gets all of them."""
    make, make_changed = changed.CASES[case]
    first = search(before(case), tmp_path / "before")
    other = make_changed()
    assert not [outcome for outcome in search(other, tmp_path / "after").outcomes if outcome.cached]
    with pytest.raises(StoreError, match=r"searched another problem: .* differ; ") as refusal:
        search(other, tmp_path / "before", 5)
    assert len(str(refusal.value)) < 2000
    with pytest.raises(StoreError, match="searched another problem"):
        ap.open_run(tmp_path / "before", other).measure_latency(rounds=6)
    again = make()
    second = search(again, tmp_path / "again")
    assert all(outcome.cached for outcome in second.outcomes)
    assert [outcome.metrics for outcome in second.outcomes] == [outcome.metrics for outcome in first.outcomes]
    assert search(again, tmp_path / "before", 4).n_evaluations == 4


@pytest.mark.parametrize(
    ("case", "named"),
    [
        ("activation", "the model's outputs"),
        ("labels of a dataset", "the validation targets"),
        ("collate_fn", "the validation inputs"),
        ("state of a user's task", "the metrics"),
        ("loss of a user's task", "the loss in training"),
    ],
)
def test_a_refusal_names_what_differs(case: str, named: str, tmp_path: Path) -> None:
    """The message says which part, and does not name what is the same."""
    search(before(case), tmp_path / "run", 1)
    with pytest.raises(StoreError, match=named) as refusal:
        search(changed.CASES[case][1](), tmp_path / "run", 2)
    assert "the weights" not in str(refusal.value)
    assert "the limits" not in str(refusal.value)


def test_a_fresh_process_sees_the_same_problems() -> None:
    """Fingerprints do not depend on addresses, order of hashing or anything else of a process."""
    done = subprocess.run([sys.executable, str(DRIVER)], capture_output=True, text=True, check=True)
    here = {case: before(case).fingerprint for case in changed.CASES}
    assert json.loads(done.stdout) == here


def test_a_model_reloaded_from_its_state_is_the_same(tmp_path: Path) -> None:
    """Weights that went through a file give the same figures, whatever the new model was drawn as."""
    torch.save(changed.network().state_dict(), tmp_path / "weights.pt")
    reloaded = changed.Network()
    reloaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert changed.problem(reloaded.eval()).fingerprint == changed.problem().fingerprint


class Remembering(changed.OwnTask):
    """A task that counts its calls, keeps the last figure, and makes something when it is first needed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.last, self.best, self.table = 0, 0.0, None, None

    def metric(self, model: nn.Module, loader: Any) -> dict[str, float]:
        figures = super().metric(model, loader)
        self.calls, self.last = self.calls + 1, figures["score"]
        self.best = max(self.best or 0.0, self.last)
        self.table = torch.eye(10) if self.table is None else self.table
        return figures


def test_what_a_task_remembers_is_no_setting(tmp_path: Path) -> None:
    """The same task, used for a search and used again, is the same."""
    task = Remembering()
    search(changed.problem(task=task), tmp_path / "one")
    assert all(outcome.cached for outcome in search(changed.problem(task=task), tmp_path / "two").outcomes)


class Restless(changed.Network):
    """A network whose dropout is never off, but for the two items of a trace."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5, training=len(x) > 2))


def restless_model() -> ap.Problem:
    """Its outputs change from call to call."""
    model = Restless()
    model.load_state_dict(changed.network().state_dict())
    return changed.problem(model.eval())


def restless_metric() -> ap.Problem:
    """Its metric is drawn."""
    drawn = np.random.default_rng()
    return changed.problem(task=FunctionTask(F.cross_entropy, {"score": lambda _: drawn.uniform()}))


def restless_data() -> ap.Problem:
    """Its items are drawn by a generator that nobody seeds."""
    drawn = np.random.default_rng()
    validation = changed.Items("validation", transform=lambda x: x + drawn.normal())
    return changed.problem(data=ap.Data(changed.Items("train"), validation))


def failing_metric() -> ap.Problem:
    """Its metric raises for the second model."""
    zeros = iter([1, 0, 0])  # the dense model, and the other one twice
    return changed.problem(task=FunctionTask(F.cross_entropy, {"score": lambda _: 0.5 / next(zeros, 1)}))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (restless_model, "the model's outputs"),
        (restless_metric, "the metrics of a cut model"),
        (restless_data, "sampled validation items"),
        (failing_metric, r"the metrics of a cut model \(MetricError: .*ZeroDivisionError"),
    ],
)
def test_what_does_not_repeat_is_not_cached_and_says_so_once(
    make: Callable[[], ap.Problem], named: str, tmp_path: Path
) -> None:
    """A warning names what cannot be recognised; no figure goes into the cache."""
    problem = make()
    with pytest.warns(AutopruneWarning, match=f"{named}.* did not come out the same twice") as told:
        search(problem, tmp_path / "one", 1)
    with warnings.catch_warnings(record=True) as later:
        warnings.simplefilter("always")
        assert not search(problem, tmp_path / "two", 1).outcomes[0].cached
    assert len([item for item in told if "twice in a row" in str(item.message)]) == 1
    assert not [item for item in later if "twice in a row" in str(item.message)]
    assert not (tmp_path / "evaluations.sqlite").exists()


@pytest.mark.parametrize("make", [restless_model, restless_metric, restless_data])
@pytest.mark.filterwarnings("ignore:.* did not come out the same twice:UserWarning")
def test_what_does_not_repeat_is_resumed_by_what_does(make: Callable[[], ap.Problem], tmp_path: Path) -> None:
    """The same problem, made again, goes on; one that differs in what does repeat is refused."""
    search(make(), tmp_path / "run", 1)
    assert search(make(), tmp_path / "run", 2).n_evaluations == 2
    assert ap.open_run(tmp_path / "run", make()).problem is not None
    with pytest.raises(StoreError, match="searched another problem"):
        search(changed.problem(), tmp_path / "run", 3)


class Masked(nn.Module):
    """Two of its classes never are the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 12))
        self.register_buffer("mask", torch.tensor([0.0] * 10 + [-torch.inf] * 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 12) logits."""
        return self.body(x) + self.mask


def test_answers_of_infinity_are_recorded(tmp_path: Path) -> None:
    """They are a part of what the model answers: the run is made, goes on, and knows a model that answers otherwise."""
    torch.manual_seed(0)
    model, data = Masked().eval(), ap.load_data("digits")
    settings: dict[str, Any] = {"data": data, "objectives": ("accuracy", "macs"), "evaluator": "inherited"}
    run = ap.search(ap.Problem(model, **settings), "random", 2, store=tmp_path / "run")
    assert len(run.front)
    assert ap.search(ap.Problem(model, **settings), "random", 3, store=tmp_path / "run").n_evaluations == 3
    other = Masked().eval()
    other.load_state_dict(model.state_dict())
    other.mask[11] = 5.0
    with pytest.raises(StoreError, match="searched another problem"):
        ap.search(ap.Problem(other, **settings), "random", 4, store=tmp_path / "run")
