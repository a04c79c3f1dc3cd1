"""What a newcomer types: folders of runs, missing files, shorter budgets, runs made in Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import autoprune as ap
from autoprune.cli.app import app
from autoprune.testing.digits_network import digits_network

PROBLEM = """
[model]
factory = "autoprune.testing.digits_network:digits_network"
weights = "weights.safetensors"
input = [1, 8, 8]
[data]
name = "digits"
[space]
levels = 4
[evaluator]
n_calibration = 32
n_validation = 64
[search]
strategy = "random"
budget = { evaluations = 6 }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder, its name beyond ASCII, with a problem file and weights."""
    from safetensors.torch import save_model

    here = tmp_path / "Ünï [cödé] 猫"
    here.mkdir()
    save_model(digits_network(), str(here / "weights.safetensors"))
    (here / "problem.toml").write_text(PROBLEM)
    monkeypatch.chdir(here)
    return here


def call(*arguments: str) -> Result:
    """Run a command line."""
    return CliRunner().invoke(app, list(arguments))


def text(result: Result) -> str:
    """Return what was written for humans, on one line."""
    return " ".join(result.stderr.split())


@pytest.mark.usefixtures("folder")
def test_a_folder_of_runs_is_listed_and_a_shorter_budget_is_answered() -> None:
    """`show runs` lists; a smaller number of evaluations than there are says that all are shown."""
    for seed in ("0", "1"):
        done = call("search", "problem.toml", "--seed", seed, "--quiet")
        assert done.exit_code == 0, done.stderr
        assert "already" not in done.stderr
    listed = call("show", "runs")
    assert listed.exit_code == 0
    assert "problem-random-0" in listed.stdout
    assert "problem-random-1" in listed.stdout
    assert {row["evaluations"] for row in json.loads(call("show", "runs", "--json").stdout)} == {6}
    again = call("search", "problem.toml", "--seed", "0", "--evaluations", "3")
    assert "holds 6 evaluations already, more than the 3 asked for" in text(again)
    exported = call("export", "runs/problem-random-0", "--limit", "params=90%", "--at-least", "accuracy=1%")
    assert exported.exit_code == 0, exported.stderr


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("search", "problem.toml", "--limit", "macs=60"), "Did you mean '60%' of the dense model's macs"),
        (("search", "problem.toml", "--limit", "macs"), "NAME=VALUE"),
        (("search", "problem.toml", "--strategy", "nsga2"), "did you mean 'pymoo:nsga2'"),
        (("search", "problem.toml", "--executor", "spark"), "in-process"),
        (("search", "problem.toml", "--executor", "ray:4"), "ap.RaySettings(workers=4)"),
        (("compare", "problem.toml", "--executor", "spark"), "in-process"),
        (("search", "."), "is a folder"),
        (("search", "problem.toml", "--data", "npz:runs"), "the command line: data.name: expected"),
        (("search", "problem.toml", "--store", "problem.toml"), "there is a file of that name"),
        (("compare", "problem.toml", "--evaluations", "2", "--store", "problem.toml"), "there is a file of that name"),
        (("demo", "--folder", "problem.toml"), "there is a file of that name"),
        (("search", "problem"), "expected a search space or a file"),
        (("export", "missing-file"), "there is nothing at missing-file"),
        (("export", "missing.autoprune"), "there is nothing at missing.autoprune"),
        (("export", "x" * 300), "xxx"),
        (("export", "."), "there is no run.sqlite"),
        (("finetune", "missing"), "missing"),
        (("report", "missing"), "missing"),
        (("report", "problem.toml"), "problem.toml"),
        (("show", "missing"), "there is nothing at missing"),
        (("show", "."), "run"),
        (("show", "problem.toml"), "not a pruned-model file"),
    ],
)
def test_wrong_arguments_are_answered_in_one_sentence(arguments: tuple[str, ...], expected: str, folder: Path) -> None:
    """No traceback, no new folder, no blame of files that have done nothing."""
    before = sorted(folder.rglob("*"))
    done = call(*arguments)
    assert done.exit_code in (1, 2), done.output
    assert expected in text(done)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "site-packages" not in done.stderr
    if arguments[-1] not in ("macs=60", "npz:runs"):  # found when the data is read, or the network is traced
        assert sorted(folder.rglob("*")) == before


def test_a_run_made_in_python_says_how_it_is_exported(folder: Path) -> None:
    """Its report names Python, and the command explains itself."""
    problem = ap.Problem(
        digits_network(), data=ap.load_data("digits"), levels=4, evaluation={"n_calibration": 32, "n_validation": 64}
    )
    run = ap.search(problem, "random", 3, store=folder / "run")
    page = run.report(measure=False).html.read_text()
    assert "autoprune export" not in page
    assert f".point({run.front[0].id}).build()" in page
    assert "ap.open_run('run', problem)" in text(call("export", "run"))
