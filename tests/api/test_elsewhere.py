"""Runs of other machines, other versions of torch and of earlier versions of autoprune."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor

import autoprune as ap
from autoprune.core.jobs import Evaluation, Preparation, preparations
from autoprune.errors import ExecutorError, InvalidArgumentError, StoreError
from autoprune.evaluate.evidence import OUTPUTS
from autoprune.store.cache import EvaluationCache
from autoprune.store.identity import Identity, Observation
from autoprune.testing.digits_network import DigitsNetwork, digits_network
from autoprune.weight_sets import unpack_weights

RECORDED = Path(__file__).parent / "recorded"

ELSEWHERE = """
import sys
import torch
torch.__version__ = "2.4.1+cu121"
torch.backends.cpu.get_cpu_capability = lambda: "AVX2"
import autoprune as ap
import autoprune.evaluate.evidence as evidence
from autoprune.testing.digits_network import digits_network
evidence.LIBRARIES = ("numpy",)  # these texts differ as between two machines

# What another processor does: other last digits.
linear = torch.nn.functional.linear
torch.nn.functional.linear = lambda x, weight, bias=None: linear(x, weight, bias) * (1 + 3e-6)

evaluation = ap.ProxySettings(n_calibration=64, n_validation=64, batch_size=32)
problem = ap.Problem(digits_network(), data=ap.load_data("digits"), levels=4, evaluation=evaluation)
ap.search(problem, "random", ap.Budget(evaluations=4), store=sys.argv[1])
"""


def digits(model: DigitsNetwork | None = None, **settings: object) -> ap.Problem:
    """Return the problem that was recorded."""
    evaluation = ap.ProxySettings(n_calibration=64, n_validation=64, batch_size=32)
    given = {"evaluation": evaluation, "levels": 4, **settings}
    return ap.Problem(model or digits_network(), data=ap.load_data("digits"), **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that a process made which says that it has another processor and version of torch."""
    folder = tmp_path_factory.mktemp("elsewhere") / "run"
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(folder)], check=True)
    return folder


@pytest.fixture
def first_release(tmp_path: Path) -> Path:
    """A copy of a run that was recorded before there were identities."""
    shutil.copytree(RECORDED / "first_release", tmp_path / "recorded")
    return tmp_path / "recorded" / "run"


def recorded_network(folder: Path) -> DigitsNetwork:
    """Return the network whose weights the run holds."""
    model = digits_network(seed=3)
    blobs = sorted((folder / "weights").iterdir(), key=lambda path: path.stat().st_size)
    model.load_state_dict(unpack_weights(blobs[-1].read_bytes()))
    return model.eval()


def use(run: ap.Run, path: Path) -> None:
    """Do with a run whatever measures no further candidate."""
    point = run.front[-1]
    point.save(path)
    small = ap.load(path, digits_network(seed=9))
    assert sum(parameter.numel() for parameter in small.parameters()) == point.costs["params"]
    assert run.report(path.with_suffix(".html"), points=1).html.exists()
    tuned = ap.finetune(run, [point], epochs=0.2, test=False)
    assert len(tuned) == 1


def test_a_run_of_another_machine_is_read_reported_and_tuned(elsewhere: Path, tmp_path: Path) -> None:
    """Everything but measuring more candidates works; that says why not, and what to do."""
    shutil.copytree(elsewhere, tmp_path / "run")
    problem = digits()
    use(ap.open_run(tmp_path / "run", problem), tmp_path / "point.autoprune")
    with pytest.raises(StoreError, match=r"measured with torch 2\.4\.1\+cu121, processor AVX2; here is torch") as told:
        ap.search(problem, "random", ap.Budget(evaluations=5), store=tmp_path / "run")
    assert "start in a new folder" in str(told.value)
    assert ap.open_run(tmp_path / "run").n_evaluations == 4


def test_figures_of_another_machine_are_no_hits(elsewhere: Path, tmp_path: Path) -> None:
    """The cache may lie on a disk that both see."""
    cache = shutil.copy(elsewhere.parent / "evaluations.sqlite", tmp_path / "evaluations.sqlite")
    run = ap.search(digits(), "random", ap.Budget(evaluations=4), store=tmp_path / "run", cache=cache)
    assert not [outcome for outcome in run.outcomes if outcome.cached]


