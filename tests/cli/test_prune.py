"""`autoprune prune`: one network, one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import autoprune as ap
from autoprune.cli.app import app
from autoprune.cost.counter import count_macs

PROBLEM = """
[model]
factory = "net.py:Inverted"
input = [1, 8, 8]

[training]
epochs = 1
batch_size = 64

[data]
name = "digits"
"""


NETWORK = """
import torch
from torch import nn


class Inverted(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12))
        self.block = nn.Sequential(
            nn.Conv2d(12, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6(),
            nn.Conv2d(24, 12, 1, bias=False), nn.BatchNorm2d(12),
        )
        self.head = nn.Sequential(
            nn.Conv2d(12, 24, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)
        )

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.block(x))
"""


def test_limits_in_a_smaller_network_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file holds what the summary says; without a limit the command says what it needs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "digits.toml").write_text(PROBLEM)
    made: dict[str, Any] = {}
    exec(NETWORK, made)
    dense = count_macs(made["Inverted"](), torch.zeros(1, 1, 8, 8))
    command = ["prune", "digits.toml", "--limit", "macs=50%", "-o", "half.autoprune", "--json"]
    done = CliRunner().invoke(app, [*command, "--recover", "distill", "--minutes", "0.02"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert "of the MACs" in found["summary"]
    assert list(found["steps"])[:2] == ["cut", "polished"]
    assert ap.describe(tmp_path / "half.autoprune")["costs"]["macs"] <= 0.5 * dense
    several = ["prune", "digits.toml", "--limit", "params=90%", "--limit", "macs=70%", "--limit", "macs=50%", "--json"]
    done = CliRunner().invoke(app, [*several, "-o", "small.autoprune"])
    assert done.exit_code == 0, done.output
    assert [item["file"] for item in json.loads(done.stdout)] == ["small-70%.autoprune", "small-50%.autoprune"]
    costs = [ap.describe(tmp_path / f"small-{size}%.autoprune")["costs"]["macs"] / dense for size in (70, 50)]
    assert costs[1] <= 0.5 < costs[0] <= 0.7
    twice = CliRunner().invoke(app, [*several, "--limit", "params=80%"])
    assert twice.exit_code == 2
    assert "several of params and of macs" in twice.output
    wide = CliRunner().invoke(app, ["prune", "digits.toml", "--limit", "macs=50%", "--set", "space.min_keep_ratio=0.9"])
    assert wide.exit_code == 1
    assert "no network of this space has macs" in wide.output, "the widths that the file allows are those of the result"
    refused = CliRunner().invoke(app, ["prune", "digits.toml"])
    assert refused.exit_code == 1
    assert "--limit macs=50%" in refused.output


@pytest.mark.parametrize(
    ("table", "options", "turns"),
    [
        ("", [], True),
        ("", ["--no-rotate"], False),
        ("[prune]\nrotate = false", [], False),
        ("[prune]\nrotate = false", ["--rotate"], True),
    ],
)
def test_bottlenecks_are_turned_unless_told_otherwise(
    table: str, options: list[str], *, turns: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line wins over the file.

    Nothing re-solves the first layer, so without a turn its rows are some of the given network's, bit for bit.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    text = PROBLEM.replace("[training]\nepochs = 1\nbatch_size = 64", 'weights = "dense.safetensors"')
    (tmp_path / "net.toml").write_text(f"{text}\n{table}\n")
    made: dict[str, Any] = {}
    exec(NETWORK, made)
    torch.manual_seed(0)
    model = made["Inverted"]()
    ap.fit(model, ap.load_data("digits"), ap.Classification(), ap.FitSettings(epochs=1, batch_size=64))
    save_file(model.state_dict(), tmp_path / "dense.safetensors")
    command = ["prune", "net.toml", "--limit", "macs=60%", "-o", "small.autoprune", "--json", *options]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    rows = load_file(tmp_path / "small.autoprune")["stem.0.weight"]
    assert len(rows) < 12
    given = {tuple(row.flatten().tolist()) for row in model.stem[0].weight}
    found = [tuple(row.flatten().tolist()) in given for row in rows]
    assert not any(found) if turns else all(found)
