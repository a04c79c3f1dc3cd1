"""Outputs that count: the channels of hidden states that a model returns beside them can vanish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autoprune as ap
from autoprune.config.building import build_example, build_model, lay_out
from autoprune.config.reading import read_problem_file
from autoprune.core.groups import Structure
from autoprune.errors import ConfigError, InvalidArgumentError, NothingPrunableError
from autoprune.surgery.cut import cut
from autoprune.trace import trace
from autoprune.trace.validation import validate
from tests.surgery.surgery_laws import random_kept


@dataclass
class Answer:
    """Scores and the states that they were made from."""

    scores: Tensor
    states: tuple[Tensor, ...]


class Named(NamedTuple):
    """The same as a named tuple."""

    scores: Tensor
    states: tuple[Tensor, ...]


Wrap = Callable[[Tensor, tuple[Tensor, ...]], Any]
FORMS: dict[str, tuple[Wrap, str]] = {
    "dataclass": (Answer, "scores"),
    "named tuple": (Named, "scores"),
    "mapping": (lambda y, h: {"head": {"scores": y}, "states": h}, "head.scores"),
    "tuple": (lambda y, h: (y, h), "0"),
    "logits": (lambda y, h: {"logits": y, "states": h}, "logits"),
}


class Network(nn.Module):
    """Two hidden layers, whose states are returned, too."""

    def __init__(self, wrap: Wrap = FORMS["dataclass"][0]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 7), nn.Linear(7, 3)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        u = torch.relu(self.a(x))
        v = torch.relu(self.b(u))
        return self.wrap(self.c(v), (u, v))


def build() -> nn.Module:
    """Return the network of the problem file."""
    return Network()


@pytest.mark.parametrize("form", FORMS)
def test_named_outputs_count(form: str) -> None:
    """Without names the states stay and the reason says what helps; with names they are free, cut and validated."""
    torch.manual_seed(0)
    wrap, name = FORMS[form]
    model, x = Network(wrap).eval(), torch.randn(2, 5)
    with pytest.raises(
        NothingPrunableError, match=r"output 'states\.0'|output '1\.0'.*name the outputs that do: `outputs=`"
    ):
        trace(model, x)
    structure = trace(model, x, outputs=[name])
    assert [group.name for group in structure.groups] == ["a", "b"]
    kept = random_kept(structure, np.random.default_rng(0))
    with torch.no_grad():
        small = cut(model, structure, kept)(x)
        a, b = (torch.from_numpy(kept[group.genes]) for group in structure.groups)
        u = torch.relu(model.a(x)) * a
        v = torch.relu(model.b(u)) * b
    scores, states = (
        small.values() if isinstance(small, dict) else vars(small).values() if form == "dataclass" else small
    )
    scores = scores["scores"] if isinstance(scores, dict) else scores
    torch.testing.assert_close(scores, model.c(v))
    assert [state.shape[1] for state in states] == [int(a.sum()), int(b.sum())]
    read = Structure.from_json(structure.to_json())
    assert validate(model, read, x).agreed


@pytest.mark.parametrize(
    ("given", "message"), [(["logits"], "scores, states.0, states.1; got 'logits'"), ("a", "a list")]
)
def test_names_that_are_not_there(given: Any, message: str) -> None:
    """A name that is no output is refused with those that are."""
    with pytest.raises(InvalidArgumentError, match=message):
        trace(Network().eval(), torch.randn(2, 5), outputs=given)


@pytest.mark.parametrize("form", ["dataclass", "tuple", "logits"])
def test_a_smaller_model_by_the_distance_of_what_counts(form: str) -> None:
    """`ap.prune` measures the distance of the named outputs, whatever shape the states have."""
    torch.manual_seed(0)
    wrap, name = FORMS[form]
    pruned = ap.prune(
        Network(wrap),
        ap.Data(np.random.default_rng(0).normal(size=(96, 5)).astype(np.float32)),
        {"macs": "60%"},
        outputs=[name],
    )
    assert pruned.model.c.in_features < 7


def test_problem_file(tmp_path: Path) -> None:
    """`[model] outputs` does the same in a problem file; a wrong name points there."""
    text = f'[model]\nfactory = "{Path(__file__)}:build"\ninput = [5]\noutputs = ["{{}}"]\n'
    path = tmp_path / "problem.toml"
    path.write_text(text.format("scores"))
    file = read_problem_file(str(path))
    assert lay_out(file, build_model(file), build_example(file)).n_variables == 2
    path.write_text(text.format("score"))
    file = read_problem_file(str(path))
    with pytest.raises(ConfigError, match="outputs"):
        lay_out(file, build_model(file), build_example(file))
