"""Problem files that nobody wrote on purpose: refused in words that fit on a page, or read as what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autoprune.config import read_problem_file, recorded_problem
from autoprune.config.weights import load_weights
from autoprune.errors import LONGEST, ConfigError
from autoprune.testing.digits_network import digits_network

FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz" / "problem_files.py"

MODEL = '[model]\nfactory = "torchvision.models:resnet18"\ninput = [3, 32, 32]\n'


@pytest.mark.skipif(not FUZZ.exists(), reason="benchmarks are not here")
def test_damaged_files_are_refused_or_read_as_what_they_say() -> None:
    """A quick round of `benchmarks/fuzz/problem_files.py`: no raw error, no long message, nothing dropped."""
    for kind, verdicts in runpy.run_path(str(FUZZ))["fuzz"](30, seed=1).items():
        assert set(verdicts) <= {"refused", "read"}, (kind, verdicts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = " + "[" * 100_000 + "]" * 100_000, "nests tables or lists too deeply"),
        (".".join("a" * 50_000) + " = 1", "nests tables or lists too deeply"),
        (MODEL + "kwargs = [" + "1, " * 200_000 + "]", r"model.kwargs: expected a table, got \[1, 1, 1"),
        ("#" * 2_000_000, "at most 1,000,000 bytes"),
        ("x = " + "9" * 5000, "is not TOML"),
        (MODEL + "[limits]\nmacs = " + "9" * 4000, "limits.macs: expected the limit"),
        (MODEL + '[limits]\nmacs = "1e999999999"', "limits.macs: expected the limit"),
        (MODEL + f'weights = "{"w" * 300}.pt"', "model.weights: expected a weights file"),
        (f'[model]\nfactory = "{"p/" * 150}net.py:net"\ninput = [3]', "model.factory: expected a Python file"),
        (MODEL + '[data]\nname = "\\u001b[2J"', r"unknown data '\\x1b\[2J'"),
        (
            MODEL + "[search]\n" + "\n".join(f"k{i} = 1" for i in range(3000)),
            r"has 3,000 mistakes:[\s\S]*and 2,9\d\d more",
        ),
        (MODEL + "[search]\nseed = 9223372036854775808", "search.seed: expected less than"),
    ],
    ids=lambda value: value[:20].replace("\n", " "),
)
def test_oddities_get_one_readable_message(text: str, message: str, tmp_path: Path) -> None:
    """No traceback, no screenful, nothing that steers a terminal."""
    path = tmp_path / "problem.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_problem_file(str(path))
    assert len(str(caught.value)) <= LONGEST
    assert "\x1b" not in str(caught.value)


def test_a_mark_at_the_beginning_and_line_ends_of_another_system(tmp_path: Path) -> None:
    """Files of Windows editors are read, and their lines counted."""
    path = tmp_path / "problem.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MODEL.replace("\n", "\r\n").encode())
    assert read_problem_file(str(path)).tables.model.input == (3, 32, 32)
    path.write_bytes(path.read_bytes() + b"[search]\r\nseeed = 1\r\n")
    with pytest.raises(ConfigError, match="line 5: search: unknown key 'seeed'"):
        read_problem_file(str(path))


@pytest.mark.parametrize("name", ["x" * 300 + ".toml", "x" * 5000, "a\0b.toml", ""])
def test_names_that_no_file_can_have(name: str) -> None:
    """They are no problem files; the message stays short."""
    with pytest.raises(ConfigError, match=r"expected") as caught:
        read_problem_file(name)
    assert len(str(caught.value)) <= LONGEST


def test_a_mistake_on_the_command_line_blames_no_file() -> None:
    """The wheel's own file has done nothing wrong."""
    with pytest.raises(ConfigError) as caught:
        read_problem_file("digits-resnet", {("search", "strategy"): "nsga2"})
    text = str(caught.value)
    assert text.startswith("the command line has 1 mistake:\n  search.strategy: unknown strategy 'nsga2'")
    assert "did you mean 'pymoo:nsga2'" in text
    assert ".toml" not in text


def test_why_a_folder_names_no_problem(tmp_path: Path) -> None:
    """Nothing there, a file, no run, a run made in Python: four different answers."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.sqlite").write_text("")
    for name, message in {
        "nowhere": "there is nothing at",
        "file": "is a file",
        "empty": "there is no run.sqlite in",
        "run": r"--problem; of a run made in Python, use ap.open_run\(",
    }.items():
        with pytest.raises(ConfigError, match=message):
            recorded_problem(tmp_path / name)


def test_codes_of_a_quantized_network_are_no_weights(tmp_path: Path) -> None:
    """Integers under the names of floating weights are refused, not taken for numbers of that size."""
    model = digits_network()
    codes = {name: (100 * tensor).to(torch.int8) for name, tensor in model.state_dict().items()}
    save_file(codes, tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match=r"conv1.weight is of torch.int8, the model's is of torch.float32"):
        load_weights(model, "weights.safetensors", tmp_path)
