"""`autoprune search` and what follows it: show, report, export, resume, interrupt."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import autoprune as ap
from autoprune.artifact import describe
from autoprune.cli.app import app
from autoprune.config import read_problem_file, recorded_problem
from autoprune.config.building import build_model
from autoprune.store.record import RunRecord

NETWORK = """
from torch import nn

def net(width=8):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10),
    )
"""

PROBLEM = """
[model]
factory = "network.py:net"
input = [1, 8, 8]

[training]
epochs = 1

[data]
name = "digits"

[space]
levels = 4

[search]
strategy = "random"
budget = { evaluations = 8 }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with a small network and a problem file."""
    (tmp_path / "network.py").write_text(NETWORK)
    (tmp_path / "problem.toml").write_text(PROBLEM)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_cli(*arguments: str) -> str:
    """Run the command line and return its stdout."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_search_prints_its_front_and_names_the_run(folder: Path) -> None:
    """The folder's default name says problem, strategy and seed; every evaluation of the budget is there."""
    shown = run_cli("search", "problem.toml", "--seed", "3")
    assert "accuracy" in shown
    assert "dense" in shown
    run = ap.open_run(folder / "runs" / "problem-random-3")
    assert run.n_evaluations == 8
    assert run.stop == "evaluations"


@pytest.mark.usefixtures("folder")
def test_json_is_all_there_is_on_stdout_and_agrees_with_the_run() -> None:
    """The front of `search --json`, of `show --json` and of the run's folder are one."""
    found = json.loads(run_cli("search", "problem.toml", "--store", "run", "--json"))
    assert found["front"] == json.loads(run_cli("show", "run", "--json"))["front"]
    front = ap.open_run("run").front
    assert [point["id"] for point in found["front"]] == [point.id for point in front]
    assert [point["costs"] for point in found["front"]] == [dict(point.costs) for point in front]


@pytest.mark.usefixtures("folder")
def test_the_same_command_with_more_budget_goes_on() -> None:
    """A second search in the same folder keeps what was measured and adds to it."""
    run_cli("search", "problem.toml", "--store", "run", "--evaluations", "4")
    before = ap.open_run("run").outcomes
    run_cli("search", "problem.toml", "--store", "run", "--evaluations", "7")
    after = ap.open_run("run").outcomes
    assert len(before) == 4
    assert len(after) == 7
    assert after[:4] == before


@pytest.mark.usefixtures("folder")
def test_limits_of_the_command_line_hold_for_every_candidate() -> None:
    """No candidate of the search is above a limit, in percent or absolute."""
    run_cli("search", "problem.toml", "--store", "run", "--limit", "macs=50%", "--limit", "params=400")
    run = ap.open_run("run")
    assert run.n_evaluations == 8
    assert all(outcome.costs["macs"] <= run.dense["macs"] / 2 for outcome in run.outcomes)
    assert all(outcome.costs["params"] <= 400 for outcome in run.outcomes)


@pytest.mark.usefixtures("folder")
def test_a_run_remembers_its_problem_and_the_command_line() -> None:
    """Report and export find the network by the run's folder alone, with what the command line said."""
    run_cli("search", "problem.toml", "--store", "run", "--limit", "macs=50%", "--seed", "1")
    file = recorded_problem(Path("run"))
    assert file.tables.limits == {"macs": "50%"}
    assert file.tables.search.seed == 1
    run_cli("report", "run", "--points", "1")
    assert Path("run/report.html").stat().st_size > 1000
    assert len(ap.open_run("run").record.records("latency")) == 1


@pytest.mark.usefixtures("folder")
def test_the_page_of_one_point() -> None:
    """What is missing of its figures is measured, once; a wrong number and options of other pages are refused."""
    run_cli("search", "problem.toml", "--store", "run")
    found = [outcome.job.id for outcome in ap.open_run("run").outcomes]
    for id_ in (found[0], found[-1], found[0]):
        assert run_cli("report", "run", "--point", str(id_)) == f"run/point-{id_}.html\n"
        page = Path(f"run/point-{id_}.html").read_text(encoding="utf-8")
        assert "measured latency" in page
        assert "accuracy, test" in page
        assert f"autoprune export run --point {id_}" in page
    record = ap.open_run("run").record
    timed = [{row["point"] for row in timing["rows"]} for timing in record.records("latency")]
    assert timed == [{None, found[0]}, {None, found[0], found[-1]}]
    assert [kept["point"] for kept in record.records("metrics")] == [found[0], found[-1]]
    assert not Path("run/report.html").exists()
    for wrong in (["--point", "99"], ["--point", "0", "--watch", "5"], ["--point", "0", "--optuna", "x.db"]):
        assert CliRunner().invoke(app, ["report", "run", *wrong]).exit_code != 0


