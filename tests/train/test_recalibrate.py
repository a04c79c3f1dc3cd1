"""BatchNorm recalibration."""

import pytest
import torch
from torch import nn

from autoprune.testing.digits_network import digits_network
from autoprune.train.recalibrate import fixed_buffers, recalibrate


def batches(*sizes: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Make random images that are not centred."""
    generator = torch.Generator().manual_seed(0)
    return [(2 * torch.randn(n, 1, 8, 8, generator=generator) + 3, torch.zeros(n)) for n in sizes]


def test_statistics_are_those_of_all_items() -> None:
    """The first layer's mean is the mean over all items, unequal batches included; its variance their average."""
    model = digits_network()
    data = batches(20, 20, 7)
    assert recalibrate(model, data) == 47
    outputs = [model.conv1(x) for x, _ in data]
    mean = torch.cat(outputs).mean((0, 2, 3))
    variance = sum(len(y) * y.var((0, 2, 3)) for y in outputs) / 47
    torch.testing.assert_close(model.bn1.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.bn1.running_var, variance, rtol=1e-4, atol=1e-5)
    assert model.bn1.num_batches_tracked == 3


def test_it_forgets_what_was_there() -> None:
    """Old statistics leave no trace."""
    first, second = digits_network(), digits_network()
    second.bn1.running_mean.fill_(1e6)
    second.bn2.running_var.fill_(1e6)
    for model in (first, second):
        recalibrate(model, batches(30))
    assert torch.equal(first.bn2.running_mean, second.bn2.running_mean)
    assert torch.equal(first.bn2.running_var, second.bn2.running_var)


@pytest.mark.parametrize("training", [False, True])
def test_modes_momenta_and_weights_stay(training: bool) -> None:
    """Only statistics change; dropout stays off, so that two recalibrations agree."""
    model = digits_network().train(training)
    model.bn1.momentum, model.bn2.momentum = 0.3, None
    model.bn2.eval()
    weights = {name: tensor.clone() for name, tensor in model.named_parameters()}
    recalibrate(model, batches(30))
    first = model.bn2.running_mean.clone()
    recalibrate(model, batches(30))
    assert torch.equal(first, model.bn2.running_mean)
    assert (model.bn1.momentum, model.bn2.momentum) == (0.3, None)
    assert [m.training for m in (model, model.bn1, model.bn2, model.dropout)] == [training, training, False, training]
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.named_parameters())


def test_the_state_survives_a_failing_model() -> None:
    """A forward that raises leaves momenta and modes as they were."""
    model = digits_network().train()
    with pytest.raises(RuntimeError):
        recalibrate(model, [(torch.zeros(2, 3, 8, 8), torch.zeros(2))])
    assert model.bn1.momentum == 0.1
    assert model.dropout.training


def test_models_without_statistics_are_not_called() -> None:
    """No BatchNorm, or one without running statistics: nothing runs, nothing is charged."""

    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1, track_running_stats=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError

    assert recalibrate(Silent(), batches(5)) == 0


class Counting(nn.Module):
    """A norm of somebody's own, which counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input."""
        self.calls += 1
        return x


def test_fixed_buffers_forget_what_was_seen() -> None:
    """Training-mode passes with gradients leave every buffer as it was, and the next pass tracks again."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), Counting(), nn.BatchNorm2d(4, track_running_stats=False)
    )
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    (x, _), *_ = batches(5)
    with fixed_buffers(model):
        own = model(x)
        own.square().sum().backward()
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    torch.testing.assert_close(model(x), own)
    assert model[1].num_batches_tracked == 1
    assert not model[3].track_running_stats
