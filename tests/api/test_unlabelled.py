"""From inputs alone to smaller models: plan, search, prune, polish, recovery, fine-tuning, report, command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import autoprune as ap
from autoprune.cli.app import app
from autoprune.core.settings import as_json
from autoprune.errors import AutopruneWarning, DataError, InvalidArgumentError
from autoprune.evaluate.reconstructed import Reconstructed
from autoprune.searchspaces.models.resnet_digits import resnet_digits
from autoprune.store.record import FINETUNE
from autoprune.train.settings import IMITATION
from tests.train.output_kinds import output_kinds

KINDS = sorted(output_kinds())
SETTINGS = {"n_calibration": 64, "batch_size": 32}


def digits(n: int = 240) -> Tensor:
    """Return (n, 1, 8, 8) images without their labels."""
    return next(iter(ap.load_data("digits").train.loader(n)))[0]


def network() -> nn.Module:
    """Return a small network for the digits, with BatchNorm that has seen some."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 12, 3, stride=2, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(108, 10)),
    )
    x = digits(64)
    for _ in range(100):
        model(x)
    return model.eval()


def labelled() -> ap.Data:
    """Return digits with labels."""
    return ap.load_data("digits")


@pytest.mark.parametrize("n_items", [100, 150])
def test_a_polish_of_few_items_helps_on_others(n_items: int) -> None:
    """Layers see fewer rows than they have inputs: polished, outputs on new items are nearer to the dense ones.

    Fewer items than two batches hold are dealt out to smaller ones, and all but a few of them are used.
    """
    torch.manual_seed(0)
    model = resnet_digits()
    x = torch.rand(n_items + 400, 1, 8, 8)
    problem = ap.Problem(model, data=ap.Data(x[:n_items], x[n_items:]))
    evaluator = problem.evaluator
    assert isinstance(evaluator, Reconstructed)
    batches = [len(inputs) for inputs, _ in evaluator.proxy.training_items(1000)]
    assert len(batches) >= 4
    assert sum(batches) >= 0.9 * n_items
    found = ap.prune(model, ap.Data(x[:n_items], x[n_items:]), {"macs": "50%"}, progress=False)
    assert found.after["distance"] < 0.95 * found.point.metrics["distance"]


def test_inputs_are_enough_from_end_to_end(tmp_path: Path) -> None:
    """Searched by distance and MACs: front, table, pick, build, save, test, report, resume; no label anywhere."""
    model = network()
    x = digits(400)
    data = ap.Data(x[:200], x[200:300], x[300:])
    problem = ap.Problem(model, data=data, limits={"params": "80%"}, evaluation=SETTINGS)
    assert problem.objectives.names == ("distance", "macs")
    assert problem.dense_metrics == {"distance": 0.0}
    assert problem.dense_test_metrics == {"distance": 0.0}
    run = ap.search(problem, "random", budget=8, store=tmp_path / "run")
    table = run.front.table()
    assert {"distance", "macs", "params"} <= set(table.columns)
    point = run.pick(limits={"macs": "60%"})
    assert run.pick(limits={"distance": 0.5}).metrics["distance"] <= 0.5
    small = point.build()
    assert problem.evaluator.measure(small) == dict(point.metrics)
    assert problem.test(small)["distance"] > 0
    point.save(tmp_path / "small.autoprune")
    again = ap.load(tmp_path / "small.autoprune", network())
    assert torch.equal(again(x[:5]), small(x[:5]))
    page = run.report(tmp_path / "report.html")
    assert "distance" in page.html.read_text(encoding="utf-8").lower()
    more = ap.search(problem, "random", budget=12, store=tmp_path / "run")
    assert more.n_evaluations == 12
    opened = ap.open_run(tmp_path / "run", ap.Problem(network(), data=ap.Data(x[:200], x[200:300], x[300:]),
                                                        limits={"params": "80%"}, evaluation=SETTINGS))  # fmt: skip
    assert opened.point(point.id).metrics == point.metrics


def test_other_inputs_are_another_problem() -> None:
    """Identity is inputs and dense outputs: one pixel, or one weight, makes another fingerprint; the same do not."""
    x = digits(120)
    changed = x.clone()
    changed[7, 0, 3, 3] += 0.5
    touched = network()
    with torch.no_grad():
        touched[0].weight[0, 0, 0, 0] += 1e-3
    first, again, pixel, weight = (
        ap.Problem(model, data=ap.Data(data), evaluation=SETTINGS).fingerprint
        for model, data in ((network(), x), (network(), x), (network(), changed), (touched, x))
    )
    assert first == again
    assert len({first, pixel, weight}) == 3


