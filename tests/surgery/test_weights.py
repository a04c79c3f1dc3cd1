import pytest
import torch

from autoprune.errors import SurgeryError
from autoprune.surgery.matching import model_weights
from autoprune.surgery.weights import decode_weights, encode_weights


def test_round_trip(case):
    """Decoding gives every tensor of the structure back, tied ones once, non-persistent buffers included."""
    weights = model_weights(case.model, case.structure)
    found = decode_weights(encode_weights(weights, case.structure), case.structure)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


def test_equal_weights_are_equal_bytes(case):
    """The blob depends on values alone, not on the mapping's order or the memory layout."""
    weights = model_weights(case.model, case.structure)
    shuffled = {
        name: weights[name].mT.contiguous().mT if weights[name].dim() > 1 else weights[name]
        for name in reversed(list(weights))
    }
    assert encode_weights(weights, case.structure) == encode_weights(shuffled, case.structure)


def test_truncated_and_foreign_blobs_are_refused(residual):
    """A blob that is cut short, or of another structure, is an error of ours."""
    blob = encode_weights(model_weights(residual.model, residual.structure), residual.structure)
    for length in (0, 7, 100, len(blob) - 1):
        with pytest.raises(SurgeryError, match="expected a weights blob"):
            decode_weights(blob[:length], residual.structure)


def test_blobs_of_another_model_are_refused(tied, residual):
    """The tensors that are missing are named."""
    blob = encode_weights(model_weights(tied.model, tied.structure), tied.structure)
    with pytest.raises(SurgeryError, match=r"weights blob must hold .*'stem.weight' is missing"):
        decode_weights(blob, residual.structure)
