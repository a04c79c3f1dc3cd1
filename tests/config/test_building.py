"""What a problem file describes is built: networks, weights, example inputs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autoprune.config import building, read_problem_file
from autoprune.config.building import build_example, build_model, build_space
from autoprune.errors import ConfigError

NETWORK = """
from torch import nn

def net(width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 10))

def broken():
    raise RuntimeError("no such width")

def pair():
    import torch
    return torch.zeros(2, 1, 8, 8), {"mask": torch.ones(2)}

def nothing():
    return None
"""


def problem(folder: Path, model: str) -> str:
    """Write a network of the user's own and a problem file beside it; return the file's path."""
    (folder / "own_network.py").write_text(NETWORK)
    path = folder / "problem.toml"
    path.write_text(f"[model]\n{model}\n")
    return str(path)


@pytest.mark.parametrize("factory", ["own_network.py:net", "own_network:net"])
def test_a_network_beside_the_problem_file_is_found(
    tmp_path: Path, factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file and a module beside the problem file both work, with keyword arguments, from any working folder."""
    monkeypatch.syspath_prepend(str(tmp_path))  # restores sys.path and forgets the module afterwards
    monkeypatch.delitem(sys.modules, "own_network", raising=False)
    file = read_problem_file(problem(tmp_path, f'factory = "{factory}"\ninput = [1, 8, 8]\nkwargs = {{ width = 6 }}'))
    model = build_model(file)
    assert model(build_example(file)).shape == (1, 10)
    assert model[0].out_channels == 6
    assert not model.training


def test_two_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    """A file keeps its name where that is free, and never takes another module's, imported or installed."""
    classes = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "colorsys.py").write_text(
            f"from torch import nn\nclass {folder.title()}(nn.Identity): ...\n"
        )
        (tmp_path / folder / "problem.toml").write_text(
            f'[model]\nfactory = "colorsys.py:{folder.title()}"\ninput = [1]\n'
        )
        classes.append(type(build_model(read_problem_file(str(tmp_path / folder / "problem.toml")))))
    assert [cls.__name__ for cls in classes] == ["One", "Two"]
    assert "colorsys" not in {cls.__module__ for cls in classes}  # the standard library's
    file = read_problem_file("digits-resnet")
    assert type(build_model(file)).__module__ == "resnet_digits"


def test_the_same_seed_builds_the_same_network(tmp_path: Path) -> None:
    """Initial weights come from the seed of [search]; torch's own generator is left alone."""
    file = read_problem_file(problem(tmp_path, 'factory = "own_network.py:net"\ninput = [1, 8, 8]'))
    before = torch.random.get_rng_state()
    first, second = build_model(file), build_model(file)
    assert torch.equal(first[0].weight, second[0].weight)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_example_may_be_anything(tmp_path: Path) -> None:
    """`example` names a function whose result is passed on as it is."""
    file = read_problem_file(problem(tmp_path, 'factory = "own_network.py:net"\nexample = "own_network.py:pair"'))
    images, extra = build_example(file)
    assert images.shape == (2, 1, 8, 8)
    assert set(extra) == {"mask"}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", "wrapped.pth"])
def test_weights_load_from_every_format(tmp_path: Path, suffix: str) -> None:
    """safetensors, a state dict, and a state dict of a DataParallel model inside a checkpoint give the same network."""
    plain = read_problem_file(problem(tmp_path, 'factory = "own_network.py:net"\ninput = [1, 8, 8]'))
    state = {name: torch.randn_like(tensor) for name, tensor in build_model(plain).state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    elif suffix == ".pt":
        torch.save(state, path)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    file = read_problem_file(
        problem(tmp_path, f'factory = "own_network.py:net"\ninput = [1, 8, 8]\nweights = "{path.name}"')
    )
    for name, tensor in build_model(file).state_dict().items():
        assert torch.equal(tensor, state[name])


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_nothing_in_a_weights_file_executes(tmp_path: Path) -> None:
    """A pickle that would run code is refused, and has not run."""
    torch.save({"0.weight": Payload(tmp_path / "was_here")}, tmp_path / "weights.pt")
    file = read_problem_file(
        problem(tmp_path, 'factory = "own_network.py:net"\ninput = [1, 8, 8]\nweights = "weights.pt"')
    )
    with pytest.raises(ConfigError, match=r"line 4: model.weights: expected a safetensors file or a state dict"):
        build_model(file)
    assert not (tmp_path / "was_here").exists()


def test_weights_of_another_network_are_described(tmp_path: Path) -> None:
    """What is missing, foreign or of another shape is named, not only counted."""
    save_file(
        {"0.weight": torch.zeros(5, 1, 3, 3), "0.bias": torch.zeros(4), "head": torch.zeros(1)},
        tmp_path / "w.safetensors",
    )
    file = read_problem_file(
        problem(tmp_path, 'factory = "own_network.py:net"\ninput = [1, 8, 8]\nweights = "w.safetensors"')
    )
    with pytest.raises(ConfigError) as caught:
        build_model(file)
    message = str(caught.value)
    assert "line 4: model.weights: the weights in w.safetensors are not of this model" in message
    assert "2 tensors are missing (3.weight, 3.bias)" in message
    assert "1 tensors are not the model's (head)" in message
    assert "0.weight is (5, 1, 3, 3), the model's is (4, 1, 3, 3)" in message


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            'factory = "own_network.py:nett"\ninput = [1]',
            r"line 2: model.factory: expected a callable 'nett' in .*\(did you mean 'net'\?\)",
        ),
        (
            'factory = "own_network.py:broken"\ninput = [1]',
            r"own_network.py:broken\(\) failed with RuntimeError: no such width",
        ),
        (
            'factory = "own_network.py:nothing"\ninput = [1]',
            r"expected own_network.py:nothing to return an nn.Module, got <class 'NoneType'>",
        ),
        (
            'factory = "own_network.py:net"\nkwargs = { widht = 3 }\ninput = [1]',
            r"net\(widht=3\) failed with TypeError: .*widht",
        ),
    ],
)
def test_a_factory_that_fails_is_reported_with_its_line(tmp_path: Path, model: str, message: str) -> None:
    """Whatever the user's own code does, the problem file's line is named."""
    with pytest.raises(ConfigError, match=message):
        build_model(read_problem_file(problem(tmp_path, model)))


def test_a_module_that_cannot_be_imported_is_reported(tmp_path: Path) -> None:
    """The import's own error is quoted."""
    (tmp_path / "bad.py").write_text("import no_such_package\n")
    file = read_problem_file(problem(tmp_path, 'factory = "bad.py:net"\ninput = [1]'))
    with pytest.raises(
        ConfigError, match=r"importing 'bad.py' failed with ModuleNotFoundError: No module named 'no_such"
    ):
        build_model(file)


def test_a_plan_traces_as_the_search_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trace and the memory profile of a plan draw from the seed of the search, so that both see the same space."""
    path = problem(tmp_path, 'factory = "own_network.py:net"\ninput = [1, 8, 8]')
    Path(path).write_text(Path(path).read_text() + "[search]\nseed = 7\n")
    seeds = []
    for name in ("trace_space", "profile_peak"):
        function = getattr(building, name)
        monkeypatch.setattr(
            building, name, lambda *a, f=function, seed=0, **k: seeds.append(seed) or f(*a, seed=seed, **k)
        )
    file = read_problem_file(path)
    build_space(file, build_model(file))
    assert seeds == [7, 7]
