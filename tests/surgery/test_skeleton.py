import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.groups import Structure, TensorInfo
from autoprune.errors import InvalidArgumentError, SurgeryError
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights
from autoprune.surgery.skeleton import Skeleton


def test_builds_equal_cuts(case, draw):
    """A sequence of builds gives, bit for bit, what independent cuts give; widths may shrink and grow."""
    skeleton = Skeleton(case.model, case.structure)
    weights = model_weights(case.model, case.structure)
    for kept in [*(draw(case.structure, seed) for seed in range(6)), np.ones(case.structure.n_genes, dtype=bool)]:
        built = skeleton.build(weights, kept)
        reference = cut(case.model, case.structure, kept)
        assert torch.equal(built(case.example), reference(case.example))
        assert repr(built) == repr(reference)  # modules print their integer attributes
        assert {n: p.shape for n, p in built.named_parameters()} == {
            n: p.shape for n, p in reference.named_parameters()
        }


def test_the_module_is_the_same_every_time(residual, draw):
    """Nothing is copied per candidate: one module object is swapped over and over."""
    skeleton = Skeleton(residual.model, residual.structure)
    weights = model_weights(residual.model, residual.structure)
    assert skeleton.build(weights, draw(residual.structure, 0)) is skeleton.build(weights, draw(residual.structure, 1))


@pytest.mark.parametrize("stays", [[1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0], [1, 0, 1, 0, 1, 1]])
def test_recalibration_leaves_shared_weights_alone(residual, stays):
    """A candidate in train mode updates its own statistics, whichever way they were sliced."""
    skeleton = Skeleton(residual.model, residual.structure)
    weights = model_weights(residual.model, residual.structure)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    kept = np.ones(11, dtype=bool)
    kept[:6] = stays
    built = skeleton.build(weights, kept).train()
    mean, count = built.norm.running_mean.clone(), int(built.norm.num_batches_tracked)
    built(residual.example)
    assert not torch.equal(built.norm.running_mean, mean)
    assert int(built.norm.num_batches_tracked) == count + 1
    assert all(torch.equal(weights[name], tensor) for name, tensor in before.items())


def test_recalibration_does_not_leak_into_the_next_candidate(residual):
    """Statistics of one candidate are gone when the next is built."""
    skeleton = Skeleton(residual.model, residual.structure)
    weights = model_weights(residual.model, residual.structure)
    kept = np.ones(11, dtype=bool)
    skeleton.build(weights, kept).train()(residual.example)
    assert torch.equal(skeleton.build(weights, kept).norm.running_mean, residual.model.norm.running_mean)


def test_building_in_inference_mode(residual, draw):
    """A candidate built in inference mode can be recalibrated and measured in any mode."""
    skeleton = Skeleton(residual.model, residual.structure)
    with torch.inference_mode():
        built = skeleton.build(model_weights(residual.model, residual.structure), draw(residual.structure, 0)).train()
        built(residual.example)
    with torch.no_grad():
        built(residual.example)
    assert int(built.norm.num_batches_tracked) == 2


def test_references_outside_the_parameter_dict_follow(draw):
    """An LSTM keeps its weights in a list of its own, too; the skeleton's LSTM computes with the given weights."""
    torch.manual_seed(0)
    model = nn.LSTM(3, 4)
    infos = tuple(TensorInfo(n, tuple(p.shape), "parameter", (n,)) for n, p in model.named_parameters())
    structure = Structure(groups=(), axes=(), tensors=infos)
    weights = {name: torch.randn_like(p) for name, p in model.state_dict().items()}
    built = Skeleton(model, structure).build(weights, np.zeros(0, dtype=bool))
    x = torch.randn(2, 5, 3)
    model.load_state_dict(weights)
    assert torch.equal(built(x)[0], model(x)[0])


def test_source_is_neither_kept_nor_changed(residual):
    """The skeleton has tensors of its own: the source can be collected, and its weights stay as they are."""
    weights = {name: tensor.clone() for name, tensor in model_weights(residual.model, residual.structure).items()}
    skeleton = Skeleton(residual.model, residual.structure)
    skeleton.build(weights, np.ones(11, dtype=bool))
    assert all(torch.equal(t, weights[n]) for n, t in model_weights(residual.model, residual.structure).items())
    model, weight = weakref.ref(residual.model), weakref.ref(residual.model.stem.weight)
    residual.model = nn.Identity()
    gc.collect()
    assert model() is None
    assert weight() is None


def test_state_dicts_are_weights_too(case, draw):
    """A plain state_dict builds: tied names may repeat, buffers that it leaves out are the source's."""
    skeleton = Skeleton(case.model, case.structure)
    kept = draw(case.structure, 3)
    expected = cut(case.model, case.structure, kept)(case.example)
    assert torch.equal(skeleton.build(case.model.state_dict(), kept)(case.example), expected)


def test_wrong_weights_are_named(residual):
    """Missing or misshapen weights, weights elsewhere and emptied groups are errors, not wrong candidates."""
    skeleton = Skeleton(residual.model, residual.structure)
    weights = model_weights(residual.model, residual.structure)
    kept = np.ones(11, dtype=bool)
    with pytest.raises(SurgeryError, match=r"'conv2.bias' is missing"):
        skeleton.build({name: t for name, t in weights.items() if name != "conv2.bias"}, kept)
    with pytest.raises(SurgeryError, match=r"'head.bias' has shape \(9,\) instead of \(4,\)"):
        skeleton.build({**weights, "head.bias": torch.zeros(9)}, kept)
    with pytest.raises(SurgeryError, match=r"expected weights on cpu.* is on meta"):
        skeleton.build({name: tensor.to("meta") for name, tensor in weights.items()}, kept)
    with pytest.raises(InvalidArgumentError, match="keeps none"):
        skeleton.build(weights, np.zeros(11, dtype=bool))
