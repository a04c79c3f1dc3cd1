"""The training loop."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from autoprune.core.settings import identifying
from autoprune.errors import AutopruneWarning, InvalidArgumentError, MetricError, StoreError, UnknownNameError
from autoprune.testing.digits_network import digits_network
from autoprune.train.checkpoint import Checkpoint
from autoprune.train.data import Data
from autoprune.train.distill import Distillation
from autoprune.train.loop import fit, training_macs
from autoprune.train.settings import FitSettings
from autoprune.train.tasks import Classification
from autoprune.train.transforms import ImageTransform

SHORT = FitSettings(steps=12, batch_size=16, learning_rate=0.05, warmup=0.25)


def small_data(n: int = 100) -> Data:
    """Make a little random data with augmentation."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (n, 8, 8), dtype=np.uint8), rng.integers(0, 10, n)
    return Data((x, y), transform=ImageTransform((0.5,), (0.25,), crop_padding=1, horizontal_flip=True))


def trained(settings: FitSettings = SHORT, **options: object) -> dict[str, torch.Tensor]:
    """Train a new network; return its state."""
    model = digits_network()
    fit(model, small_data(), Classification(), settings, **options)  # type: ignore[arg-type]
    return model.state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Compare bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class StoppedError(Exception):
    """Raised in the middle of a run."""


class Interrupted(Classification):
    """Raises in the n-th loss."""

    def __init__(self, n: int) -> None:
        super().__init__()
        object.__setattr__(self, "calls", [n])

    @property
    def fingerprint(self) -> str:
        return Classification().fingerprint

    def loss(self, model, batch):
        self.calls[0] -= 1
        if self.calls[0] < 0:
            raise StoppedError
        return super().loss(model, batch)


