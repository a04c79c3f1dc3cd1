"""What is refused at the door of the Python interface: before any work, before any folder, in words."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autoprune as ap
from autoprune.core.settings import settings_of
from autoprune.errors import (
    LONGEST,
    AutopruneError,
    AutopruneWarning,
    BudgetError,
    InfeasibleError,
    InvalidArgumentError,
    UnknownNameError,
)
from autoprune.evaluate.registry import EVALUATORS
from autoprune.evaluate.short_training import ShortTrainingSettings
from autoprune.prepare.registry import RECIPES
from autoprune.strategies.registry import STRATEGIES, strategy_settings

MakeProblem = Callable[..., ap.Problem]

EVERY_SETTINGS = {
    **{f"evaluator {name}": info.load_settings() for name, info in EVALUATORS.items()},
    **{f"strategy {name}": info.load().Settings for name, info in STRATEGIES.items()},
    **{f"recipe {name}": info.load().Settings for name, info in RECIPES.items()},
}


def test_a_number_counts_evaluations_wherever_a_budget_is_taken(make_problem: MakeProblem, tmp_path: Path) -> None:
    """``20``, ``Budget(20)`` and a mapping are one budget, in `search` and in `compare`."""
    twenty = ap.Budget(evaluations=20)
    assert ap.Budget(20) == ap.Budget.of(20) == ap.Budget.of({"evaluations": 20}) == twenty
    assert ap.Budget(macs=6e10).evaluations is None
    problem = make_problem()
    for i, budget in enumerate((3, ap.Budget(3), {"evaluations": 3})):
        assert ap.search(problem, "random", budget, store=tmp_path / str(i)).n_evaluations == 3
    compared = ap.compare(problem, ["random"], 3, seeds=1, test=False, store=tmp_path / "compare")
    assert compared.summary.budget == ap.Budget(3)


@pytest.mark.parametrize(
    "budget",
    [1e11, 10**11, True, "20", 2.5, -1, 0, {"mac": 3}, {}, [20], float("nan"), pytest.param(10**5000, id="long")],
)
def test_what_is_no_budget(budget: Any, make_problem: MakeProblem, tmp_path: Path) -> None:
    """A float (which would be MACs), text, nonsense: one sentence, and nothing is made."""
    with pytest.raises((BudgetError, InvalidArgumentError), match=r"expected|unknown setting") as caught:
        ap.search(make_problem(), "random", budget, store=tmp_path / "run")
    assert len(str(caught.value)) < LONGEST
    assert list(tmp_path.iterdir()) == []


def test_a_budget_of_macs_that_allows_no_evaluation(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Twenty multiply-adds are refused with what one evaluation takes, instead of a run with nothing in it."""
    with pytest.raises(BudgetError, match=r"20 MACs allows no evaluation.*write budget=20"):
        ap.search(make_problem(), "random", ap.Budget(macs=20), store=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_evaluated_nothing_says_so(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Whatever the reason: an empty front does not come without a word."""
    with pytest.warns(AutopruneWarning, match="before anything was evaluated"):
        ap.search(make_problem(), "random", ap.Budget(seconds=1e-9), store=tmp_path / "run")


@pytest.mark.parametrize("executor", [2, "ray:4", "ray4", ap.RaySettings, object(), [1], 2.5, True, "spark", ""])
def test_what_is_no_executor(executor: Any, make_problem: MakeProblem, tmp_path: Path) -> None:
    """It is refused by `search`, `compare` and `finetune` alike, before a folder is made."""
    problem = make_problem()
    for call in (
        lambda: ap.search(problem, "random", 3, executor=executor, store=tmp_path / "run"),
        lambda: ap.compare(problem, ["random"], 3, executor=executor, store=tmp_path / "compare"),
        lambda: ap.finetune(None, executor=executor),  # type: ignore[arg-type]  looked at first
    ):
        with pytest.raises((InvalidArgumentError, UnknownNameError), match=r"in-process"):
            call()
    assert list(tmp_path.iterdir()) == []
    if executor in (2, "ray:4"):
        with pytest.raises(InvalidArgumentError, match=r"ap\.RaySettings\(workers=[24]\)"):
            ap.search(problem, "random", 3, executor=executor)


@pytest.mark.parametrize("name", EVERY_SETTINGS)
def test_settings_of_another_class_are_refused_by_name(name: str) -> None:
    """Whoever takes settings takes its class, one that it extends, or a mapping; not one with fields nobody reads."""
    kind = EVERY_SETTINGS[name]
    assert settings_of(kind, None, name) == settings_of(kind, {}, name) == settings_of(kind, kind(), name) == kind()
    for other in {*EVERY_SETTINGS.values(), ap.FitSettings}:
        if other is kind:
            continue
        if issubclass(kind, other):
            assert settings_of(kind, other(), name) == kind()
        else:
            with pytest.raises(InvalidArgumentError, match=f"settings of {name} as {kind.__name__}"):
                settings_of(kind, other(), name)
    for wrong in (3, "text", kind, [kind()], {"no_such": 1}):
        with pytest.raises(InvalidArgumentError, match=kind.__name__):
            settings_of(kind, wrong, name)


def test_the_settings_of_evaluators_are_checked_by_the_problem(make_problem: MakeProblem) -> None:
    """Less specific ones are completed, mappings read (nested ones, too), foreign and unreadable ones refused."""
    proxy = ap.ProxySettings(n_calibration=32, n_validation=32, batch_size=32)
    completed = make_problem(evaluator="short_training", evaluation=proxy)
    assert completed.evaluation == ShortTrainingSettings(n_calibration=32, n_validation=32, batch_size=32)
    nested = make_problem(evaluator="short_training", evaluation={"n_validation": 32, "fit": {"steps": 3}})
    assert nested.evaluation.fit == ap.FitSettings(steps=3)
    with pytest.raises(
        InvalidArgumentError, match=r"'inherited' as ProxySettings\(.*got ReconstructedSettings\(.*max_b"
    ):
        make_problem(evaluator="inherited", evaluation=ap.ReconstructedSettings())
    with pytest.raises(InvalidArgumentError, match=r"unknown setting 'stps' .*did you mean 'steps'"):
        make_problem(evaluator="short_training", evaluation={"fit": {"stps": 3}})
    with pytest.raises(InvalidArgumentError, match="n_validation to be at least 1, got '12'"):
        make_problem(evaluation={"n_validation": "12"})


def test_the_settings_of_strategies_are_checked_before_a_folder_is_made(
    make_problem: MakeProblem, tmp_path: Path
) -> None:
    """By `search` and `compare`, behind a suffix and behind a warm start, too."""
    problem = make_problem()
    for strategy in ("pymoo:nsga2", "pymoo:nsga2+knapsack", "metapruning:linear", "uniform"):
        with pytest.raises(InvalidArgumentError, match="settings of the strategy"):
            ap.search(problem, strategy, 40, settings=ap.ProxySettings(), store=tmp_path / "run")
    with pytest.raises(InvalidArgumentError, match=r"unknown setting 'populatio' .*did you mean 'population'"):
        ap.compare(problem, ["pymoo:nsga2"], 40, settings={"pymoo:nsga2": {"populatio": 4}}, store=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    assert strategy_settings("pymoo:nsga2", {"population": 8}).population == 8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"limits": {"latency": "50"}}, "a time such as '3ms'"),
        ({"limits": {"mac": "50%"}}, "did you mean 'macs'.*peak_bytes"),
        ({"limits": {"macs": 60}}, "Did you mean '60%' of the dense model's macs"),
        ({"limits": "60%"}, "expected limits by cost name"),
        ({"limits": {"macs": None}}, "percentage of the dense model"),
        ({"objectives": (1, 2)}, "one to four objectives"),
        ({"objectives": "accuracy"}, "one to four objectives"),
        ({"seed": "x"}, "expected seed to be an integer"),
        ({"seed": -1}, "expected seed to be an integer"),
        ({"task": "classification"}, "ap.Classification()"),
        ({"task": ap.Classification}, "ap.Classification()"),
        ({"evaluator": ""}, "unknown evaluator ''"),
        ({"criterion": 3}, "unknown criterion 3"),
    ],
)
def test_arguments_of_a_problem(wrong: dict[str, Any], message: str, make_problem: MakeProblem) -> None:
    """Each is named with what was expected."""
    with pytest.raises(AutopruneError, match=message) as caught:
        make_problem(**wrong)
    assert isinstance(caught.value, InvalidArgumentError | UnknownNameError | InfeasibleError)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strategy": ap.Budget(20)}, "name of a strategy"),
        ({"strategy": "nsga2"}, "did you mean 'pymoo:nsga2'"),
        ({"strategy": "tpe"}, "did you mean 'optuna:tpe'"),
        ({"seed": "a"}, "expected seed"),
        ({"seed": 1.5}, "expected seed"),
        ({"window": 0}, "expected window"),
    ],
)
def test_arguments_of_a_search(wrong: dict[str, Any], message: str, make_problem: MakeProblem, tmp_path: Path) -> None:
    """Each is named, and nothing is made."""
    with pytest.raises((InvalidArgumentError, UnknownNameError), match=message):
        ap.search(make_problem(), **{"strategy": "random", "budget": 3, "store": tmp_path / "run", **wrong})
    assert list(tmp_path.iterdir()) == []


def test_no_message_is_longer_than_a_page() -> None:
    """Whatever an error is told to say, it stays readable: both ends, and how much is missing."""
    text = str(InvalidArgumentError("start " + "x" * 10**6 + " end"))
    assert len(text) <= LONGEST
    assert text.startswith("start")
    assert text.endswith("end")
    assert "characters left out" in text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"points": 0}, "1 or more"),
        ({"points": -1}, "1 or more"),
        ({"points": "5"}, "1 or more"),
        ({"points": [3]}, "list of points"),
        ({"epochs": "3"}, "epochs as a number"),
        ({"settings": ap.ProxySettings()}, "settings of a fine-tuning as FitSettings"),
        ({"settings": {"batchsize": 3}}, "did you mean 'batch_size'"),
        ({"run": "runs/r56"}, "ap.open_run"),
    ],
)
def test_arguments_of_a_finetuning(
    wrong: dict[str, Any], message: str, make_problem: MakeProblem, tmp_path: Path
) -> None:
    """Each is named with what was expected."""
    run = ap.search(make_problem(), "random", 2, store=tmp_path / "run")
    with pytest.raises(InvalidArgumentError, match=message):
        ap.finetune(**{"run": run, **wrong})


@pytest.mark.parametrize("problem", [nn.Linear(2, 2), "digits", None, ap.Problem])
def test_a_search_of_what_is_no_problem(problem: Any, tmp_path: Path) -> None:
    """The model alone, a name: `search` and `compare` say what they want, before a folder is made; `open_run`, too."""
    for call in (
        lambda: ap.search(problem, "random", 3, store=tmp_path / "run"),
        lambda: ap.compare(problem, ["random"], 3, store=tmp_path / "compare"),
        lambda: ap.open_run(tmp_path, problem) if problem is not None else ap.open_run(problem),
    ):
        with pytest.raises(InvalidArgumentError, match=r"expected (a problem, such as ap\.Problem|the path)"):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [5, ["runs"], b"runs", object()])
def test_what_is_no_path(path: Any, make_problem: MakeProblem, tmp_path: Path) -> None:
    """Wherever a file or a folder is named, what is none is refused in words."""
    problem = make_problem()
    run = ap.search(problem, "random", 2, store=tmp_path / "run")
    point = run.front[0]
    for call in (
        lambda: ap.search(problem, "random", 2, store=path),
        lambda: ap.search(problem, "random", 2, cache=path),
        lambda: ap.compare(problem, ["random"], 2, store=path),
        lambda: ap.open_run(path),
        lambda: run.report(path, measure=False),
        lambda: point.report(path),
        lambda: point.save(path),
        lambda: ap.export_model(problem.model, problem.example_input, path),
    ):
        with pytest.raises(AutopruneError, match="expected the path of"):
            call()


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "4", True, float("nan")])
def test_a_batch_of_no_size_is_not_timed(wrong: Any, make_problem: MakeProblem, tmp_path: Path) -> None:
    """Nor with no threads: 0 is not what is left out, which would time another setting than was asked for."""
    run = ap.search(make_problem(), "random", 2, store=tmp_path / "run")
    for name in ("batch_size", "threads"):
        with pytest.raises(InvalidArgumentError, match=f"expected {name} to be an integer of at least 1"):
            run.measure_latency(**{name: wrong})


WRONG_TRAININGS: tuple[tuple[str, Any], ...] = (
    ("model", "net"),
    ("model", nn.Linear),
    ("data", None),
    ("data", torch.rand(4, 1, 8, 8)),
    ("task", ap.Classification),
    ("task", None),
    ("settings", 5),
    ("settings", {"epoch": 1}),
    ("teacher", "net"),
    ("regularizer", "bn_l1"),
    ("seed", "a"),
    ("seed", -1),
    ("progress", "bar"),
)


@pytest.mark.parametrize(("argument", "wrong"), WRONG_TRAININGS)
def test_what_is_no_training(argument: str, wrong: Any, make_problem: MakeProblem) -> None:
    """`fit` names the argument that is something else, and what it should be, before a weight changes."""
    problem = make_problem()
    model = copy.deepcopy(problem.model)
    given = {"model": model, "data": problem.data, "task": problem.task, "settings": {"steps": 1}, argument: wrong}
    with pytest.raises(InvalidArgumentError, match=r"expected|unknown setting 'epoch'"):
        ap.fit(**given)
    before = problem.model.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:the training was not taken")  # two steps
def test_a_training_is_silent_where_it_is_told_to_be(make_problem: MakeProblem) -> None:
    """``progress=False`` is taken by `fit` and `recover` as by everything else; settings may be a mapping."""
    problem = make_problem()
    model = copy.deepcopy(problem.model)
    assert ap.fit(model, problem.data, ap.Classification(), {"steps": 2, "batch_size": 8}, progress=False).steps == 2
    ap.recover(model, problem.model, problem.data, settings=ap.FitSettings(steps=2, batch_size=8), progress=False)


@pytest.mark.parametrize("minutes", [0, -1, "1", float("nan"), float("inf"), True, None])
def test_what_is_no_time_to_recover_in(minutes: Any, make_problem: MakeProblem) -> None:
    """`recover` and `prune` refuse it before they train or measure anything."""
    problem = make_problem()
    for call in (
        lambda: ap.recover(problem.model, problem.model, problem.data, minutes=minutes),
        lambda: ap.prune(problem.model, problem.data, {"macs": "50%"}, recover="distill", minutes=minutes),
    ):
        with pytest.raises(InvalidArgumentError, match="expected minutes of recovery above 0"):
            call()


def test_what_cannot_be_recovered(make_problem: MakeProblem) -> None:
    """Arguments in another order, tensors instead of data: one sentence."""
    problem = make_problem()
    model: Any = problem.model
    for wrong in (
        (model, problem.data, model),
        (model, model, torch.rand(2, 1, 8, 8)),
        ("half.autoprune", model, None),
    ):
        with pytest.raises(InvalidArgumentError, match="expected"):
            ap.recover(*wrong)


@pytest.mark.parametrize("name", ["weight", "running_var"])
@pytest.mark.parametrize("objectives", [("accuracy", "macs"), ("min:distance", "macs")])
def test_a_model_of_nan_is_named_as_the_cause(name: str, objectives: tuple[str, ...]) -> None:
    """Whatever is measured: the tensor that broke is said, not the outputs that follow from it."""
    norm = nn.BatchNorm2d(6)
    getattr(norm, name).data[2] = torch.nan
    model = nn.Sequential(nn.Conv2d(1, 6, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(216, 10)).eval()
    with pytest.raises(AutopruneError, match=rf"the model's own '1\.{name}' holds NaN: load sound weights"):
        _ = ap.Problem(model, data=ap.load_data("digits"), objectives=objectives).dense_metrics


def test_what_a_report_does_not_take(make_problem: MakeProblem, tmp_path: Path) -> None:
    """No number of points, no runtime: said before anything is measured; one runtime may be named alone."""
    run = ap.search(make_problem(), "random", 2, store=tmp_path / "run")
    for points in (0, -1, "2", 1.5, True, None):
        with pytest.raises(InvalidArgumentError, match="expected points to be an integer of at least 1"):
            run.report(points=points)  # type: ignore[arg-type]  the point
    for runtimes in ("tensorrt", ["onnxruntime", "tensorrt"]):
        with pytest.raises(UnknownNameError, match="unknown runtime 'tensorrt'"):
            run.report(runtimes=runtimes)
    assert not (tmp_path / "run" / "report.html").exists()
    assert run.report(runtimes="torch", points=1).html.exists()