def test_the_whole_model_is_the_dense_model() -> None:
    """Bit for bit, without a label, whatever the items are: in both evaluators and through a polish."""
    model = network()
    for evaluator in ("inherited", "reconstructed"):
        data = ap.Data(3 * digits(240) - 1)
        problem = ap.Problem(model, data=data, evaluator=evaluator, evaluation=SETTINGS, limits=None)
        with pytest.warns(AutopruneWarning, match="far from those"):
            run = ap.search(problem, "uniform", budget=3)
        assert "far from those that the model came with" in run.report(measure=False).html.read_text(encoding="utf-8")
        full = max(run.outcomes, key=lambda outcome: outcome.costs["macs"])
        assert full.metrics == {"distance": 0.0}
        point = run.point(full.job.id)
        for state in (point.build().state_dict(), point.build(polish=evaluator == "reconstructed").state_dict()):
            assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:the polish of", "ignore:the training was not taken")  # a fraction of a second
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_output_is_searched_without_labels(kind: str) -> None:
    """Maps, tokens, mappings, data classes and lists: searched, polished, recovered; nearer with every step."""
    torch.manual_seed(0)
    model = output_kinds()[kind]().network().eval()
    data = ap.Data(digits())
    problem = ap.Problem(model, data=data, evaluator="reconstructed", criterion="obs", evaluation=SETTINGS, levels=4)
    run = ap.search(problem, "knapsack", budget=14)
    point = run.pick(limits={"macs": "70%"})
    assert 0 < point.metrics["distance"] < 2
    polished = problem.evaluator.measure(point.build(polish=True))["distance"]
    assert polished <= point.metrics["distance"]
    steps = ap.FitSettings(learning_rate=1e-3, batch_size=32, distillation=ap.Distillation(weight=1.0))
    trained = ap.recover(point.build(polish=True), model, data, minutes=0.01, settings=steps)
    assert problem.evaluator.measure(trained)["distance"] < 2 * polished
    full = problem.evaluator.build(tuple(problem.space.full_genome.tolist()), *_inherited(problem))
    assert all(torch.equal(tensor, full.state_dict()[name]) for name, tensor in model.state_dict().items())


def _inherited(problem: ap.Problem) -> tuple[Any]:
    from autoprune.criteria.scoring import order, scores
    from autoprune.weight_sets import Inherited

    found = scores("l2", problem.model, problem.structure)
    return (Inherited(problem.weights, order(found)),)


@pytest.mark.filterwarnings("ignore:the polish of")
def test_one_call_and_a_fine_tuning_need_no_labels(tmp_path: Path) -> None:
    """`prune` says a distance; `finetune` learns from the dense model alone; distances, of test items, too."""
    model, x = network(), digits(300)
    data = ap.Data(x[:200], x[200:250], x[250:])
    found = ap.prune(model, data, {"macs": "50%"}, recover="distill", minutes=0.01, store=tmp_path / "run")
    assert found.share["macs"] <= 0.5
    assert found.after["distance"] <= found.steps["cut"]["distance"]
    assert set(found.after) == {"distance"}
    assert "distance" in found.summary
    run = ap.open_run(tmp_path / "run", found.point.run.problem)
    tuned = ap.finetune(run, 1, epochs=1, settings=None)
    (point,) = tuned.points
    assert point.metrics.keys() == point.test_metrics.keys() == {"distance"}
    run.refresh()
    used = run.record.records(FINETUNE)[0]["settings"]
    wanted = as_json(replace(IMITATION, epochs=1))
    wanted["learning_rate"] = used["learning_rate"]  # that which was found
    assert {name: used[name] for name in wanted} == wanted, "trained as a recovery is"
    with pytest.raises(InvalidArgumentError, match="fine-tuning on labels needs a loss"):
        ap.finetune(run, 1, epochs=1, settings=ap.FitSettings())


