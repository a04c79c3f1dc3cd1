"""A package of somebody else, installed: what it registers works wherever a name or settings can be given."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.plugins.conftest import Run, install

HERE = Path(__file__).parent
PACKAGE = HERE / "acme"

PROBLEM = """
[model]
factory = "torch_net:build"
input = [1, 8, 8]

[training]
epochs = 2
batch_size = 32

[data]
name = "acme_rings"

[evaluator]
name = "acme_damped"
criterion = { name = "acme_first", last = true }
n_calibration = 100
damping = 0.8

[search]
strategy = "acme:coins"
settings = { chance = 0.3 }
budget = { evaluations = 12 }
prepare = { recipe = "sparsify", regularizer = "acme_ridge", epochs = 1.0, regularization = { after = 0.5 } }
"""

NETWORK = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(432, 3),
    )
"""

IN_PYTHON = """
import sys
import torch, autoprune as ap
from acme.coins import CoinSettings
from acme.damped import DampedSettings
from torch_net import build

torch.manual_seed(0)
model, data = build(), ap.load_data("acme_rings")
ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=2, batch_size=32))
tables = []
for evaluation, settings in (({"damping": 0.8}, {"chance": 0.3}), (DampedSettings(damping=0.8), CoinSettings(0.3))):
    problem = ap.Problem(
        model, data=data, criterion="acme_first", evaluator="acme_damped", evaluation=evaluation
    )
    run = ap.search(problem, "acme:coins", ap.Budget(evaluations=12), settings=settings)
    point = run.pick(max_macs="90%")
    assert problem.evaluator.measure(point.build()) == dict(point.metrics)
    tables.append(run.front.table()[["accuracy", "macs"]])
assert tables[0].equals(tables[1])
for bad, words in (({"chances": 1}, "did you mean 'chance'"), ({"chance": 2.0}, "between 0 and 1")):
    try:
        ap.search(problem, "acme:coins", ap.Budget(evaluations=2), settings=bad)
    except ValueError as error:
        assert words in str(error), error
    else:
        raise AssertionError(bad)
weights = {}
for criterion in ("acme_first", ("acme_first", {"last": True})):
    problem = ap.Problem(model, data=data, criterion=criterion, evaluator="acme_damped")
    for prepare in (("acme_noise", {"scale": 0.1}), ("sparsify", {"regularizer": "acme_ridge", "epochs": 1.0})):
        run = ap.search(problem, "acme:coins", 4, prepare=prepare)
        inherited = {o.job.candidate.weight_set for o in run.outcomes[1:]}
        assert len(inherited) == 1, inherited
        weights[str(criterion), prepare[0]] = inherited.pop()
assert len({w.weights for w in weights.values()}) == 2  # two recipes
assert len({w.order for w in weights.values()}) == 2  # a criterion and its reverse
for bad, words in (({"lats": True}, "did you mean 'last'"), (3, "FirstSettings(last)")):
    try:
        ap.Problem(model, data=data, criterion=("acme_first", bad))
    except ValueError as error:
        assert words in str(error), error
    else:
        raise AssertionError(bad)
print("fine")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which the package was installed, entry points included, with a network beside it."""
    folder = tmp_path_factory.mktemp("site")
    install(PACKAGE, folder, tmp_path_factory.mktemp("acme"))
    (folder / "torch_net.py").write_text(NETWORK)
    return folder


def test_everything_registered_is_listed(run: Run) -> None:
    """`autoprune list` knows it as it knows what ships with autoprune."""
    expected = {
        "strategies": "acme:coins",
        "criteria": "acme_first",
        "evaluators": "acme_damped",
        "recipes": "acme_noise",
        "regularizers": "acme_ridge",
        "data": "acme_rings",
    }
    code = f"""
import json
from typer.testing import CliRunner
from autoprune.cli.app import app
lists = {{kind: CliRunner().invoke(app, ["list", kind, "--json"]).stdout for kind in {list(expected)}}}
print(json.dumps({{kind: [entry["name"] for entry in json.loads(text)] for kind, text in lists.items()}}))
"""
    found = json.loads(run("-c", code))
    assert all(name in found[kind] for kind, name in expected.items()), found


def test_names_and_settings_from_python(run: Run) -> None:
    """Settings as a mapping or as the dataclass search alike; a misspelt or impossible one is refused at the door."""
    assert run("-c", IN_PYTHON).strip() == "fine"


def test_names_and_settings_from_a_problem_file_and_the_command_line(run: Run, tmp_path: Path) -> None:
    """The file's settings reach strategy and evaluator, ``--set`` replaces them, and mistakes have their line."""
    (tmp_path / "rings.toml").write_text(PROBLEM)
    found = [
        json.loads(run("-m", "autoprune", "search", "rings.toml", "--json", "--store", f"runs/{name}", *more))
        for name, more in (
            ("a", ()),
            ("b", ("--set", "search.settings.chance=0.9")),
            ("c", ("--set", "evaluator.damping=0.2", "--strategy", "random")),
            ("d", ("--set", "evaluator.criterion.last=false")),
            ("e", ("--set", "search.prepare.regularization.strength=0.5")),
            ("f", ("--prepare", "acme_noise", "--set", "search.prepare.scale=0.5")),
        )
    ]
    assert all(first != second for i, first in enumerate(found) for second in found[:i])
    (tmp_path / "wrong.toml").write_text(
        PROBLEM.replace("chance", "chanse").replace("damping", "dampin").replace("after", "aftr")
    )
    message = run("-m", "autoprune", "search", "wrong.toml", code=1)
    assert re.search(r"line 21: search.settings: unknown setting 'chanse'.*did you mean 'chance'", message)
    assert re.search(r"line 13: evaluator: unknown setting 'dampin'.*did you mean 'damping'", message)
    assert re.search(r"line 23: search.prepare: unknown setting 'aftr'.*did you mean 'after'", message)


def test_the_package_passes_the_law_suites(run: Run) -> None:
    """What `autoprune.testing` offers to third parties holds for a strategy, an evaluator and a recipe of theirs."""
    shown = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", str(HERE / "acme_laws.py"))
    assert re.search(r"\b[4-9]\d passed", shown), shown


def test_the_package_uses_public_names_only() -> None:
    """Each kind of plug-in is one file that imports no name or module with an underscore, and few modules."""
    public = {"strategies", "criteria", "evaluators", "recipes", "data", "tasks", "regularizers"}
    files = [file for file in (PACKAGE / "acme").glob("*.py") if file.name != "__init__.py"]
    assert len(files) == 6
    for file in files:
        imports = re.findall(r"^from autoprune(?:\.(\S+))? import (.+)$", file.read_text(), flags=re.MULTILINE)
        assert imports
        assert all(module in public and "_" not in module and " _" not in names for module, names in imports)
