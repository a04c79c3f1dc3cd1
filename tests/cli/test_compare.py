"""`autoprune compare`: one command from a problem file to tables, JSON and a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoprune.cli.app import app
from autoprune.config import recorded_problem

NETWORK = """
from torch import nn

def net(width=8):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10),
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

[evaluator]
n_calibration = 32
n_validation = 64

[compare]
strategies = ["knapsack"]
budget = { evaluations = 6 }
seeds = 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with a small network and a problem file."""
    (tmp_path / "network.py").write_text(NETWORK)
    (tmp_path / "tiny.toml").write_text(PROBLEM)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_compare_and_go_on_with_more_strategies(folder: Path) -> None:
    """The table, the page and the CSV files are there; the second call adds a strategy; points can be exported."""
    command = ["compare", "tiny.toml", "--no-test"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.stderr
    assert "knapsack" in first.stdout
    assert "Too early to say who leads" in first.stdout.replace("\n", " ")
    store = folder / "runs" / "tiny-compare"
    assert (store / "compare.html").exists()
    assert (store / "compare.csv").exists()
    assert (store / "compare-seeds.csv").exists()
    second = CliRunner().invoke(app, [*command, "--strategy", "pymoo:nsga2", "--json"])
    assert second.exit_code == 0, second.stderr
    figures = json.loads(second.stdout)
    baselines = {"uniform", "random", "global_ranking", "knapsack:front"}
    assert {row["strategy"] for row in figures["strategies"]} == {"pymoo:nsga2", *baselines}
    assert figures["skipped"] == []
    assert all(row["test"] == "none, fewer than 6 seeds" for row in figures["differences"])
    assert recorded_problem(store / "random-0").name == "tiny"
    exported = CliRunner().invoke(app, ["export", str(store / "random-0"), "--output", "small.autoprune"])
    assert exported.exit_code == 0, exported.stderr
    assert (folder / "small.autoprune").exists()


@pytest.mark.filterwarnings("ignore:the polish of")
def test_structures_are_retrained_from_the_dense_weights(folder: Path) -> None:
    """By the option or by the file; gains and total costs are printed, on the page, and in the JSON."""
    command = ["compare", "tiny.toml", "--strategy", "random", "--epochs", "0.05"]
    refused = CliRunner().invoke(app, [*command[:-1], "0", "--retrain", "dense"])
    assert refused.exit_code == 1
    assert "expected finetune=" in refused.stderr.replace("\n", " ")
    printed = CliRunner().invoke(app, [*command, "--retrain", "dense"])
    assert printed.exit_code == 0, printed.stderr
    assert "gain of" in printed.stdout
    assert "total MACs" in printed.stdout
    (folder / "tiny.toml").write_text(PROBLEM + 'retrain = "dense"\n')
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.stderr
    figures = json.loads(done.stdout)
    assert {row["gain"] for row in figures["gains"]} == {"search"}  # nobody trains at a budget of evaluations
    assert {(row["n"], row["test"]) for row in figures["gains"]} == {(1, "none, fewer than 6 seeds")}
    assert all(row["macs_total"] > row["macs_search"] > 0 for row in figures["totals"])
    page = Path(figures["report"]).read_text(encoding="utf-8")
    assert "What searches and what weights are worth" in page
    assert "At total cost" in page


def test_weights_are_prepared_for_every_run(folder: Path) -> None:
    """The option and the table of the file say the same; the page names the recipe; every run's folder opens."""
    options = ["--prepare", "sparsify", "--set", "compare.prepare.epochs=0.1"]
    command = [
        "compare",
        "tiny.toml",
        "--no-test",
        "--json",
        "--seeds",
        "2",
        "--evaluations",
        "5",
        "--strategy",
        "random",
    ]
    done = CliRunner().invoke(app, [*command, *options])
    assert done.exit_code == 0, done.stderr
    figures = json.loads(done.stdout)
    assert {row["strategy"]: row["n"] for row in figures["strategies"]} == {
        "uniform": 2,
        "random": 2,
        "global_ranking": 2,
        "knapsack:front": 2,
    }
    assert all(row["macs_prepared"] > 0 for row in figures["seeds"])
    assert "prepared by sparsify (epochs=0.1)" in Path(figures["report"]).read_text(encoding="utf-8")
    assert recorded_problem(folder / "runs" / "tiny-compare" / "uniform-1").name == "tiny"
    (folder / "tiny.toml").write_text(PROBLEM + 'prepare = { recipe = "sparsify", epochs = 0.1 }\n')
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["seeds"] == figures["seeds"]


def test_who_cannot_run_is_printed(folder: Path) -> None:
    """A strategy that the budget is too small for is named with its reason on stderr, and the others are compared."""
    done = CliRunner().invoke(app, ["compare", "tiny.toml", "--evaluations", "1", "--seeds", "1", "--no-test"])
    assert done.exit_code == 0, done.stderr
    assert "not runnable: knapsack" in done.stderr
    assert "random" in done.stdout


def test_a_misspelt_strategy_is_one_line(folder: Path) -> None:
    """An unknown strategy among many ends the command before anything is made."""
    done = CliRunner().invoke(app, ["compare", "tiny.toml", "--strategy", "random", "--strategy", "knapsak"])
    assert done.exit_code == 1
    assert "did you mean 'knapsack'" in done.stderr.replace("\n", " ")
    assert not (folder / "runs").exists()
