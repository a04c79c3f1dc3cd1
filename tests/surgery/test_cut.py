import copy
import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import SurgeryError
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights, named_tensors
from autoprune.surgery.slicing import sliced_state


def full(structure):
    """Keep everything."""
    return np.ones(structure.n_genes, dtype=bool)


def test_cut_equals_the_masked_model(case, draw, masked):
    """Removing channels gives the outputs of the dense network with those channels zeroed (float64)."""
    case.model.double()
    x = case.example.double()
    for seed in range(5):
        kept = draw(case.structure, seed)
        with torch.no_grad():
            torch.testing.assert_close(cut(case.model, case.structure, kept)(x), masked(case, kept)(x))


def test_full_genome_is_the_dense_model_bit_for_bit(case):
    """With every channel kept all tensors and outputs are equal, and no memory is shared."""
    small = cut(case.model, case.structure, full(case.structure))
    dense, copied = named_tensors(case.model), named_tensors(small)
    assert dense.keys() == copied.keys()
    for name, tensor in dense.items():
        assert torch.equal(copied[name], tensor)
        assert copied[name].untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()
    assert torch.equal(small(case.example), case.model(case.example))


def test_source_is_untouched(case, draw):
    """Cutting changes neither tensors nor attributes of the source."""
    before = copy.deepcopy(case.model)
    cut(case.model, case.structure, draw(case.structure, 0))
    after = named_tensors(case.model)
    assert all(torch.equal(after[name], tensor) for name, tensor in named_tensors(before).items())
    assert repr(case.model) == repr(before)


def test_attributes_follow_the_widths(residual):
    """Integer attributes take their counts, the flattened one its multiple."""
    kept = full(residual.structure)
    kept[[0, 3, 7]] = False
    small = cut(residual.model, residual.structure, kept)
    assert (small.stem.out_channels, small.norm.num_features, small.conv1.in_channels) == (4, 4, 4)
    assert (small.conv1.out_channels, small.conv2.in_channels, small.head.in_features) == (4, 4, 16)
    assert type(small) is type(residual.model)


def test_ties_modes_flags_and_buffers_survive(case, draw):
    """Ties, train flags, requires_grad, dtype and non-persistent buffers are those of the source."""
    case.model.bfloat16().train()
    next(case.model.children()).eval()
    next(case.model.parameters()).requires_grad_(requires_grad=False)
    small = cut(case.model, case.structure, draw(case.structure, 2))
    for info in case.structure.tensors:
        tensors = {id(named_tensors(small)[alias]) for alias in info.aliases}
        assert len(tensors) == 1
    assert [m.training for m in small.modules()] == [m.training for m in case.model.modules()]
    dense = named_tensors(case.model)
    for name, tensor in named_tensors(small).items():
        assert (tensor.requires_grad, tensor.dtype) == (dense[name].requires_grad, dense[name].dtype)
    assert small.state_dict().keys() == case.model.state_dict().keys()


def test_hooks_survive(residual, draw):
    """A forward hook of the source runs in the cut model, too."""
    calls = []
    residual.model.conv1.register_forward_hook(lambda *call: calls.append(call[-1].shape[1]))
    kept = draw(residual.structure, 1)
    cut(residual.model, residual.structure, kept)(residual.example)
    assert calls == [int(kept[6:].sum())]


def test_every_parameter_of_a_cut_model_trains(case, draw):
    """After one backward pass every parameter has a gradient and an optimizer step changes the output."""
    small = cut(case.model, case.structure, draw(case.structure, 4)).train()
    before = small(case.example)
    before.square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())
    torch.optim.SGD(small.parameters(), lr=0.1).step()
    assert not torch.equal(small(case.example), before)


def test_a_model_cut_in_inference_mode_trains(residual, draw):
    """The mode in which a model is cut leaves no trace on its tensors."""
    with torch.inference_mode():
        small = cut(residual.model, residual.structure, draw(residual.structure, 0))
    small.train()(residual.example).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def test_source_can_be_collected(residual, draw):
    """The cut model holds no reference to the source or its tensors."""
    small = cut(residual.model, residual.structure, draw(residual.structure, 0))
    model, weight = weakref.ref(residual.model), weakref.ref(residual.model.stem.weight)
    residual.model = nn.Identity()
    gc.collect()
    assert model() is None
    assert weight() is None
    assert small(residual.example).shape == (2, 4)


def test_other_weights_are_used_in_the_models_dtype(case, draw):
    """Given weights replace the model's own, cast to its dtype; the buffers a state_dict lacks are the model's."""
    weights = {name: torch.randn_like(t, dtype=torch.float64) for name, t in case.model.state_dict().items()}
    weights = {name: t.abs() if name.endswith("var") else t for name, t in weights.items()}
    for info in case.structure.tensors:
        for alias in info.aliases[1:]:
            weights.pop(alias, None)
    kept = draw(case.structure, 5)
    small = named_tensors(cut(case.model, case.structure, kept, weights))
    complete = {**model_weights(case.model, case.structure), **weights}
    for name, expected in sliced_state(complete, case.structure, kept).items():
        assert torch.equal(small[name], expected.to(small[name].dtype))


def test_results_cached_on_modules_do_not_prevent_a_cut(residual, draw):
    """A module attribute that is the result of a computation (not a leaf) is copied as a value."""
    residual.model.cache = residual.model.stem.weight * 2
    small = cut(residual.model, residual.structure, draw(residual.structure, 0))
    assert torch.equal(small.cache, residual.model.cache)


def test_a_model_that_does_not_match_is_refused(residual):
    """Missing, added, misshapen, demoted and untied tensors are each named."""
    kept = full(residual.structure)
    model = copy.deepcopy(residual.model)
    model.stem = nn.Conv2d(3, 7, 3, bias=False)
    with pytest.raises(SurgeryError, match=r"'stem.weight' has shape \(7, 3, 3, 3\) instead of \(6, 3, 3, 3\)"):
        cut(model, residual.structure, kept)
    model = copy.deepcopy(residual.model)
    model.conv2 = nn.Identity()
    with pytest.raises(SurgeryError, match=r"'conv2.weight' is missing"):
        cut(model, residual.structure, kept)
    model = copy.deepcopy(residual.model)
    model.extra = nn.Linear(2, 2)
    with pytest.raises(SurgeryError, match=r"not there when it was traced: extra.bias, extra.weight"):
        cut(model, residual.structure, kept)
    model = copy.deepcopy(residual.model)
    bias = model.conv1.bias.detach()
    del model.conv1.bias
    model.conv1.register_buffer("bias", bias)
    with pytest.raises(SurgeryError, match=r"'conv1.bias' to be a parameter of the model, it is a buffer"):
        cut(model, residual.structure, kept)


def test_an_untied_tensor_is_refused(tied):
    """A tie that was there in the trace and is gone is an error, since the cut would tie it again."""
    tied.model.again.weight = nn.Parameter(tied.model.again.weight.detach().clone())
    with pytest.raises(SurgeryError, match=r"'middle\.weight' was tied to again\.weight"):
        cut(tied.model, tied.structure, full(tied.structure))


def test_a_model_that_cannot_be_copied_is_refused(residual):
    """An attribute that deepcopy refuses is reported with advice."""
    residual.model.lock = threading.Lock()
    with pytest.raises(SurgeryError, match=r"class Residual cannot be copied.*copy\.deepcopy"):
        cut(residual.model, residual.structure, full(residual.structure))