class Leaky(DigitsNetwork):
    """The digits network with another activation."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.leaky_relu(self.bn1(self.conv1(x)), 0.05)
        x = torch.nn.functional.leaky_relu(self.bn2(self.conv2(x)), 0.05)
        return self.linear(self.dropout(x.flatten(1)))


def leaky(model: DigitsNetwork) -> Leaky:
    """Return it with the weights of ``model``."""
    other = Leaky()
    other.load_state_dict(model.state_dict())
    return other.eval()


def test_another_problem_is_refused_on_another_machine_too(elsewhere: Path) -> None:
    """A tolerance for rounding lets no other function, weights or settings pass."""
    for problem, named in (
        (digits(leaky(digits_network())), "the model's outputs"),
        (digits(digits_network(seed=1)), "the weights"),
        (digits(limits={"macs": "90%"}), "the limits"),
    ):
        with pytest.raises(StoreError, match=f"searched another problem: .*{named}.* differ"):
            ap.open_run(elsewhere, problem)


def test_a_run_of_the_first_release_is_read_reported_and_tuned(first_release: Path, tmp_path: Path) -> None:
    """Its resumption is refused with what works and what to do; its cache opens, and gives nothing."""
    problem = digits(recorded_network(first_release))
    use(ap.open_run(first_release, problem), tmp_path / "point.autoprune")
    with pytest.raises(StoreError, match=r"earlier autoprune.*to measure more candidates, start in a new folder"):
        ap.search(problem, "random", ap.Budget(evaluations=7), store=first_release)
    cache = first_release.parent / "evaluations.sqlite"
    run = ap.search(problem, "random", ap.Budget(evaluations=6), store=tmp_path / "new", cache=cache)
    assert not [outcome for outcome in run.outcomes if outcome.cached]
    cached = EvaluationCache(cache, space="", evaluator={}, data="")
    assert len(cached) == 12  # the six old ones are still there


def test_a_run_of_the_first_release_refuses_another_problem(first_release: Path) -> None:
    """What it does say is compared."""
    model = recorded_network(first_release)
    for problem, named in (
        (digits(digits_network(seed=1)), "the weights"),
        (digits(model, levels=3), "the search space"),
        (digits(model, criterion="l1"), "the criterion"),
    ):
        with pytest.raises(StoreError, match=f"searched another problem: {named} differ"):
            ap.open_run(first_release, problem)


def test_a_run_of_the_second_release_is_read_reported_and_tuned(tmp_path: Path) -> None:
    """Evaluations and preparations were one kind of record: each reads as what it is, figures and charges unchanged."""
    shutil.copytree(RECORDED / "second_release", tmp_path / "recorded")
    folder = tmp_path / "recorded" / "run"
    run = ap.open_run(folder, digits(digits_network(seed=3)))
    assert [type(outcome) for outcome in run.outcomes] == [Evaluation, Preparation] * 2 + [Evaluation] * 4
    with closing(sqlite3.connect(folder / "run.sqlite")) as file:
        recorded = [json.loads(text) for (text,) in file.execute("SELECT outcome FROM outcomes ORDER BY id")]
    assert [[o.spent.macs, dict(o.metrics)] for o in run.outcomes] == [[r["spent"][0], r["metrics"]] for r in recorded]
    found = [list(outcome.found_genome or ()) for outcome in preparations(run.outcomes)]
    assert found == [r["genome"] for r in recorded if r["job"]["type"] == "prepare"] == [[3, 1], [2, 0]]
    with pytest.raises(InvalidArgumentError, match="job 1 prepared weights; it is no candidate"):
        run.point(1)
    use(run, tmp_path / "point.autoprune")


def test_a_worker_that_computes_other_digits_is_refused() -> None:
    """It runs the dense model on a few fixed items before it measures anything."""
    spec = digits().runner_spec(for_workers=True)
    spec.start({})  # type: ignore[arg-type]  no blob is read
    linear = torch.nn.functional.linear
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", lambda x, w, b=None: linear(x, w, b) * (1 + 3e-6))
        with pytest.raises(ExecutorError, match="other digits than where the search was started"):
            spec.start({})  # type: ignore[arg-type]


def test_an_identity_survives_json() -> None:
    """Names, hashes and numbers come back as they were; something else is refused in words."""
    identity = digits().identity
    assert Identity.from_json(identity.to_json()) == identity
    assert not identity.unrepeatable
    with pytest.raises(StoreError, match="malformed"):
        Identity.from_json({"decided": {}})


@pytest.mark.parametrize(
    ("sample", "near"),
    [((1.0, 2.0001, 3.0), True), ((1.1, 2.1, 3.1), False), ((1.0, float("nan"), 3.0), False), ((1.0, 2.0), False)],
)
def test_outputs_are_compared_up_to_rounding(sample: tuple[float, ...], near: bool) -> None:
    """The difference counts relative to how far the numbers spread, wherever they lie."""
    recorded = Identity({}, {"device": "cpu"}, {OUTPUTS: Observation("a", "p", (1.0, 2.0, 3.0))}, "there")
    here = Identity({}, {"device": "cpu"}, {OUTPUTS: Observation("b", "p", sample)}, "here")
    assert (here.differences(recorded) == []) is near
