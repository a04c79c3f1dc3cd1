"""Laws of measuring latency."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.cost.latency import measure_latency
from autoprune.errors import InvalidArgumentError


def convolutions(width, *, log=None, name=""):
    """Return two convolutions; with a log, each forward pass appends the name and batch size."""
    model = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.Dropout(), nn.Conv2d(width, 8, 3, padding=1))
    if log is not None:
        model.register_forward_hook(lambda _module, _inputs, output: log.append((name, len(output))))
    return model


def test_a_much_smaller_model_is_significantly_faster():
    """64 times fewer channels, on real convolutions: faster, even on a busy machine; the same model again: not 2x."""
    models = {"dense": convolutions(256), "again": convolutions(256), "small": convolutions(4)}
    timings = measure_latency(models, torch.randn(1, 3, 64, 64), rounds=30)
    assert timings.speedup("dense", "small").low > 1.5
    assert 0.5 < timings.speedup("dense", "again").value < 2
    assert timings.median("small").value > 0


def test_models_take_turns():
    """Every round runs each model once, on the batch asked for, in changing orders; warm-up comes on top."""
    log = []
    models = {name: convolutions(4, log=log, name=name) for name in "ab"}
    timings = measure_latency(models, torch.randn(7, 3, 8, 8), rounds=20, warmup=2, batch_size=3)
    found, turns = log[:3], log[3:]
    assert found == [("a", 1), ("a", 2), ("a", 3)]  # how the input holds its samples
    names = [name for name, _ in turns]
    assert len(names) == 44
    assert {batch for _, batch in turns} == {3}
    rounds = {"".join(names[i : i + 2]) for i in range(0, 44, 2)}
    assert rounds == {"ab", "ba"}
    assert (len(timings.seconds["a"]), timings.batch_size, timings.device) == (20, 3, "cpu")


def test_nothing_is_left_changed():
    """Training flags, even mixed ones, and the number of threads are restored."""
    model = convolutions(4).train()
    model[1].eval()
    threads = torch.get_num_threads()
    measure_latency({"a": model}, torch.randn(1, 3, 8, 8), rounds=6, threads=2)
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("wrong", [{"rounds": 5}, {"batch_size": 0}, {"threads": 0}])
def test_impossible_settings_are_refused(wrong):
    """The error names the setting and the least value."""
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        measure_latency({"a": convolutions(4)}, torch.randn(1, 3, 8, 8), **wrong)


def test_models_must_be_where_the_input_is():
    """No model, or one on another device than the input, is refused before anything runs."""
    with pytest.raises(InvalidArgumentError, match="one device"):
        measure_latency({"a": convolutions(4)}, torch.randn(1, 3, 8, 8, device="meta"))
    with pytest.raises(InvalidArgumentError, match="at least one model"):
        measure_latency({}, torch.randn(1, 3, 8, 8))