REFUSED: dict[str, Callable[[ap.Data], Any]] = {
    "criterion": lambda data: ap.Problem(network(), data=data, criterion="taylor"),
    "labels": lambda data: ap.Problem(network(), data=data, criterion="relevance_lasso"),
    "evaluator": lambda data: ap.Problem(network(), data=data, evaluator="short_training"),
    "dais": lambda data: ap.search(ap.Problem(network(), data=data, evaluation=SETTINGS), "dais", 5),
    "dsa": lambda data: ap.search(ap.Problem(network(), data=data, evaluation=SETTINGS), "dsa", 5),
    "metapruning": lambda data: ap.search(ap.Problem(network(), data=data, evaluation=SETTINGS), "metapruning", 5),
    "ranking": lambda data: ap.search(
        ap.Problem(network(), data=data, evaluation=SETTINGS), "global_ranking:taylor", 5
    ),
    "compare": lambda data: ap.compare(
        ap.Problem(network(), data=data, evaluation=SETTINGS), ["dsa"], ap.Budget(evaluations=5), seeds=1
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_needs_labels_says_so_at_the_door(what: str) -> None:
    """Each names what lacks, what to give, and what does without labels."""
    with pytest.raises(InvalidArgumentError, match=r"needs .*, and the data has no targets; give targets .*, or "):
        REFUSED[what](ap.Data(digits()))


def test_tasks_and_objectives_that_need_targets_say_so() -> None:
    """Accuracy, a Classification and torchmetrics: refused when the problem is made."""
    data = ap.Data(digits())
    with pytest.raises(InvalidArgumentError, match=r"'accuracy' needs a task.*distance, macs"):
        ap.Problem(network(), data=data, objectives=("accuracy", "macs"))
    with pytest.raises(DataError, match="Classification measures by targets, and the validation data has none"):
        ap.Problem(network(), data=data, task=ap.Classification())
    x, y = next(iter(labelled().train.loader(300)))
    with pytest.raises(DataError, match="and the test data has none"):
        ap.Problem(network(), data=ap.Data((x[:100], y[:100]), (x[100:200], y[100:200]), x[200:]))


def test_labels_that_are_there_may_be_left_out_of_it() -> None:
    """`Unlabelled` with labelled data, and a function of the model without data of its own: both search."""
    problem = ap.Problem(network(), data=labelled(), task=ap.Unlabelled(), evaluation=SETTINGS)
    assert problem.objectives.names == ("distance", "macs")
    score = ap.FunctionTask(None, {"max:positive": lambda model: float(model(digits(20)).max())})
    problem = ap.Problem(network(), data=ap.Data(digits()), task=score, evaluation=SETTINGS)
    assert problem.objectives.names == ("positive", "macs")
    assert set(ap.search(problem, "random", 3).outcomes[-1].metrics) == {"positive", "distance"}


@pytest.mark.parametrize("strategy", ["metapruning", "slimmable"])
def test_weights_for_all_widths_learn_from_the_dense_model_alone(strategy: str) -> None:
    """Structures that learn the dense model's answers, generated or sliced, need no labels, and are let through."""
    problem = ap.Problem(network(), data=ap.Data(digits()), evaluation=SETTINGS, levels=3)
    settings = {"population": 4, "epochs": 1, "preparation": {"distillation": 1.0, "learning_rate": 1e-3}}
    run = ap.search(problem, strategy, 6, settings=settings)
    assert len(run.front)


@pytest.mark.filterwarnings("ignore:the polish of")
def test_one_item_and_no_batchnorm() -> None:
    """Two items make a problem, one to calibrate on and one to measure; a net without BatchNorm is no exception."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    with pytest.raises(DataError, match="give more data"):
        ap.Data(digits(1))
    for net in (model, network()):
        found = ap.prune(net, ap.Data(digits(2)), {"macs": "60%"})
        assert np.isfinite(found.after["distance"])


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(600)
def test_workers_elsewhere_measure_the_same(tmp_path: Path) -> None:
    """Data without targets and its problem travel to a worker, and the figures are those of this process."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)
    ).eval()
    found = []
    for i, executor in enumerate((None, ap.RaySettings(workers=1))):
        problem = ap.Problem(model, data=ap.Data(digits(100)), evaluation=SETTINGS)
        run = ap.search(problem, "random", 4, executor=executor, store=tmp_path / str(i))
        found.append([outcome.metrics for outcome in run.outcomes])
    assert found[0] == found[1]
    assert len(found[0]) == 4


NETWORK = """
import numpy as np, torch, autoprune as ap
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))

def data():
    return ap.Data(np.random.default_rng(0).normal(size=(200, 1, 8, 8)).astype(np.float32))
"""


@pytest.mark.filterwarnings("ignore:the polish of")
@pytest.mark.parametrize("source", ['factory = "network.py:data"', 'name = "npz:x.npz"'])
def test_problem_files_and_the_command_line(source: str, tmp_path: Path) -> None:
    """A file whose data has no labels: plan, search, report, prune."""
    (tmp_path / "network.py").write_text(NETWORK)
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(200, 1, 8, 8)).astype(np.float32))
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    torch.save(namespace["build"]().state_dict(), tmp_path / "weights.pt")
    file = tmp_path / "problem.toml"
    file.write_text(
        f'[model]\nfactory = "network.py:build"\nweights = "weights.pt"\ninput = [1, 8, 8]\n[data]\n{source}\n'
        '[limits]\nmacs = "60%"\n[evaluator]\nn_calibration = 50\n'
    )
    runner = CliRunner()

    def call(*words: str) -> str:
        result = runner.invoke(app, [*words])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "MACs" in call("plan", str(file))
    call("search", str(file), "--evaluations", "6", "--store", str(tmp_path / "run"), "--quiet", "--strategy", "random")
    call("report", str(tmp_path / "run"))
    printed = json.loads(call("prune", str(file), "-o", str(tmp_path / "small.autoprune"), "--json"))
    assert printed["dense"] == {"distance": 0.0}
    assert (tmp_path / "small.autoprune").exists()
    wrong = runner.invoke(app, ["search", str(file), "--strategy", "dsa", "--store", str(tmp_path / "other")])
    assert wrong.exit_code != 0
    assert "needs a loss" in " ".join(wrong.output.split())
    assert not (tmp_path / "other" / "run.sqlite").exists()
