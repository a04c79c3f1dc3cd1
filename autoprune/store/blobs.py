"""Bytes named by their own content: weights, channel orders."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

from autoprune.errors import InvalidArgumentError, StoreError


class BlobStore:
    """A folder of immutable files, each named by the SHA-256 of its bytes.

    Args:
        folder: folder of the blobs; made with the first one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, data: bytes) -> str:
        """Keep ``data`` and return its SHA-256; a blob appears complete or not at all.

        Raises:
            StoreError: the folder cannot be written.
        """
        name = hashlib.sha256(data).hexdigest()
        path = self.folder / name
        try:
            if path.is_file() and path.read_bytes() == data:  # a damaged one is written again
                return name
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=self.folder, prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())  # the ledger will speak of this blob: it must outlive a power cut
                Path(partial).replace(path)
            except BaseException:
                Path(partial).unlink(missing_ok=True)
                raise
        except OSError as error:
            msg = f"cannot write {path}: {error}; check that there is room and that you may write to the folder"
            raise StoreError(msg) from error
        return name

    def get(self, name: str) -> bytes:
        """Return the bytes called ``name``, verified.

        Raises:
            InvalidArgumentError: ``name`` is not a SHA-256.
            StoreError: there is no such blob, or its bytes have changed.
        """
        path = self.path(name)
        try:
            data = path.read_bytes()
        except OSError as error:
            msg = f"expected a blob {name} in {self.folder}: {error}; was the run folder copied completely?"
            raise StoreError(msg) from error
        if hashlib.sha256(data).hexdigest() != name:
            msg = (
                f"{path} does not hold the bytes it is named after: it was truncated or altered; restore it from a copy"
            )
            raise StoreError(msg)
        return data

    def has_intact(self, name: str) -> bool:
        """Say whether there is a blob called ``name`` whose bytes are those it is named after."""
        try:
            self.get(name)
        except StoreError:
            return False
        return True

    def path(self, name: str) -> Path:
        """Return where the blob called ``name`` is, or would be.

        Raises:
            InvalidArgumentError: ``name`` is not a SHA-256.
        """
        if not re.fullmatch(r"[0-9a-f]{64}", name):
            msg = f"expected the SHA-256 of a blob (64 hexadecimal digits), got {name!r}"
            raise InvalidArgumentError(msg)
        return self.folder / name

    def __contains__(self, name: str) -> bool:
        """Say whether there is a blob called ``name``; its bytes are not verified."""
        return self.path(name).is_file()
