"""What a new user gets wrong: each is answered by one message that says what was expected, what came, what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from autoprune.cli.app import app

NETWORK = """
from torch import nn

def net(width=8):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )

def output_only():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""

PROBLEM = """
[model]
factory = "network.py:net"
input = [1, 8, 8]

[training]
epochs = 0.2

[data]
name = "digits"

[evaluator]
n_calibration = 100
n_validation = 50

[search]
strategy = "random"
budget = { evaluations = 3 }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with a small network and a sound problem file."""
    (tmp_path / "network.py").write_text(NETWORK)
    (tmp_path / "problem.toml").write_text(PROBLEM)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fails(*arguments: str, code: int = 1) -> str:
    """Run the command line, check that it fails cleanly, and return what it says in one line."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.replace("│", " ").split())


def edited(folder: Path, old: str, new: str) -> str:
    """Return the path of the problem file with ``old`` replaced."""
    assert old in PROBLEM
    path = folder / "edited.toml"
    path.write_text(PROBLEM.replace(old, new))
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        ("factory =", "factry =", ["line 3: model: unknown key 'factry' (did you mean 'factory'?)", "has 2 mistakes"]),
        ("epochs = 0.2", 'epochs = "two"', ["line 7: training.epochs: expected a number, got 'two'"]),
        ("evaluations = 3", "evaluations = 0", ["search.budget.evaluations: expected at least 1, got 0"]),
        ('"random"', '"randm"', ["search.strategy: unknown strategy 'randm' (did you mean 'random'?)"]),
        ("[data]", "[data", ["edited.toml is not TOML", "line 9"]),
        (
            "network.py:net",
            "network.py:nett",
            ["line 3: model.factory: expected a callable 'nett' in 'network.py'", "(did you mean 'net'?)"],
        ),
        (
            "network.py:net",
            "nowork:net",
            ["there is no module 'nowork', neither in", "write 'package.module:net' or 'file.py:net'"],
        ),
        ("[1, 8, 8]", "[3, 8, 8]", ["error: "]),
        ("[training]", "[space]\nlocks = ['layer9']\n[training]", ["line 6: space: ", "'layer9'"]),
        (
            "[training]",
            "[reference]\nmacs = 12\n[training]",
            ["line 7: reference.macs: expected the network of the file to have 12 macs, and it has"],
        ),
        ("network.py:net", "network.py:output_only", ["error: "]),
    ],
)
def test_a_wrong_problem_file(folder: Path, old: str, new: str, messages: list[str]) -> None:
    """A wrong key, type, value, name, network or layer is reported with the file's line."""
    shown = fails("plan", edited(folder, old, new), "--no-pilot")
    assert all(message in shown for message in messages), shown


@pytest.mark.usefixtures("folder")
def test_an_unknown_space() -> None:
    """Names of search spaces get a suggestion."""
    assert "got 'digits-resnt' (did you mean 'digits-resnet'?)" in fails("plan", "digits-resnt")


@pytest.mark.usefixtures("folder")
def test_an_infeasible_limit() -> None:
    """The smallest reachable value is named."""
    shown = fails("plan", "problem.toml", "--no-pilot", "--limit", "macs=0.01%")
    assert "macs" in shown
    assert "smallest" in shown


@pytest.mark.usefixtures("folder")
def test_a_limit_that_is_none() -> None:
    """The form of the option is explained; wrong usage is exit code 2."""
    assert "expected NAME=VALUE such as macs=60%, got 'macs'" in fails(
        "plan", "problem.toml", "--limit", "macs", code=2
    )


@pytest.mark.usefixtures("folder")
def test_an_unknown_cost() -> None:
    """A limit on something that is not counted gets a suggestion, and is told from a mistake in the file."""
    shown = fails("plan", "problem.toml", "--limit", "parms=60%")
    assert "the command line has 1 mistake: limits.parms: unknown cost 'parms' (did you mean 'params'?)" in shown


@pytest.mark.usefixtures("folder")
def test_weights_that_are_missing() -> None:
    """The path is named."""
    shown = fails("search", "problem.toml", "--weights", "nowhere.pt")
    assert "the command line has 1 mistake: model.weights: expected a weights file" in shown


def test_weights_that_are_no_weights(folder: Path) -> None:
    """A file of another kind is refused without being executed."""
    (folder / "weights.pt").write_text("these are no weights")
    shown = fails("search", "problem.toml", "--weights", "weights.pt")
    assert "expected a safetensors file or a state dict saved by torch at" in shown


def test_weights_of_another_network(folder: Path) -> None:
    """What is missing and what does not belong is named."""
    torch.save({"head.weight": torch.zeros(3)}, folder / "weights.pt")
    shown = fails("search", "problem.toml", "--weights", "weights.pt")
    assert "are not of this model" in shown
    assert "1 tensors are not the model's (head.weight)" in shown


def test_no_weights(folder: Path) -> None:
    """A search of an untrained network is refused with the three ways out."""
    shown = fails("search", edited(folder, "[training]\nepochs = 0.2\n", ""))
    assert "a search needs a trained network: name its weights (or --weights), or add a [training] table" in shown


