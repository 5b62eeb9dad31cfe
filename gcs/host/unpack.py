"""Unpack a layer's blob to its tar, as a stream that is counted, bounded and hashed.

Source: RFC 1952 (gzip), RFC 8878 (zstd).
"""

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable

import zstandard

from gcs.errors import GcsError
from gcs.host.blob import BlobReader

__all__ = ["UnpackError", "Unpacked"]

#: Most that one layer may unpack to: half of what an image can hold (ext4_image.MAX_GROUPS),
#: and three times the largest layers in use (model and CUDA images, about 10 GiB).
MAX_UNPACKED_BYTES = 32 << 30

#: Compressed layers unpack to 2 to 5 times their size, gzip can reach 1032 times and zstd far
#: more. The first GiB is free, for layers that are mostly one preallocated file; beyond it a
#: layer has to bring a hundredth of what it unpacks to.
FREE_BYTES = 1 << 30
MAX_RATIO = 100

#: zstd -22 --ultra uses a window of 128 MiB; a frame that wants more memory is refused.
MAX_ZSTD_WINDOW = 128 << 20

_CHUNK = 1 << 20


class UnpackError(GcsError):
    """A blob does not unpack to the tar that it should; the text leaves out which blob."""


class Unpacked:
    """The tar inside a blob; `checkpoint` is called now and then with the part that is read."""

    def __init__(
        self, blob: BlobReader, diff_id: str, checkpoint: Callable[[float], None]
    ) -> None:
        self._blob = blob
        self._diff_id = diff_id
        self._checkpoint = checkpoint
        self._read = _decompressed(blob)
        self._hash = hashlib.new(diff_id.partition(":")[0])
        self._limit = min(MAX_UNPACKED_BYTES, FREE_BYTES + MAX_RATIO * blob.size)
        self._size = 0
        self._chunk = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return up to size bytes; b"" at the end."""
        if not self._chunk:
            self._chunk = memoryview(self._next())
        part, self._chunk = self._chunk[:size], self._chunk[size:]
        return bytes(part)

    def verify(self) -> None:
        """Read the rest; raise UnpackError or BlobError if blob or tar has another digest."""
        self._chunk = memoryview(b"")
        while self._next():
            pass
        self._blob.verify()
        if self._hash.hexdigest() != self._diff_id.partition(":")[2]:
            found = self._hash.hexdigest()
            raise UnpackError(f"unpacks to the digest {found}, not to {self._diff_id}")

    def _next(self) -> bytes:
        self._checkpoint(self._blob.progress)
        try:
            chunk = self._read(_CHUNK)
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
            raise UnpackError(f"damaged at unpacked byte {self._size}: {error}") from error
        self._size += len(chunk)
        if self._size > self._limit:
            held = self._blob.size
            raise UnpackError(
                f"unpacks to over {self._limit} bytes, the limit for {held} bytes"
            )
        self._hash.update(chunk)
        return chunk


def _decompressed(blob: BlobReader) -> Callable[[int], bytes]:
    """Return the read method of the tar inside a blob.

    The first bytes decide, not the media type: that is often wrong about compression (`docker
    save`, some registries), and engines look at the bytes too.
    """
    buffered = io.BufferedReader(blob, _CHUNK)
    magic = buffered.peek(4)[:4]
    if magic[:3] == b"\x1f\x8b\x08":
        return gzip.GzipFile(fileobj=buffered, mode="rb").read
    # A zstd frame, or a skippable frame before one.
    number = int.from_bytes(magic, "little")
    if number == 0xFD2FB528 or number & ~0xF == 0x184D2A50:
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
        return decompressor.stream_reader(buffered, read_across_frames=True).read
    return buffered.read
