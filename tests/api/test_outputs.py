"""`outputs=`: whatever compares or teaches heeds the outputs that count, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import autoprune as ap
from autoprune.cli.app import app
from autoprune.errors import InvalidArgumentError
from autoprune.train.distill import Distillation
from tests.trace.test_outputs import FORMS, Network

TAUGHT = ap.FitSettings(steps=12, batch_size=32, learning_rate=0.01, distillation=Distillation(weight=1.0))
LESS = {"n_calibration": 96, "batch_size": 32}


def data(*, labelled: bool = False) -> ap.Data:
    """Return a few items, with classes or without."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(192, 5)).astype(np.float32)
    parts = [(part, np.arange(len(part)) % 3) if labelled else part for part in (x[:96], x[96:])]
    return ap.Data(*parts)


def network(form: str | None) -> nn.Module:
    """Return the network; without a form it puts out nothing but its scores."""
    torch.manual_seed(0)
    return Network(FORMS[form][0] if form else lambda scores, _: scores).eval()


def problem(form: str | None, **settings: Any) -> ap.Problem:
    """Return the problem of a network whose scores alone count; its states are returned besides, or are not."""
    outputs = [FORMS[form][1]] if form else ()
    settings.setdefault("objectives", ("distance", "macs"))
    return ap.Problem(network(form), data=data(), levels=4, outputs=outputs, **settings)


def recovered(form: str | None, folder: Path) -> Any:
    """Prune, then learn the dense model's scores."""
    dense = network(form)
    outputs = [FORMS[form][1]] if form else ()
    found = ap.prune(dense, data(), {"macs": "60%"}, outputs=outputs)
    trained = ap.recover(found.model, dense, data(), settings=TAUGHT, outputs=outputs)
    return dict(found.after), trained.state_dict()


def tuned(form: str | None, folder: Path) -> Any:
    """Search, then fine-tune a polished point."""
    run = ap.search(problem(form, evaluation=LESS), "random", budget=4, store=folder)
    point = ap.finetune(run, 1, epochs=1, settings=TAUGHT)[0]
    return dict(point.metrics), point.build().state_dict()


def shortly_trained(form: str | None, folder: Path) -> Any:
    """Search by what candidates score after a short training."""
    settings = {"fit": TAUGHT}
    run = ap.search(problem(form, evaluator="short_training", evaluation=settings), "random", budget=3, store=folder)
    return [dict(outcome.metrics) for outcome in run.outcomes], {}


def prepared(form: str | None, folder: Path) -> Any:
    """Search in weights that a supernet learned from the dense model."""
    taught = ("supernet", {"epochs": 1, "distillation": 1.0})
    run = ap.search(problem(form, evaluator="inherited"), "random", budget=3, prepare=taught, store=folder)
    return [dict(getattr(outcome, "metrics", {})) for outcome in run.outcomes], {}


PAIRS = [
    *(("recover", "dataclass"), ("finetune", "tuple"), ("finetune", "logits")),
    *(("short_training", "dataclass"), ("supernet", "mapping")),
]
WAYS = {"recover": recovered, "finetune": tuned, "short_training": shortly_trained, "supernet": prepared}


@pytest.mark.filterwarnings("ignore:the polish of")  # of so small a network it does harm, which is no matter here
@pytest.mark.parametrize(("way", "form"), PAIRS)
def test_what_does_not_count_is_as_if_it_were_not_there(way: str, form: str, tmp_path: Path) -> None:
    """Figures and trained weights are those of the model that returns nothing else, bit for bit."""
    figures, weights = WAYS[way](form, tmp_path / "with")
    expected, tensors = WAYS[way](None, tmp_path / "without")
    assert figures == expected
    assert all(torch.equal(weights[name], tensor) for name, tensor in tensors.items())


def test_a_teacher_whose_outputs_are_called_otherwise_in_training_is_refused() -> None:
    """What is to be learned must be there when the student trains; the message shows what is."""

    class Otherwise(Network):
        def forward(self, x: torch.Tensor) -> Any:
            found = super().forward(x)
            return {"raw": found.scores} if self.training else found

    torch.manual_seed(0)
    with pytest.raises(InvalidArgumentError, match="got no floating-point tensor and scores"):
        ap.recover(Otherwise(), Otherwise(), data(), settings=TAUGHT, outputs=["scores"])


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--outputs` does what `[model] outputs` does, and refuses what is not there."""
    monkeypatch.chdir(tmp_path)
    factory = Path(__file__).parents[1] / "trace" / "test_outputs.py"
    (tmp_path / "problem.toml").write_text(f'[model]\nfactory = "{factory}:build"\ninput = [5]\n')
    command = ["plan", "problem.toml", "--no-pilot", "--json"]
    assert CliRunner().invoke(app, command).exit_code == 1
    named = CliRunner().invoke(app, [*command, "--outputs", "scores"])
    assert named.exit_code == 0, named.output
    wrong = CliRunner().invoke(app, [*command, "--outputs", "logits"])
    assert wrong.exit_code == 1
    assert "states.0" in wrong.output
