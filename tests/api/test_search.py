"""The Python interface from a problem to a loaded smaller model, on real digits."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import autoprune as ap
from autoprune.api import searching
from autoprune.api.beginning import Beginning
from autoprune.core.jobs import Status
from autoprune.errors import (
    AutopruneWarning,
    BudgetError,
    InfeasibleError,
    InvalidArgumentError,
    NothingPrunableError,
    StoreError,
    UnknownNameError,
)
from autoprune.evaluate.short_training import ShortTrainingSettings
from autoprune.report.summarize import summarize
from autoprune.store import ledger
from autoprune.store.blobs import BlobStore
from autoprune.store.ledger import EventKind
from autoprune.store.meta import RunMeta
from autoprune.store.run import RunStore
from autoprune.strategies._optuna import TpeSettings
from autoprune.testing.digits_network import DigitsNetwork, digits_network
from autoprune.train.named_data import load_data

MakeProblem = Callable[..., ap.Problem]


def test_from_problem_to_loaded_model(make_problem: MakeProblem, tmp_path: Path) -> None:
    """A picked point is a smaller module of the same class whose saved and loaded copy has the recorded score."""
    problem = make_problem()
    run = ap.search(problem, "random", ap.Budget(evaluations=8), store=tmp_path / "run")
    assert run.n_evaluations == 8
    assert run.stop == "evaluations"
    point = run.pick(max_macs="60%")
    assert point.costs["macs"] <= 0.6 * run.dense["macs"]
    model = point.build()
    assert type(model) is DigitsNetwork
    assert sum(p.numel() for p in model.parameters()) == point.costs["params"]
    point.save(tmp_path / "small.autoprune")
    loaded = ap.load(tmp_path / "small.autoprune", digits_network(seed=5))
    assert problem.evaluator.measure(loaded) == dict(point.metrics)
    assert ap.describe(tmp_path / "small.autoprune")["costs"] == dict(point.costs)


def test_points_loaded_in_a_fresh_process_have_their_recorded_scores(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Measured elsewhere on the same items, saved points answer exactly as many correctly as their ledgers say."""
    fit = ap.FitSettings(steps=3, batch_size=32)
    trained = ShortTrainingSettings(n_calibration=64, n_validation=64, batch_size=32, fit=fit)
    evaluators: dict[str, dict[str, object]] = {
        "inherited": {},
        "reconstructed": {},
        "short_training": {"evaluation": trained},
    }
    recorded = {}
    for name, settings in evaluators.items():
        run = ap.search(make_problem(evaluator=name, **settings), "random", 3, store=tmp_path / name)
        run.front[-1].save(tmp_path / f"{name}.autoprune")
        recorded[name] = round(64 * run.front[-1].metrics["accuracy"])
    code = f"""
import autoprune as ap
from autoprune.testing.digits_network import digits_network
evaluation = ap.ProxySettings(n_calibration=64, n_validation=64, batch_size=32)
problem = ap.Problem(digits_network(), data=ap.load_data("digits"), levels=4, evaluation=evaluation)
for name in {list(evaluators)}:
    model = ap.load({str(tmp_path)!r} + f"/{{name}}.autoprune", digits_network(seed=9))
    print(name, round(64 * problem.evaluator.measure(model)["accuracy"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(part) for pair in recorded.items() for part in pair]


def test_the_same_call_resumes_and_a_larger_budget_continues(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Ten evaluations in one go and in two have the same jobs and figures."""
    problem = make_problem(evaluator="inherited")
    whole = ap.search(problem, "pymoo:nsga2", ap.Budget(evaluations=10), store=tmp_path / "whole" / "run")
    first = ap.search(problem, "pymoo:nsga2", ap.Budget(evaluations=6), store=tmp_path / "parts" / "run")
    assert first.n_evaluations == 6
    asked = [outcome.job for outcome in first.outcomes]
    both = ap.search(problem, "pymoo:nsga2", ap.Budget(evaluations=10), store=tmp_path / "parts" / "run")
    assert both.n_evaluations == 10
    assert [outcome.job for outcome in both.outcomes[:6]] == asked
    # a strategy that sizes its population by the budget it was first promised differs later, never before
    assert [o.metrics for o in whole.outcomes[:4]] == [o.metrics for o in both.outcomes[:4]]