def test_it_learns() -> None:
    """Sixty steps on learnable data bring the loss down by far."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 400)
    x = rng.integers(0, 60, (400, 8, 8), dtype=np.uint8)
    x[np.arange(400), 2 * y, :] = 250
    data = Data((x, y))
    model = digits_network()
    result = fit(model, data, Classification(), FitSettings(steps=60, batch_size=32, learning_rate=0.05))
    assert result.history[0][1] > 2 * result.loss
    assert Classification().metric(model, data.validation.loader(40))["accuracy"] > 0.9


def test_the_seed_decides_the_weights() -> None:
    """Same seed, same weights, whatever the global generators do; other seed, other weights."""
    first = trained(seed=1)
    torch.manual_seed(99)
    assert equal(first, trained(seed=1))
    assert not equal(first, trained(seed=2))


def test_it_leaves_no_trace_outside_the_model() -> None:
    """Global random state, thread count and the modes of the model are as before."""
    model = digits_network()
    model.bn1.train()
    before = torch.get_rng_state(), torch.get_num_threads()
    fit(model, small_data(), Classification(), replace(SHORT, threads=2, steps=1, batch_size=4))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == torch.get_num_threads()
    assert [model.training, model.bn1.training, model.bn2.training] == [False, True, False]
    assert all(tensor.is_contiguous() for tensor in model.state_dict().values())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("killed_after", [0, 1, 4, 7, 11])
def test_resumed_weights_are_bit_identical(tmp_path: Path, optimizer: str, killed_after: int) -> None:
    """Interrupted before any step, between and at checkpoints, in any epoch, and resumed: the undisturbed weights."""
    settings = replace(SHORT, optimizer=optimizer, learning_rate=0.01, clip_norm=1.0)
    checkpoint = Checkpoint(tmp_path / "run" / "state.safetensors", every=4)
    with pytest.raises(StoppedError):
        fit(digits_network(), small_data(), Interrupted(killed_after), settings, checkpoint=checkpoint)
    model = digits_network()
    fit(model, small_data(), Classification(), settings, checkpoint=checkpoint)
    assert equal(model.state_dict(), trained(settings))


def test_a_finished_run_is_read_back(tmp_path: Path) -> None:
    """Starting a finished run again trains nothing and gives the same weights and the same counted cost."""
    checkpoint = Checkpoint(tmp_path / "state.safetensors")
    first, again = digits_network(), digits_network(seed=5)
    spent = [
        fit(model, small_data(), task, SHORT, checkpoint=checkpoint).spent.macs
        for model, task in ((first, Classification()), (again, Interrupted(0)))
    ]
    assert equal(first.state_dict(), again.state_dict())
    assert spent[0] == spent[1]


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
import torch._dynamo  # what the first step of any optimizer imports, once for all children
from autoprune.testing.digits_network import digits_network
from autoprune.train.checkpoint import Checkpoint
from autoprune.train.data import Data
from autoprune.train.loop import fit
from autoprune.train.settings import FitSettings
from autoprune.train.tasks import Classification
from safetensors.torch import save_file

folder, rng = Path(sys.argv[1]), np.random.default_rng(0)
data = Data((rng.integers(0, 256, (200, 8, 8), dtype=np.uint8), rng.integers(0, 10, 200)))

def start(name):
    child = os.fork()
    if child:
        return child
    model, checkpoint = digits_network(), Checkpoint(folder / f"{name}.ckpt", every=3)
    fit(model, data, Classification(), FitSettings(steps=300, batch_size=16), checkpoint=checkpoint)
    save_file(model.state_dict(), folder / f"{name}.out")
    os._exit(0)

def written():
    return (folder / "killed.ckpt").stat().st_mtime_ns if (folder / "killed.ckpt").exists() else 0

assert os.waitstatus_to_exitcode(os.waitpid(start("undisturbed"), 0)[1]) == 0
for _ in range(int(sys.argv[2])):
    before, child = written(), start("killed")
    while written() == before:
        time.sleep(0.001)
    time.sleep(random.random() / 50)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not (folder / "killed.out").exists(), "finished before it was killed"
assert os.waitstatus_to_exitcode(os.waitpid(start("killed"), 0)[1]) == 0
"""


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.faults)])
def test_a_killed_process_resumes_bit_identically(tmp_path: Path, kills: int) -> None:
    """Killed with SIGKILL at random moments between and during saves: the weights of an undisturbed run."""
    steps = [sys.executable, "-c", KILLS, str(tmp_path), str(kills)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(steps, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert equal(load_file(tmp_path / "killed.out"), load_file(tmp_path / "undisturbed.out"))


@pytest.mark.parametrize("position", [0, 1, 8, 100, 0.5, 0.99])
@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_training_with_a_damaged_checkpoint_starts_over(tmp_path: Path, how: str, position: float) -> None:
    """With a warning that names the file, and it ends with the very weights of an undisturbed one."""
    checkpoint = Checkpoint(tmp_path / "state.safetensors", every=5)
    with pytest.raises(StoppedError):
        fit(digits_network(), small_data(), Interrupted(7), SHORT, checkpoint=checkpoint)
    content = bytearray(checkpoint.path.read_bytes())
    place = int(position * len(content)) if position < 1 else int(position)
    content[place] ^= 4
    checkpoint.path.write_bytes(content[:place] if how == "cut" else content)
    with pytest.warns(AutopruneWarning, match="state.safetensors is damaged"):
        found = trained(checkpoint=checkpoint)
    assert equal(found, trained())
    assert equal(trained(checkpoint=checkpoint), found)  # and what it has saved since is whole


@pytest.mark.parametrize("change", ["seed", "settings", "task", "model"])
def test_checkpoints_of_other_runs_are_refused(tmp_path: Path, change: str) -> None:
    """Only the same run resumes."""
    checkpoint = Checkpoint(tmp_path / "state.safetensors")
    trained(checkpoint=checkpoint)
    settings = replace(SHORT, learning_rate=0.01) if change == "settings" else SHORT
    task = Classification(label_smoothing=0.1) if change == "task" else Classification()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) if change == "model" else digits_network()
    with pytest.raises(StoreError, match="another model, data, settings or seed"):
        fit(model, small_data(), task, settings, checkpoint=checkpoint, seed=int(change == "seed"))


def test_counted_cost_is_forward_once_backward_twice() -> None:
    """Three times the forward MACs of all items of all steps, and the teacher's forward once."""
    model, teacher = digits_network(), digits_network(1)
    result = fit(model, small_data(), Classification(), SHORT, teacher=teacher)
    assert result.spent.macs == 12 * 16 * (3 * 20352 + 20352)
    assert result.spent.macs == training_macs(SHORT, 90, macs=20352, teacher_macs=20352)
    assert training_macs(FitSettings(epochs=2, batch_size=1000), 90, macs=10) == 2 * 90 * 30


def test_distillation_pulls_towards_the_teacher() -> None:
    """With all weight on it, a student gets closer to its teacher, which does not change."""
    data, teacher = small_data(), digits_network(1)
    teacher.linear.weight.data.mul_(10)  # an untrained network has no opinion to learn
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    x = next(iter(data.train.loader(90)))[0]
    settings = FitSettings(steps=60, batch_size=32, learning_rate=0.02, distillation=Distillation(1.0, 2.0))
    model = digits_network()
    distances = []
    for steps in (0, 1):
        if steps:
            fit(model, data, Classification(), settings, teacher=teacher)
        distances.append(settings.distillation.loss(model(x), teacher(x)).item())
    assert distances[1] < 0.7 * distances[0]
    assert equal(before, teacher.state_dict())
    with pytest.raises(InvalidArgumentError, match="teacher"):
        fit(model, data, Classification(), settings)


def test_distillation_loss_by_hand() -> None:
    """Two items, two classes: T^2 times the mean Kullback-Leibler divergence of the softened answers."""
    student, teacher = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    p = torch.softmax(torch.tensor([1.0, 0.0]), 0)
    expected = 4 * (p * (p.log() - torch.tensor(0.5).log())).sum() / 2
    torch.testing.assert_close(Distillation(0.5, 2.0).loss(student, teacher), expected)


def test_the_schedule() -> None:
    """The rate climbs linearly, peaks once, and follows the cosine to its final share."""
    settings = FitSettings(learning_rate=1.0, warmup=0.1, final_learning_rate=0.1)
    rates = [settings.learning_rate_at(step, 100) for step in range(100)]
    assert max(rates) == rates[10] == 1.0
    np.testing.assert_allclose(np.diff(rates[:11]), 1 / 11)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert settings.learning_rate_at(100, 100) == pytest.approx(0.1)
    assert settings.learning_rate_at(55, 100) == pytest.approx(0.55)


def test_progress_and_history_agree() -> None:
    """The callback sees every report and the last step."""
    seen = []
    settings = replace(SHORT, steps=120)
    result = fit(digits_network(), small_data(), Classification(), settings, progress=seen.append)
    assert [report.step for report in seen] == [50, 100, 120]
    assert [(report.step, report.loss) for report in seen] == list(result.history)
    assert all(report.n_steps == 120 for report in seen)


def test_a_diverging_run_says_so() -> None:
    """A loss that is not finite is an error, and is never checkpointed."""
    with pytest.raises(MetricError, match="lower the learning rate"):
        trained(replace(SHORT, learning_rate=1e20, steps=60))


def test_bfloat16_on_a_cpu_is_another_training_of_the_same_weights() -> None:
    """Losses in bfloat16 learn what those in float32 do, up to their precision; the weights stay in float32."""
    half = replace(SHORT, cpu_bfloat16=True)
    usual, found, start = trained(), trained(half), digits_network().state_dict()
    assert {name: tensor.dtype for name, tensor in found.items()} == {name: start[name].dtype for name in start}
    assert not equal(usual, found)
    moved = sum(float((usual[name] - start[name]).abs().sum()) for name in start)
    apart = sum(float((usual[name] - found[name]).abs().sum()) for name in start)
    assert apart < 0.2 * moved


def test_settings_that_came_later_rename_nothing() -> None:
    """Trainings in float32 are named as before ``cpu_bfloat16``, so that their files and figures are found."""
    assert "cpu_bfloat16" not in identifying(SHORT)
    assert identifying(replace(SHORT, cpu_bfloat16=True)) == {**identifying(SHORT), "cpu_bfloat16": True}


def test_frozen_parameters_stay() -> None:
    """What does not require gradients is not trained; nothing to train is an error."""
    model = digits_network()
    model.conv1.requires_grad_(False)
    before = model.conv1.weight.clone()
    fit(model, small_data(), Classification(), SHORT)
    assert torch.equal(before, model.conv1.weight)
    with pytest.raises(InvalidArgumentError, match="none of its parameters requires gradients"):
        fit(digits_network().requires_grad_(False), small_data(), Classification(), SHORT)


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 0}, {"epochs": float("nan")}, {"steps": -1}, {"warmup": 2.0}, {"clip_norm": 0.0}, {"threads": 0}],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    """A value that cannot be used is named."""
    with pytest.raises(InvalidArgumentError, match=next(iter(settings))):
        FitSettings(**settings)  # type: ignore[arg-type]


def test_unknown_names_are_refused() -> None:
    """An optimizer that is not there gets a suggestion, a device that is not there a way out."""
    with pytest.raises(UnknownNameError, match="did you mean 'adamw'"):
        FitSettings(optimizer="adam")
    with pytest.raises(InvalidArgumentError, match="device"):
        trained(replace(SHORT, device="warp"))