def test_no_data(folder: Path) -> None:
    """A search without data is refused."""
    shown = fails("search", edited(folder, '[data]\nname = "digits"\n', ""))
    assert "a search needs data: name some in [data], or with --data" in shown


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "the command line has 1 mistake: data.name: unknown data 'digit' (did you mean 'digits'?)"),
        ("npz", "the command line has 1 mistake: data.name: expected 'npz:PATH', got 'npz'"),
        ("npz:nowhere.npz", "there is no file or folder"),
    ],
)
def test_data_that_is_not_there(name: str, message: str) -> None:
    """Unknown names and missing files are told apart."""
    assert message in fails("search", "problem.toml", "--data", name)


def test_a_store_that_cannot_be_written(folder: Path) -> None:
    """A run folder below a file cannot be made; another one is asked for."""
    (folder / "taken").write_text("a file")
    shown = fails("search", "problem.toml", "--store", "taken/run")
    assert "cannot write to the folder taken/run" in shown
    assert "name another one with --store" in shown


@pytest.mark.usefixtures("folder")
def test_a_budget_of_nothing() -> None:
    """Zero evaluations are wrong usage."""
    assert "--evaluations" in fails("search", "problem.toml", "--evaluations", "0", code=2)


def test_a_store_of_another_problem(folder: Path) -> None:
    """A run folder is never mixed with another problem's; it keeps naming its own."""
    assert CliRunner().invoke(app, ["search", "problem.toml", "--store", "run"]).exit_code == 0
    recorded = (folder / "run" / "problem.json").read_text()
    shown = fails(
        "search", edited(folder, "network.py:net", 'network.py:net"\nkwargs = { width = 6 }#'), "--store", "run"
    )
    assert "the run in run searched another problem: the search space" in shown
    assert "choose another folder" in shown
    assert (folder / "run" / "problem.json").read_text() == recorded


def test_a_damaged_store(folder: Path) -> None:
    """Whatever reads a run says that it is damaged."""
    assert CliRunner().invoke(app, ["search", "problem.toml", "--store", "run"]).exit_code == 0
    ledger = folder / "run" / "run.sqlite"
    ledger.write_bytes(b"this is no database" + ledger.read_bytes()[19:])
    for command in (["search", "problem.toml", "--store", "run"], ["report", "run"], ["show", "run"]):
        assert "run.sqlite" in fails(*command)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", ["report", "show", "export"])
def test_a_folder_that_is_no_run(command: str, folder: Path) -> None:
    """The folder is named."""
    (folder / "empty").mkdir()
    assert "empty" in fails(command, "empty")


def test_a_model_file_that_is_none(folder: Path) -> None:
    """A foreign file is refused by name."""
    (folder / "model.autoprune").write_text("not a model")
    assert "model.autoprune" in fails("show", "model.autoprune")
    assert "name the problem with --problem" in fails("export", "model.autoprune", "--format", "onnx")


@pytest.mark.usefixtures("folder")
def test_a_point_that_is_not_there() -> None:
    """The number of the point is repeated."""
    assert CliRunner().invoke(app, ["search", "problem.toml", "--store", "run"]).exit_code == 0
    assert "99" in fails("export", "run", "--point", "99")
    assert "smallest macs" in fails("export", "run", "--max-macs", "0.01%")


@pytest.mark.parametrize("place", ["missing/small.autoprune", "taken", "problem.toml/small.autoprune"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(folder: Path, place: str) -> None:
    """Nothing is trained and nothing is lost: pruning took minutes, and its result had nowhere to go."""
    (folder / "taken").mkdir()
    (folder / "network.py").write_text(NETWORK + "\nraise RuntimeError('the network was built')\n")
    said = fails("prune", "problem.toml", "--limit", "macs=50%", "-o", place)
    assert "cannot write" in said
    assert place in said
    (folder / "taken" / "small-60%.autoprune").mkdir()
    said = fails("prune", "problem.toml", "--limit", "macs=70%", "--limit", "macs=60%", "-o", "taken/small.autoprune")
    assert "cannot write taken/small-60%.autoprune" in said


@pytest.mark.parametrize("written", ["", "\n[limits]\nmacs = '70%'\n"])
def test_a_limit_of_the_command_line_is_not_said_to_be_in_the_file(folder: Path, written: str) -> None:
    """Whether the file has limits of its own or none: the mistake is where it was made, under its name."""
    (folder / "problem.toml").write_text(PROBLEM + written)
    said = fails("prune", "problem.toml", "--limit", "latency=3")
    assert "the command line has 1 mistake" in said
    assert "limits.latency: expected the limit on latency as a percentage" in said
    (folder / "problem.toml").write_text(PROBLEM + "\n[limits]\nmacs = '70%'\nparams = '3ms'\n")
    said = fails("prune", "problem.toml")
    line = 2 + PROBLEM.count("\n") + 2
    assert f"line {line}: limits.params: expected the limit on params" in said
