"""What can be told of an ext4 file system from its superblock alone, without mounting it.

The kernel's answer to a bad one is EINVAL and a line in its own log; `explained` says the same
to who asked for the mount.

Source: Documentation/filesystems/ext4/super.rst.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BLOCK", "Superblock", "complaint", "explained", "read"]

#: The size of a page, and so that of the blocks that DAX can map.
BLOCK = 4096
_OFFSET, _SIZE = 1024, 1024
_MAGIC = 0xEF53
_64BIT = 0x80
#: Blocks have 1024 to 65,536 bytes.
_MAX_LOG_SIZE = 6


@dataclass(frozen=True, slots=True)
class Superblock:
    """What is read of it."""

    #: bytes
    block: int
    #: bytes of the whole file system
    size: int


def read(fd: int) -> Superblock | None:
    """Return the superblock of what an open device holds, None if that is no ext4."""
    head = os.pread(fd, _SIZE, _OFFSET).ljust(_SIZE, b"\0")
    low, log_size = struct.unpack_from("<4xI16xI", head)
    magic, incompatible = struct.unpack_from("<56xH38xI", head)
    if magic != _MAGIC or log_size > _MAX_LOG_SIZE:
        return None
    high = struct.unpack_from("<I", head, 0x150)[0] if incompatible & _64BIT else 0
    block = 1 << (10 + log_size)
    return Superblock(block, (high << 32 | low) * block)


@contextmanager
def explained(source: str) -> Iterator[None]:
    """Add to the error of a mount why it can't be one of ext4, if that can be told."""
    try:
        yield
    except OSError as error:
        if why := complaint(source):
            error.add_note(f"{source}: {why}")
        raise


def complaint(source: str) -> str:
    """Return why the kernel can't mount a device as ext4, "" if its superblock looks fine."""
    try:
        with Path(source).open("rb", buffering=0) as device:
            found = read(device.fileno())
            there = device.seek(0, os.SEEK_END)
    except OSError as error:
        return f"its superblock can't be read ({error.strerror})"
    if found is None:
        return "it has no superblock of ext4"
    if found.size > there:
        return f"its file system has {found.size} bytes, and the device only {there}"
    return ""
