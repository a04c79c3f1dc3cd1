"""Learning rates that are found: the largest that a network stands."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from autoprune.cost.counter import count_macs
from autoprune.errors import MetricError, StoreError
from autoprune.train.brought_tasks import FunctionTask
from autoprune.train.checkpoint import Checkpoint
from autoprune.train.data import Data
from autoprune.train.distill import Distillation
from autoprune.train.loop import fit, training_macs
from autoprune.train.rates import BOLD, CAUTIOUS, RATES, tried
from autoprune.train.settings import FitSettings

OPTIMIZERS = list(RATES)

SQUARES = FunctionTask(nn.functional.mse_loss, {"bias": lambda model: float(model.fc.bias)})


class Stiff(nn.Module):
    """A line through inputs of a size, which it fits but for the noise: what a step does to its loss grows with it."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size
        self.norm = nn.BatchNorm1d(32, affine=False)
        self.fc = nn.Linear(32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 1) values of (n, 32) inputs."""
        self.norm(x)  # sees what the network sees; nothing reads it
        return self.fc(self.size * x)


def problem(size: float) -> tuple[Stiff, Data]:
    """Return a model at its optimum but for noise, and its data."""
    torch.manual_seed(0)
    model, x = Stiff(size), torch.randn(440, 32)
    model.train()(x)
    y = (model.eval()(x) + 0.1 * torch.randn(440, 1)).detach()
    train, val = (torch.utils.data.TensorDataset(x[part], y[part]) for part in (slice(400), slice(400, None)))
    return model, Data(train, val)


def error(model: nn.Module, data: Data) -> float:
    """Return the mean squared error on training items."""
    batch = next(iter(data.train.loader(400)))
    with torch.no_grad():
        return float((model.eval()(batch[0]) - batch[1]).square().mean())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("place", range(1, 7))
def test_the_largest_rate_with_little_harm_is_taken(optimizer: str, place: int) -> None:
    """Rates are tried from the largest on, one step in twenty each; what diverges does much harm.

    Trials and looks count as steps. Where all rates do harm the smallest is left.
    """
    rates, asked = RATES[optimizer], []

    def after(settings: FitSettings) -> float:
        asked.append((settings.learning_rate, settings.steps))
        if len(asked) <= place - 1:
            raise MetricError("diverged")
        return math.nan if len(asked) == place else 0.3

    found = tried(FitSettings(steps=1000, optimizer=optimizer), lambda: 0.25, after, look=2)
    n = min(place + 1, len(rates))
    assert asked == [(rate, 50) for rate in rates[:n]]
    assert (found.learning_rate, found.steps) == (rates[n - 1], 1000 - 2 - n * 52)


@pytest.mark.parametrize(("reached", "is_taken"), [(0.9, True), (1.0, False), (math.nan, False)])
def test_the_bold_rate_is_taken_where_it_reaches_less_than_the_next(reached: float, is_taken: bool) -> None:
    """It is tried where the next one wins much, and its trial counts as well."""
    usual, bold = RATES["adamw"][0], BOLD["adamw"]
    losses = {usual: 1.0, bold: reached}
    found = tried(FitSettings(steps=1000), lambda: 1.3, lambda how: losses[how.learning_rate])
    assert (found.learning_rate, found.steps) == (bold if is_taken else usual, 900)
    for start, may_be_bold in ((1.2, True), (1.3, False)):
        found = tried(FitSettings(steps=1000), lambda start=start: start, lambda _: 1.0, bold=may_be_bold)
        assert (found.learning_rate, found.steps) == (usual, 950)


def test_a_short_training_is_cautious() -> None:
    """Of a training in which not all rates could be tried, and a step be left, nothing is spent on trying."""
    found = tried(FitSettings(steps=15), *(2 * [lambda *_: pytest.fail("nothing is tried")]))
    assert (found.learning_rate, found.steps) == (CAUTIOUS["adamw"], 15)
    found = tried(FitSettings(steps=16), lambda: 1.0, lambda _: 2.0)
    assert (found.learning_rate, found.steps) == (RATES["adamw"][-1], 1)


def test_little_harm_is_judged_by_the_size_of_a_loss() -> None:
    """A loss below zero may grow by as much as one above it."""
    losses = {3e-3: -0.7, 1e-3: -0.85, 3e-4: -1.0}
    found = tried(FitSettings(steps=100), lambda: -1.0, lambda settings: losses[settings.learning_rate])
    assert found.learning_rate == 1e-3


@pytest.mark.parametrize("optimizer", ["", "sgd"])
@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
def test_no_network_is_worse_for_it(optimizer: str, size: float) -> None:
    """Whatever the scale of what a network reads, a training at the rate that is found leaves it about as good.

    SGD at 0.02, the usual rate of residual networks, diverges in the largest of them.
    """
    model, data = problem(size)
    start = error(model, data)
    result = fit(model, data, SQUARES, FitSettings(steps=200, batch_size=64, optimizer=optimizer))
    assert result.learning_rate in {*RATES[optimizer or "adamw"], *BOLD.values()}
    assert error(model, data) < 1.2 * start
    if size == 10:
        model, data = problem(size)
        with pytest.raises(MetricError):
            fit(model, data, SQUARES, FitSettings(steps=200, batch_size=64, learning_rate=0.02))


@pytest.mark.parametrize("teaches", [False, True])
def test_trying_changes_nothing_else(teaches: bool) -> None:
    """The training that follows is, bit for bit, one with that rate and the steps that are left; its cost is the whole.

    So the model, its BatchNorm statistics among the rest, is as it was when the training begins.
    """
    how = Distillation() if teaches else None
    settings = FitSettings(steps=200, batch_size=32, distillation=how)
    teacher = problem(1.0)[0] if teaches else None
    model, data = problem(1.0)
    result = fit(model, data, SQUARES, settings, teacher=teacher)
    again, _ = problem(1.0)
    known = replace(settings, learning_rate=result.learning_rate, steps=result.steps)
    fit(again, data, SQUARES, known, teacher=teacher)
    assert result.steps < 200
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    macs = count_macs(model, data.example_batch()[0])
    assert result.spent.macs == training_macs(settings, 400, macs=macs, teacher_macs=macs if teaches else 0)


def stopped(slot: Checkpoint, settings: FitSettings) -> Data:
    """Train until the first save, and return the data."""

    class StoppedError(Exception):
        pass

    def stop(progress) -> None:
        raise StoppedError

    model, data = problem(1.0)
    with pytest.raises(StoppedError):
        fit(model, data, SQUARES, settings, checkpoint=slot, progress=stop)
    return data


def test_a_training_that_was_cut_short_goes_on(tmp_path) -> None:
    """Called again with its checkpoint, a training finds the rate that it had, and ends with the same weights."""
    settings = FitSettings(steps=120, batch_size=32)
    whole, data = problem(1.0)
    fit(whole, data, SQUARES, settings)
    slot = Checkpoint(tmp_path / "slot", every=20)
    stopped(slot, settings)
    model, _ = problem(1.0)
    fit(model, data, SQUARES, settings, checkpoint=slot)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), whole.state_dict().values(), strict=True))


def test_a_training_does_not_go_on_at_another_rate(tmp_path, monkeypatch) -> None:
    """Where the rates that are tried have changed since, what was half trained at another is refused, not mixed."""
    settings = FitSettings(steps=120, batch_size=32)
    slot = Checkpoint(tmp_path / "slot", every=20)
    data = stopped(slot, settings)
    monkeypatch.setattr("autoprune.train.rates.RATES", {"adamw": (2e-4, 1e-4)})
    monkeypatch.setattr("autoprune.train.rates.BOLD", {})
    with pytest.raises(StoreError, match="another"):
        fit(problem(1.0)[0], data, SQUARES, settings, checkpoint=slot)


def test_the_usual_optimizer_goes_with_the_rate() -> None:
    """SGD at a rate that is given, AdamW where one is found; what is asked for holds in any case."""
    assert FitSettings(learning_rate=0.1).optimizer == "sgd"
    assert FitSettings().optimizer == "adamw"
    assert FitSettings(optimizer="adamw", learning_rate=0.1).optimizer == "adamw"
    assert FitSettings(optimizer="sgd").optimizer == "sgd"
