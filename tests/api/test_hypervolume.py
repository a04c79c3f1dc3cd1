"""Hypervolumes of searches: positive for any sign of the metric, of one reference point within a comparison."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import autoprune as ap
from autoprune.comparison.headline import headline
from autoprune.errors import InvalidArgumentError, UnknownNameError
from autoprune.store.run import RunStore
from autoprune.testing.digits_network import digits_network

MakeProblem = Callable[..., ap.Problem]


def task_of(name: str, shift: float, sign: float) -> ap.FunctionTask:
    """Score a network by its number of parameters in thousands, shifted."""

    def figure(model: nn.Module) -> float:
        return sign * (sum(p.numel() for p in model.parameters()) / 5000 + shift)

    return ap.FunctionTask(loss=nn.functional.cross_entropy, metrics={name: figure})


@pytest.mark.parametrize(("name", "sign"), [("max:neg_mse", 1.0), ("min:nll", -1.0)])
@pytest.mark.parametrize("shift", [-3.0, -0.6, 5.0])
def test_a_search_has_a_hypervolume(
    make_problem: MakeProblem, tmp_path: Path, name: str, sign: float, shift: float
) -> None:
    """Metrics below zero, around it and above it, in either direction."""
    problem = make_problem(task=task_of(name, shift, sign), objectives=(name, "macs"), evaluation=None)
    run = ap.search(problem, "uniform", ap.Budget(evaluations=4), store=tmp_path / "run")
    assert run.front.hypervolume > 0
    assert run.meta.reference == problem.reference


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A small network that has learned the digits a little; nobody changes it."""
    model = digits_network()
    ap.fit(model, ap.load_data("digits"), ap.Classification(), ap.FitSettings(epochs=2, batch_size=32))
    return model


def test_accuracy_counts_from_guessing(make_problem: MakeProblem, trained: nn.Module) -> None:
    """Ten classes: a tenth, in the reference and in the run; the user may give another, and no nonsense."""
    problem = make_problem(trained)
    assert problem.reference == {"accuracy": 0.1, "macs": problem.dense_costs["macs"]}
    given = make_problem(trained, reference={"accuracy": 0.5})
    assert given.reference == {"accuracy": 0.5, "macs": problem.dense_costs["macs"]}
    with pytest.raises(UnknownNameError, match="did you mean 'accuracy'"):
        make_problem(trained, reference={"acuracy": 0.5})
    with pytest.raises(InvalidArgumentError, match="finite number"):
        make_problem(trained, reference={"accuracy": float("nan")})
    for wrong in ({"accuracy": 1.0}, {"macs": 10.0}):
        with pytest.raises(InvalidArgumentError, match="expected a reference"):
            _ = make_problem(trained, reference=wrong).reference
    assert trained.training is False


def with_reference(run: ap.Run, reference: dict[str, float]) -> None:
    """Record another reference point, as an older version would have."""
    with RunStore(run.folder, check=lambda _: None) as store:
        store.ledger.update_meta({"reference": reference})


def test_a_run_keeps_its_reference_and_a_comparison_has_one(
    make_problem: MakeProblem, trained: nn.Module, tmp_path: Path
) -> None:
    """A run of an older version keeps its point on resume; runs of different points are counted anew from one."""
    problem = make_problem(trained)
    budget = ap.Budget(evaluations=2)
    first = ap.compare(problem, ["random"], budget, seeds=1, test=False, store=tmp_path / "compare")
    before = {key: run.front.hypervolume for key, run in first.runs.items()}
    old = {"accuracy": 0.0, "macs": float(problem.dense_costs["macs"])}
    (entry, run), *others = first.runs.items()
    with_reference(run, old)
    reopened = ap.open_run(run.folder, problem)
    assert reopened.front.hypervolume > before[entry]
    seen = []
    more = ap.search(
        problem, entry[0], ap.Budget(evaluations=3), store=run.folder,
        seed=entry[1], progress=lambda at: seen.append(at.hypervolume),
    )  # fmt: skip
    assert more.meta.reference == old
    assert [value for value in seen if value is not None][-1] == pytest.approx(more.front.hypervolume)
    mixed = ap.compare(problem, ["random"], ap.Budget(evaluations=3), seeds=1, test=False, store=tmp_path / "compare")
    assert {tuple(item.convergence.reference.items()) for c in mixed.summary.contestants for item in c.trials} == {
        tuple(problem.reference.items())
    }
    for _, run in others:
        with_reference(run, old)
    again = ap.compare(problem, ["random"], ap.Budget(evaluations=3), seeds=1, test=False, store=tmp_path / "compare")
    assert again.summary.meta.reference == old


def test_nobody_wins_by_nothing(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Where every candidate is worse than the reference, the page says that nobody leads."""
    calls = itertools.count()
    task = ap.FunctionTask(
        loss=nn.functional.cross_entropy, metrics={"max:score": lambda _: 1.0 if next(calls) == 0 else -1.0}
    )
    problem = make_problem(task=task, objectives=("score", "macs"), reference={"score": 0.0})
    comparison = ap.compare(problem, ["random"], ap.Budget(evaluations=2), seeds=1, test=False, store=tmp_path / "c")
    assert headline(comparison.summary).startswith("Nobody leads")