@pytest.mark.usefixtures("folder")
def test_every_form_of_export_computes_the_same() -> None:
    """A pruned-model file, ONNX, a torch.export program and plain weights of one point give one output."""
    run_cli("search", "problem.toml", "--store", "run")
    for form in ("autoprune", "onnx", "torch", "safetensors"):
        run_cli("export", "run", "--max-macs", "60%", "--format", form, "--output", f"model.{form}")
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    dense = build_model(read_problem_file("problem.toml"), with_weights=False)
    small = ap.load("model.autoprune", dense)
    expected = small(images).detach()
    onnx = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    (from_onnx,) = onnx.run(None, {onnx.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(from_onnx, expected.numpy(), atol=1e-5)
    program = torch.export.load("model.torch").module()
    torch.testing.assert_close(program(images), expected, atol=1e-5, rtol=1e-5)
    state = safetensors.torch.load_file("model.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in small.state_dict().items())
    assert describe("model.autoprune")["costs"]["macs"] <= 0.6 * ap.open_run("run").dense["macs"]


@pytest.mark.usefixtures("folder")
def test_a_pruned_model_file_can_be_shown_and_exported() -> None:
    """What a file says about itself needs no network; exporting it needs the problem."""
    run_cli("search", "problem.toml", "--store", "run")
    run_cli("export", "run", "--point", "0", "--output", "small.autoprune")
    assert json.loads(run_cli("show", "small.autoprune", "--json"))["note"] == "point 0 of run"
    run_cli("export", "small.autoprune", "--format", "safetensors", "--problem", "problem.toml")
    assert Path("small.safetensors").exists()


def test_points_are_polished_where_that_is_asked_for(folder: Path) -> None:
    """`export` and `report` take the polished model; what cannot be polished is refused before anything is written."""
    (folder / "problem.toml").write_text(f"{PROBLEM}\n[evaluator]\nn_calibration = 200\n")
    run_cli("search", "problem.toml", "--store", "run", "--evaluator", "reconstructed", "--criterion", "obs")
    half = ["export", "run", "--max-macs", "60%", "--output"]
    run_cli(*half, "plain.autoprune")
    run_cli(*half, "polished.autoprune", "--polish")
    dense = build_model(read_problem_file("problem.toml"), with_weights=False)
    plain, polished = (dict(ap.load(f"{name}.autoprune", dense).named_parameters()) for name in ("plain", "polished"))
    assert {name: tensor.shape for name, tensor in plain.items()} == {n: t.shape for n, t in polished.items()}
    assert any(not torch.equal(tensor, polished[name]) for name, tensor in plain.items())
    run_cli("report", "run", "--points", "1", "--polish")
    assert {record["role"] for record in ap.open_run("run").record.records("metrics")} == {"test", "polished"}
    for arguments in (
        ["export", "plain.autoprune", "--format", "onnx", "--polish"],
        ["report", "run", "--no-measure", "--polish"],
    ):
        refused = CliRunner().invoke(app, arguments)
        assert refused.exit_code == 2
        assert "--polish" in refused.stderr
    assert not Path("plain.onnx").exists()


BOTTLENECKS = """
[model]
factory = "autoprune.testing.digits_bottlenecks:Inverted"
kwargs = { channels = 8, blocks = 1 }
input = [1, 8, 8]

[training]
epochs = 1

[data]
name = "digits"

[evaluator]
n_calibration = 64
n_validation = 64

[search]
strategy = "random"
budget = { evaluations = 2 }
"""


def test_commands_say_which_weights_a_search_begins_with(folder: Path) -> None:
    """`plan` before it, `search` and `show` after it: turned channels, or with `--prepare none` the given ones."""
    (folder / "inverted.toml").write_text(BOTTLENECKS)
    turned = "turned into a better basis first by rotate"
    assert f"weights that a search begins with: {turned}" in " ".join(run_cli("plan", "inverted.toml").split())
    assert json.loads(run_cli("plan", "inverted.toml", "--json"))["weights"] == turned
    given = json.loads(run_cli("plan", "inverted.toml", "--json", "--set", "search.prepare=none"))
    assert given["weights"] == "as they were given"
    assert f"weights {turned}" in run_cli("search", "inverted.toml")
    assert f"weights {turned}" in run_cli("show", "runs/inverted-random-0")
    assert turned not in run_cli("search", "inverted.toml", "--prepare", "none")
    assert ap.open_run("runs/inverted-random-given-0").meta.method == "random"
    assert f"weights {turned}" in run_cli("search", "inverted.toml", "--prepare", "auto", "--evaluations", "3")
    assert ap.open_run("runs/inverted-random-0").n_evaluations == 3
    refused = CliRunner().invoke(
        app, ["search", "inverted.toml", "--prepare", "none", "--store", "runs/inverted-random-0"]
    )
    assert refused.exit_code == 1
    assert "was searched by random, weights turned" in " ".join(refused.output.split())


@pytest.mark.usefixtures("folder")
def test_a_plan_times_a_pilot() -> None:
    """The estimate is the budget's evaluations times the mean of two timed ones."""
    plan = json.loads(run_cli("plan", "problem.toml", "--json"))
    pilot = plan["pilot"]
    assert pilot["dense_seconds"] > 0
    assert plan["estimated_seconds"] == pytest.approx(4 * (pilot["dense_seconds"] + pilot["smallest_seconds"]))
    assert set(plan["reach"]) == {"macs", "params", "peak_bytes"}
    assert 0 < plan["shares"]["macs"] <= 1


def evaluated(folder: Path) -> int:
    """Return the number of outcomes in a run that may not have begun."""
    if not (folder / "run.sqlite").exists():
        return 0
    return len(RunRecord.read(folder).outcomes)


def test_an_interrupt_ends_cleanly_and_names_the_command_that_resumes(folder: Path) -> None:
    """Ctrl-C: exit code 130, no traceback; the printed command finishes the run and repeats nothing."""
    large = PROBLEM.replace('net"', 'net"\nkwargs = { width = 64 }').replace("levels = 4", "levels = 64")
    (folder / "problem.toml").write_text(large)  # thousands of networks, which take a while
    arguments = ["search", "problem.toml", "--store", "run", "--evaluations", "100000"]
    command = [sys.executable, "-c", "from autoprune.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(ap.__file__).parents[1])}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 100
    while evaluated(folder / "run") < 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert shown == ""
    assert "Traceback" not in errors
    *_, first, resume = errors.splitlines()  # behind warnings
    run = ap.open_run(folder / "run")
    before = run.outcomes
    done = rf"{len(before):,} evaluations so far, {len(run.front)} points? on the front"
    assert re.fullmatch(rf"interrupted after {done}; nothing is lost\. Resume with:", first)
    words = shlex.split(resume)
    assert words[1:] == arguments[: len(words) - 1]
    run_cli(*words[1:-1], str(len(before) + 3))  # with a smaller budget, or the test would not end
    after = ap.open_run(folder / "run").outcomes
    assert len(after) == len(before) + 3
    assert after[: len(before)] == before


def test_options_say_what_the_file_could(folder: Path) -> None:
    """Objectives, widths, locks, device and settings of the strategy, without a word in the file."""
    options = ["--objective", "accuracy", "--objective", "min:params", "--divisor", "4", "--levels", "2", "--lock", "3"]
    options += ["--device", "cpu", "--strategy", "pymoo:nsga2", "--settings", "population=6", "--evaluations", "4"]
    run_cli("search", "problem.toml", "--store", "run", "--quiet", *options)
    run = ap.open_run(folder / "run")
    assert run.record.objectives.names == ("accuracy", "params")
    assert {variable.name: variable.widths for variable in run.space.variables} == {"0": (4, 8)}
    assert recorded_problem(folder / "run").tables.search.settings == {"population": 6}
    assert run.meta.environment["device"] == "cpu"
    wrong = ["search", "problem.toml", "--settings", "populaton=6", "--strategy", "pymoo:nsga2"]
    assert "did you mean 'population'?" in CliRunner().invoke(app, wrong).output


def test_names_are_completed(folder: Path) -> None:
    """The shell is told the names that begin as the word does."""
    asked = {
        "_AUTOPRUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": "autoprune search x --strategy pym",
        "COMP_CWORD": "4",
    }
    code = "import sys; sys.argv = ['autoprune']; from autoprune.cli import main; main()"
    environment = {**os.environ, **asked, "PYTHONPATH": str(Path(ap.__file__).parents[1])}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert sorted(shown.stdout.split()) == ["pymoo:nsga2", "pymoo:nsga3", "pymoo:smsemoa"]


def test_finetuned_points_are_models(folder: Path) -> None:
    """As many points as were asked for, with figures before and after, in files that load."""
    run_cli("search", "problem.toml", "--store", "run", "--quiet")
    points = json.loads(run_cli("finetune", "run", "--points", "2", "--epochs", "1", "--json"))
    assert 1 <= len(points) <= 2
    for point in points:
        assert {"before", "validation", "test", "costs"} <= point.keys()
        assert describe(point["file"])["costs"] == point["costs"]