def test_a_twin_draws_the_random_numbers_of_its_family(
    make_problem: MakeProblem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So seed by seed the two can be compared; a folder from before that goes on with the stream it began with."""

    def seed_of(run: ap.Run) -> object:
        beginning = Beginning.of(problem, run.meta.strategy, None, None, None, None)
        return searching._setup(make_problem(), store, run.meta, beginning, 0, runner)[0].seed.spawn_key

    describe = searching._describe

    def as_before(*args: Any) -> RunMeta:
        meta = describe(*args)
        return replace(meta, settings={name: value for name, value in meta.settings.items() if name != "stream"})

    problem, found = make_problem(), {}
    for name, strategy in (("new", "acp:unclustered"), ("family", "acp"), ("old", "acp:unclustered")):
        with monkeypatch.context() as patch:
            if name == "old":
                patch.setattr(searching, "_describe", as_before)
            run = ap.search(problem, strategy, ap.Budget(evaluations=2), store=tmp_path / name)
        with RunStore(tmp_path / name, problem=problem.fingerprint) as store:
            runner = problem.runner(store.weights)
            found[name] = seed_of(run)
    assert found["new"] == found["family"] != found["old"]
    resumed = ap.search(problem, "acp:unclustered", ap.Budget(evaluations=4), store=tmp_path / "old")
    assert resumed.n_evaluations == 4
    with RunStore(tmp_path / "old", problem=problem.fingerprint) as store:
        assert not [event for event in store.ledger.events() if event.kind is EventKind.FORK]


def test_random_substitutes_are_counted_across_a_resume(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Towards the end of a small space the model chooses little that is new; the run's report says how often."""
    problem = make_problem()
    for n in (12, 16):
        run = ap.search(problem, "optuna:tpe", n, settings=TpeSettings(4), warm_start=None, store=tmp_path / "run")
    drawn = [job for record in run.record.records("substitutes") for job in record["jobs"]]
    assert 0 < len(drawn) == len(set(drawn)) <= 12
    assert f"{len(drawn)} of 16 candidates were drawn at random after the start" in " ".join(
        summarize(run.record).warnings
    )


def test_reconstruction_beats_plain_weights_on_a_trained_network(make_problem: MakeProblem, tmp_path: Path) -> None:
    """At the same genomes a trained network keeps more accuracy, over the whole front, with its consumers re-solved."""
    model = digits_network()
    ap.fit(model, load_data("digits"), ap.Classification(), ap.FitSettings(epochs=6, learning_rate=0.1, batch_size=32))
    fronts = {
        name: ap.search(
            make_problem(model, evaluator=name, evaluation=ap.ProxySettings(n_calibration=256, batch_size=64)),
            "uniform",
            ap.Budget(evaluations=4),
            store=tmp_path / name,
        )
        for name in ("inherited", "reconstructed")
    }
    plain, solved = ([o.metrics["loss"] for o in run.outcomes] for run in fronts.values())
    assert np.mean(solved) < np.mean(plain)


def test_a_polished_point_has_the_same_widths(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Polish changes weights only, can be saved and loaded, and is refused where nothing was reconstructed."""
    problem = make_problem(evaluator="reconstructed")
    point = ap.search(problem, "uniform", ap.Budget(evaluations=3), store=tmp_path / "run").front[0]
    polished, plain = point.build(polish=True), point.build()
    assert [p.shape for p in polished.parameters()] == [p.shape for p in plain.parameters()]
    point.save(tmp_path / "polished.autoprune", polished)
    loaded = ap.load(tmp_path / "polished.autoprune", digits_network())
    assert problem.evaluator.measure(loaded) == problem.evaluator.measure(polished)
    inherited = make_problem(evaluator="inherited")
    other = ap.search(inherited, "uniform", ap.Budget(evaluations=3), store=tmp_path / "other")
    with pytest.raises(InvalidArgumentError, match="the evaluator 'reconstructed'"):
        other.front[0].build(polish=True)


def test_report_of_a_run(make_problem: MakeProblem, tmp_path: Path) -> None:
    """A report measures test figures and latency of some points, once, and says that data was not held out."""
    run = ap.search(make_problem(), "random", ap.Budget(evaluations=4), store=tmp_path / "run")
    paths = run.report(points=2)
    assert "not held out" in paths.html.read_text(encoding="utf-8")
    assert run.record.records("latency")
    before = run.record.records("metrics")
    run.report(points=2)
    assert run.record.records("metrics") == before


def test_front_table_csv_and_json(make_problem: MakeProblem, tmp_path: Path) -> None:
    """The table has a row per point, cheapest first, and survives CSV and JSON."""
    import pandas as pd

    front = ap.search(make_problem(), "random", ap.Budget(evaluations=6), store=tmp_path / "run").front
    table = front.table()
    assert list(table["macs"]) == sorted(table["macs"])
    assert len(table) == len(front) == len(front.points)
    front.to_csv(tmp_path / "front.csv")
    assert list(pd.read_csv(tmp_path / "front.csv")["params"]) == list(table["params"])
    front.to_json(tmp_path / "front.json")
    assert len(pd.read_json(tmp_path / "front.json")) == len(front)


def test_a_failing_metric_is_a_recorded_failure(make_problem: MakeProblem, tmp_path: Path) -> None:
    """A metric that raises, or is not a finite number, fails candidates with its text; the search goes on."""
    answers = iter([1.0, 1.0, 1.0, float("nan"), "excellent", 0, 0])  # first the dense model, and a cut one twice

    def moody(_: nn.Module) -> float | str:
        answer = next(answers)
        return answer if answer != 0 else 1 / answer

    task = ap.FunctionTask(loss=ap.Classification().loss, metrics={"score": moody})
    problem = make_problem(task=task, objectives=("max:score", "macs"))
    with pytest.warns(AutopruneWarning, match="all 4 evaluations failed"):
        run = ap.search(problem, "random", ap.Budget(evaluations=4), store=tmp_path / "run")
    messages = [outcome.message for outcome in run.outcomes if outcome.status is Status.FAILED]
    assert run.n_evaluations == 4
    assert len(messages) >= 3
    assert any("nan" in message for message in messages)
    assert any("ZeroDivisionError" in message for message in messages)


def test_peak_bytes_as_an_objective(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Three objectives, one of them the peak of activation memory."""
    problem = make_problem(objectives=("accuracy", "macs", "peak_bytes"), limits={"peak_bytes": "90%"})
    run = ap.search(problem, "random", ap.Budget(evaluations=4), store=tmp_path / "run")
    assert all(point.costs["peak_bytes"] <= 0.9 * run.dense["peak_bytes"] for point in run.front)


def test_points_of_a_search_by_costs_alone_are_fine_tuned(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Where nothing that is measured is an objective, the task's first metric says which training was best."""
    run = ap.search(make_problem(objectives=("macs", "params")), "random", 3, store=tmp_path / "run")
    variants = [ap.FitSettings(batch_size=64, learning_rate=rate) for rate in (0.05, 1e-6)]
    both = ap.finetune(run, 1, epochs=0.5, settings=variants, test=False)[0]
    each = [ap.finetune(run, 1, epochs=0.5, settings=one, test=False)[0].metrics["accuracy"] for one in variants]
    assert both.metrics["accuracy"] == max(each)


def test_the_model_is_unchanged_and_can_be_freed(make_problem: MakeProblem) -> None:
    """Making a problem leaves weights, mode and hooks alone, and nothing but the problem keeps the model."""
    model = digits_network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    problem = make_problem(model)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    alive = weakref.ref(model)
    del model, problem
    gc.collect()
    assert alive() is None


WRONG: dict[str, tuple[dict[str, object], type[Exception], str]] = {
    "unknown criterion": ({"criterion": "tailor"}, UnknownNameError, "did you mean 'taylor'"),
    "unknown evaluator": ({"evaluator": "inherit"}, UnknownNameError, "did you mean 'inherited'"),
    "unknown objective": ({"objectives": ("acuracy", "macs")}, InvalidArgumentError, "did you mean 'accuracy'"),
    "no data": ({"data": None}, InvalidArgumentError, "expected data=ap.Data"),
    "infeasible limit": ({"limits": {"macs": "1%"}}, InfeasibleError, "the smallest has"),
    "ambiguous limit": ({"limits": {"macs": 0.5}}, InvalidArgumentError, "'50%'"),
    "unknown limit": ({"limits": {"flops": "50%"}}, UnknownNameError, "known: latency, macs"),
    "unknown lock": ({"locks": ("convX",)}, UnknownNameError, "convX"),
    "everything locked": ({"locks": ("conv*",)}, NothingPrunableError, "no channel of this model may be removed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_problem_is_refused_at_the_door(name: str, make_problem: MakeProblem) -> None:
    """Every mistake has its own error, which names what came and what to do."""
    settings, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        make_problem(**settings)


def test_a_wrong_search_is_refused_before_any_work(make_problem: MakeProblem, tmp_path: Path) -> None:
    """An unknown strategy, another problem's folder and another strategy's folder are errors; nothing is lost."""
    problem = make_problem()
    with pytest.raises(UnknownNameError, match="did you mean 'pymoo:nsga"):
        ap.search(problem, "pymoo:nsga", store=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(BudgetError, match="positive"):
        ap.Budget(evaluations=0)
    run = ap.search(problem, "random", ap.Budget(evaluations=2), store=tmp_path / "run")
    with pytest.raises(InvalidArgumentError, match="searched by random with seed 0, not uniform"):
        ap.search(problem, "uniform", ap.Budget(evaluations=2), store=tmp_path / "run")
    with pytest.raises(StoreError, match="another problem"):
        ap.search(make_problem(levels=3), "random", ap.Budget(evaluations=2), store=tmp_path / "run")
    with pytest.raises(StoreError, match="another problem"):
        ap.open_run(tmp_path / "run", make_problem(levels=3))
    with pytest.raises(InvalidArgumentError, match="open the run with its problem"):
        ap.open_run(tmp_path / "run").front[0].build()
    with pytest.raises(InfeasibleError, match="smallest macs"):
        run.pick(max_macs=10)
    assert ap.open_run(tmp_path / "run", problem).n_evaluations == 2


def test_runs_that_wrote_their_warm_start_behind_a_plus_sign_go_on(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Earlier versions recorded it in the strategy's name; the short form and the argument both resume such a run."""
    problem, folder = make_problem(), tmp_path / "run"
    first = ap.search(problem, "pymoo:nsga2+knapsack", 15, store=folder)
    assert (first.meta.strategy, first.meta.settings["warm_start"]) == ("pymoo:nsga2", "knapsack")
    with RunStore(folder, problem=problem.fingerprint) as store:
        settings = {name: value for name, value in first.meta.settings.items() if name != "warm_start"}
        store.ledger.update_meta({"strategy": "pymoo:nsga2+knapsack", "settings": settings})
    assert ap.search(problem, "pymoo:nsga2", 16, warm_start="knapsack", store=folder).n_evaluations == 16
    resumed = ap.search(problem, "pymoo:nsga2+knapsack", 17, store=folder)
    assert resumed.n_evaluations == 17
    assert not [event for event in resumed.record.events if event.kind is EventKind.FORK]
    with pytest.raises(
        InvalidArgumentError, match=r"searched by pymoo:nsga2, warm start from knapsack with seed 0, not pymoo"
    ):
        ap.search(problem, "pymoo:nsga2", 17, warm_start="none", store=folder)


def test_a_run_goes_on_with_its_settings_and_with_no_others(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Its folder says with what settings it was started; others are refused, and a folder of before is not asked."""
    problem, folder = make_problem(), tmp_path / "run"
    first = ap.search(problem, "knapsack", 12, settings={"probes": 1, "step": np.int64(3)}, store=folder)
    assert first.meta.settings["strategy_settings"] == {"probes": 1, "step": 3}
    assert "knapsack (probes=1, step=3)" in first.report().html.read_text(encoding="utf-8")
    again = ap.search(problem, "knapsack", 14, store=folder)
    same = ap.search(problem, "knapsack", 16, settings={"step": 3, "probes": 1}, store=folder)
    for others, said in (({"probes": 2, "step": 3}, r"\(probes=2, step=3\)"), ({}, "knapsack with seed 0;")):
        with pytest.raises(InvalidArgumentError, match=rf"by knapsack \(probes=1, step=3\) with seed 0, not .*{said}"):
            ap.search(problem, "knapsack", 18, settings=others, store=folder)
    assert (again.n_evaluations, same.n_evaluations) == (14, 16)
    assert not [event for event in same.record.events if event.kind is EventKind.FORK]
    with RunStore(folder, problem=problem.fingerprint) as store:
        former = {name: value for name, value in first.meta.settings.items() if name != "strategy_settings"}
        store.ledger.update_meta({"settings": former})
    assert ap.search(problem, "knapsack", 18, settings={"probes": 1, "step": 3}, store=folder).n_evaluations >= 12


def test_a_run_is_read_once(make_problem: MakeProblem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ledger by opening it, whatever is asked of it; its weights by building one point, however many follow."""
    problem = make_problem()
    ap.search(problem, "random", ap.Budget(evaluations=6), store=tmp_path / "run")
    parsed, fetched = [], []
    parse, fetch = ledger.outcome_from_json, BlobStore.get
    monkeypatch.setattr(ledger, "outcome_from_json", lambda data, job: parsed.append(data) or parse(data, job))
    monkeypatch.setattr(BlobStore, "get", lambda store, name: fetched.append(name) or fetch(store, name))
    run = ap.open_run(tmp_path / "run", problem)
    assert len(parsed) == 6
    assert repr(run).startswith("Run(")
    found = run.n_evaluations, run.spent, run.stop, run.front.table(), run.front.hypervolume, run.pick(), run.choose(3)
    assert len(found[-1]) == min(3, len(run.front))
    for point in run.front:
        point.build()
    assert len(parsed) == 6
    assert len(fetched) == len(set(fetched))


def test_a_front_is_a_sequence_of_points(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Places and loops give points, cheapest first, and an empty slice nothing."""
    run = ap.search(make_problem(), "random", ap.Budget(evaluations=8), store=tmp_path / "run")
    costs = [point.costs["macs"] for point in run.front]
    assert costs == sorted(costs) == [run.front[i].costs["macs"] for i in range(len(run.front))]
    assert run.front[-1].id == run.point(run.front[-1].id).id
    assert not run.front[len(costs) :]
    with pytest.raises(IndexError):
        run.front[len(costs)]


def test_a_run_shows_what_it_was_until_it_is_read_again(make_problem: MakeProblem, tmp_path: Path) -> None:
    """A search that goes on elsewhere is seen after `refresh`; what is measured with the run itself is seen at once."""
    problem = make_problem()
    run = ap.search(problem, "random", ap.Budget(evaluations=3), store=tmp_path / "run")
    ap.search(problem, "random", ap.Budget(evaluations=5), store=tmp_path / "run")
    assert run.n_evaluations == 3
    run.refresh()
    assert run.n_evaluations == 5
    point = run.front[0]
    measured = point.test()
    row = run.front.table(wide=True).loc[point.id]
    assert row["accuracy_test"] == measured["accuracy"]
    assert row["accuracy"] == point.metrics["accuracy"]
    assert row["macs_share"] == point.costs["macs"] / run.dense["macs"]
    assert row[[name for name in row.index if name.startswith("width:")]].min() >= 1
