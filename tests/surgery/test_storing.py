"""Tensors as bytes: what is packed comes back, whatever its type."""

from __future__ import annotations

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from autoprune.surgery.storing import pack_tensors, unpack_tensors

KINDS = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64)


def test_every_type_comes_back() -> None:
    """Complex numbers of double precision as well, of any shape, conjugate views of them, too."""
    torch.manual_seed(0)
    tensors = {str(kind): torch.randn(3, 2).to(kind) for kind in KINDS}
    wide = torch.randn(3, 2, dtype=torch.complex128)
    tensors |= {"wide": wide, "conjugate": wide.conj(), "scalar": wide[0, 0].clone(), "empty": wide[:0].clone()}
    found = unpack_tensors(pack_tensors(tensors, {"a": "b"}))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_other_types_are_as_safetensors_writes_them() -> None:
    """Files of models without such numbers have the bytes that they always had, which their names are made of."""
    tensors = {str(kind): torch.ones(3, 2).to(kind) for kind in KINDS}
    assert pack_tensors(tensors) == save(tensors)
    assert pack_tensors(tensors, {"a": "b"}) == save(tensors, {"a": "b"})
    assert load(pack_tensors({"z": torch.zeros(2, dtype=torch.complex128)}))["z"].shape == (2, 2)
    with pytest.raises(SafetensorError):
        unpack_tensors(b"nothing of the kind")


@pytest.mark.parametrize("named", ['["a"]', '["b"]', '["absent"]', "5", "nonsense", '{"a": 1}'])
def test_pairs_that_are_none_are_refused(named: str) -> None:
    """Bytes whose header lies are damaged, an error that every reader of bytes expects, whatever stands there."""
    tensors = {"a": torch.zeros(3, dtype=torch.float64), "b": torch.zeros(3, 2)}
    with pytest.raises(ValueError, match=r"expected|Expecting"):
        unpack_tensors(save(tensors, {"complex128": named}))
