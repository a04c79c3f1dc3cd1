import hashlib
from pathlib import Path

import pytest

from autoprune.errors import InvalidArgumentError, StoreError
from autoprune.store.blobs import BlobStore

DATA = bytes(range(256)) * 3


def test_a_blob_is_named_by_its_content_and_comes_back(tmp_path: Path) -> None:
    """Bytes go in and come out under their SHA-256; the same bytes are kept once."""
    blobs = BlobStore(tmp_path / "weights")
    name = blobs.put(DATA)
    assert name == hashlib.sha256(DATA).hexdigest()
    assert blobs.put(DATA) == name
    assert blobs.get(name) == DATA
    assert name in blobs
    assert [path.name for path in blobs.folder.iterdir()] == [name]


def test_an_empty_blob_is_a_blob(tmp_path: Path) -> None:
    """No bytes have a hash, too."""
    blobs = BlobStore(tmp_path)
    assert blobs.get(blobs.put(b"")) == b""


@pytest.mark.parametrize("length", [0, 1, 100, len(DATA) - 1])
def test_a_truncated_blob_is_refused_and_can_be_put_again(tmp_path: Path, length: int) -> None:
    """Cut at any place it is an error, not other weights; putting the bytes again repairs it."""
    blobs = BlobStore(tmp_path)
    name = blobs.put(DATA)
    blobs.path(name).write_bytes(DATA[:length])
    with pytest.raises(StoreError, match="truncated or altered"):
        blobs.get(name)
    blobs.put(DATA)
    assert blobs.get(name) == DATA


def test_an_altered_byte_is_found(tmp_path: Path) -> None:
    """One changed byte, same size."""
    blobs = BlobStore(tmp_path)
    name = blobs.put(DATA)
    blobs.path(name).write_bytes(b"\x01" + DATA[1:])
    with pytest.raises(StoreError, match="truncated or altered"):
        blobs.get(name)


def test_a_missing_blob_says_so(tmp_path: Path) -> None:
    """A copy of the folder without its weights gets a clear error."""
    blobs = BlobStore(tmp_path)
    name = hashlib.sha256(b"never put").hexdigest()
    assert name not in blobs
    with pytest.raises(StoreError, match="copied completely"):
        blobs.get(name)


@pytest.mark.parametrize("name", ["", "../run.sqlite", "A" * 64, "0" * 63])
def test_a_name_that_is_no_hash_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    """Names come from files and messages; only 64 hexadecimal digits are used."""
    with pytest.raises(InvalidArgumentError, match="64 hexadecimal"):
        BlobStore(tmp_path).get(name)
