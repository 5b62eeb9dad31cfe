"""Layers that prove each block when it is read: dm-verity, with a root digest from elsewhere.

On the device a file system of ext4 comes first, then, in a block of its own, the superblock of
dm-verity, then the tree of digests. The superblock only says how the tree was made; that it is
the right one is proved by the digest, which the device has no say in.

Source: Documentation/admin-guide/device-mapper/verity.rst; the on-disk format of cryptsetup's
wiki, "DMVerity"; ext4's superblock in Documentation/filesystems/ext4/super.rst.
Needs: CONFIG_DM_VERITY, CONFIG_CRYPTO_SHA256
"""

import errno
import os
import re
import struct
from pathlib import Path

from gcs.linux import devmapper, ext4
from gcs.linux.undo import Undo

__all__ = ["create"]

#: signature, version, hash type, uuid, algorithm, data and hash block size, data blocks, size
#: of the salt, salt.
_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s")
_SIGNATURE = b"verity\0\0"
#: The unit of the tree, and what DAX-less ext4 layers have for blocks as well.
_BLOCK = 4096
_DIGEST = re.compile(r"[0-9a-f]{64}")


def create(name: str, source: str, root_digest: str, outer: Undo | None = None) -> str:
    """Make a device that only reads as the digest says; return its node.

    What does not agree with the digest is an I/O error when it is read. Raises EINVAL when
    there is no tree of SHA-256 on the device, or the digest is none.
    """
    if not _DIGEST.fullmatch(root_digest):
        raise OSError(errno.EINVAL, f"{source}: root digest {root_digest!r} is not of SHA-256")
    with Path(source).open("rb", buffering=0) as device:
        size = _ext4_size(device.fileno(), source)
        salt = _salt(device.fileno(), source, size)
    blocks = size // _BLOCK
    where = f"{source} {source} {_BLOCK} {_BLOCK} {blocks} {blocks + 1}"
    parameters = f"1 {where} sha256 {root_digest} {salt}"
    return devmapper.create(name, size, "verity", parameters, outer)


def _ext4_size(fd: int, source: str) -> int:
    """Return the bytes of the file system at the start of a device."""
    found = ext4.read(fd)
    if found is None or not found.size or found.size % _BLOCK:
        raise OSError(errno.EINVAL, f"{source}: no ext4 whose digests could follow it")
    return found.size


def _salt(fd: int, source: str, offset: int) -> str:
    """Return the salt of the tree behind the file system, in hex, `-` for none."""
    raw = os.pread(fd, _SUPERBLOCK.size, offset).ljust(_SUPERBLOCK.size, b"\0")
    found = _SUPERBLOCK.unpack(raw)
    signature, version, kind, _, algorithm, data_size, hash_size, blocks, length, salt = found
    expected = (_SIGNATURE, 1, 1, b"sha256", _BLOCK, _BLOCK, offset // _BLOCK)
    stated = (signature, version, kind, algorithm.rstrip(b"\0"), data_size, hash_size, blocks)
    if stated != expected or length > len(salt):
        raise OSError(errno.EINVAL, f"{source}: no dm-verity tree of SHA-256 at {offset}")
    return str(salt[:length].hex()) or "-"
