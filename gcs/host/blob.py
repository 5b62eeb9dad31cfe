"""Where a blob's bytes lie, and how they are read: a file of a layout, or a stretch of its tar.

Every reader hashes what passes; nobody gets to the end of a blob whose digest is wrong without
an error.

Source: OCI image-spec descriptor.md, "Digests".
"""

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gcs.errors import GcsError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["Blob", "BlobError", "BlobReader", "check_digest"]

#: The two registered algorithms and the length of their hex form.
_HEX_DIGITS = {"sha256": 64, "sha512": 128}


class BlobError(GcsError):
    """A blob is missing, damaged or not the one that was asked for."""


def check_digest(digest: str) -> str:
    """Return a digest as it came, or raise BlobError: its text becomes part of file names."""
    algorithm, _, encoded = digest.partition(":")
    wanted = _HEX_DIGITS.get(algorithm)
    if wanted is None or not re.fullmatch(f"[0-9a-f]{{{wanted}}}", encoded):
        raise BlobError(f"digest {digest[:160]!r} is neither sha256 nor sha512")
    return digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """One blob of an image: `size` bytes from `offset` of a file."""

    digest: str
    path: Path
    offset: int
    size: int

    def open(self) -> "BlobReader":
        """Open it for one pass from front to back."""
        return BlobReader(self)

    def read(self) -> bytes:
        """Return the whole of a small blob; the caller has looked at `size`.

        Raises:
            BlobError: it is cut off, or its digest is wrong.
        """
        with self.open() as reader:
            content = reader.read()
            reader.verify()
        return content


class BlobReader(io.RawIOBase):
    """Read a blob as a raw stream; `verify` reads the rest and compares the digest."""

    def __init__(self, blob: Blob) -> None:
        super().__init__()
        self._blob = blob
        self._left = blob.size
        self._hash = hashlib.new(blob.digest.partition(":")[0])
        try:
            self._file = blob.path.open("rb", buffering=0)
        except OSError as error:
            raise BlobError(f"blob {blob.digest}: {blob.path}: {error.strerror}") from error
        self._file.seek(blob.offset)

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        return self._blob.size

    @property
    def progress(self) -> float:
        """How much of the blob has been read, from 0 to 1."""
        return 1 - self._left / max(self._blob.size, 1)

    def readable(self) -> bool:
        """Say yes: this is what makes a raw stream readable."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer from the blob, never beyond its end."""
        view = memoryview(buffer)[: self._left]
        count = self._file.readinto(view) or 0
        if view and not count:
            raise BlobError(f"blob {self._blob.digest}: ends {self._left} bytes early")
        self._hash.update(view[:count])
        self._left -= count
        return count

    def verify(self) -> None:
        """Read what is left and raise BlobError unless the digest is the blob's own."""
        while self.read(1 << 18):
            pass
        found = self._hash.hexdigest()
        if found != self._blob.digest.partition(":")[2]:
            raise BlobError(f"blob {self._blob.digest}: content has the digest {found}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
