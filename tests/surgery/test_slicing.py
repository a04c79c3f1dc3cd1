import numpy as np
import pytest
import torch

from autoprune.core.groups import Structure
from autoprune.errors import InvalidArgumentError, SurgeryError
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights
from autoprune.surgery.slicing import sliced_state, written_back


def test_slices_are_the_sorted_kept_positions(case, draw):
    """Every tensor equals a numpy reference that takes the sorted kept positions of each axis."""
    weights = model_weights(case.model, case.structure)
    for seed in range(10):
        kept = draw(case.structure, seed)
        state = sliced_state(weights, case.structure, kept)
        for info in case.structure.tensors:
            expected = weights[info.name].numpy()
            for axis in case.structure.axes_of.get(info.name, ()):
                stays = [i for i, gene in enumerate(axis.genes) if gene < 0 or kept[gene]]
                expected = expected.take(stays, axis=axis.dim)
            np.testing.assert_array_equal(state[info.name].numpy(), expected, strict=True)


def test_fixed_positions_always_stay(residual):
    """A position without a gene (-1) stays, whatever is removed."""
    axes = tuple(
        type(axis)(axis.tensor, axis.dim, np.where(axis.genes == 2, -1, axis.genes)) for axis in residual.structure.axes
    )
    structure = Structure(residual.structure.groups, axes, residual.structure.tensors)
    kept = np.ones(structure.n_genes, dtype=bool)
    kept[:6] = [False, False, False, False, False, True]
    state = sliced_state(model_weights(residual.model, structure), structure, kept)
    assert torch.equal(state["stem.weight"], residual.model.stem.weight[[2, 5]])


def test_full_genome_returns_the_tensors_themselves(case):
    """With every channel kept nothing is copied: the very same objects come back."""
    weights = model_weights(case.model, case.structure)
    state = sliced_state(weights, case.structure, np.ones(case.structure.n_genes, dtype=bool))
    assert all(state[name] is weights[name] for name in weights)


def test_contiguous_rows_are_views(residual):
    """A contiguous range of rows shares memory with the dense tensor; scattered rows do not."""
    weights = model_weights(residual.model, residual.structure)
    kept = np.ones(11, dtype=bool)
    kept[:6] = [False, True, True, True, False, False]
    rows = sliced_state(weights, residual.structure, kept)["stem.weight"]
    assert rows.data_ptr() == weights["stem.weight"][1].data_ptr()
    kept[:6] = [True, False, True, True, False, False]
    rows = sliced_state(weights, residual.structure, kept)["stem.weight"]
    assert rows.untyped_storage().data_ptr() != weights["stem.weight"].untyped_storage().data_ptr()


def test_results_are_contiguous(case, draw):
    """No slice is strided, whichever way it was taken: a strided weight would be copied at every forward."""
    weights = model_weights(case.model, case.structure)
    prefix = case.structure.kept_genes(
        [np.arange(group.width) for group in case.structure.groups], [2] * len(case.structure.groups)
    )
    for kept in (prefix, draw(case.structure, 1)):
        assert all(t.is_contiguous() for t in sliced_state(weights, case.structure, kept).values())


def test_tied_tensors_come_back_under_each_name(tied, draw):
    """Sliced state dicts load strictly into a cut model: every name is there, tied ones once in memory."""
    kept = draw(tied.structure, 3)
    state = sliced_state(tied.model.state_dict(), tied.structure, kept)
    assert state["again.weight"] is state["middle.weight"]
    small = cut(tied.model, tied.structure, kept)
    small.load_state_dict(state, strict=True)


def test_wrong_weights_are_named(residual):
    """Missing and misshapen tensors are all named, with what was expected."""
    weights = model_weights(residual.model, residual.structure)
    del weights["stem.weight"]
    weights["head.weight"] = weights["head.weight"][:, :3]
    kept = np.ones(11, dtype=bool)
    with pytest.raises(SurgeryError, match=r"'stem.weight' is missing.*'head.weight' has shape \(4, 3\).*\(4, 24\)"):
        sliced_state(weights, residual.structure, kept)


@pytest.mark.parametrize("kept", [np.ones(10, dtype=bool), np.ones(11, dtype=int), np.ones((11, 1), dtype=bool)])
def test_kept_of_another_structure_is_refused(residual, kept):
    """Kept channels of another length, type or rank are an error that says what was expected."""
    with pytest.raises(InvalidArgumentError, match=r"boolean array of shape \(11,\)"):
        sliced_state(model_weights(residual.model, residual.structure), residual.structure, kept)


def test_an_emptied_group_is_named(residual):
    """A group that keeps nothing is an error that names it."""
    kept = np.ones(11, dtype=bool)
    kept[6:] = False
    with pytest.raises(InvalidArgumentError, match="'conv1' keeps none of its 5 channels"):
        sliced_state(model_weights(residual.model, residual.structure), residual.structure, kept)


def test_what_was_sliced_is_written_back(case, draw):
    """A changed smaller model changes what stayed and nothing else; slicing again gives the smaller model's tensors."""
    weights = model_weights(case.model, case.structure)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    for seed in range(5):
        kept = draw(case.structure, seed)
        small = {name: tensor + 1 for name, tensor in sliced_state(weights, case.structure, kept).items()}
        dense = written_back(weights, small, case.structure, kept)
        again = sliced_state(dense, case.structure, kept)
        for name, tensor in small.items():
            assert torch.equal(again[name], tensor)
            n_changed = int((dense[name] != weights[name]).sum())
            assert n_changed == tensor.numel()
    assert all(torch.equal(weights[name], before[name]) for name in before)
