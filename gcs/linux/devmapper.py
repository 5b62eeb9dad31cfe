"""Block devices made of parts of others: device-mapper's ioctls.

A node appears as /dev/dm-N with the device, by devtmpfs; nothing makes or removes nodes here.

Source: linux/dm-ioctl.h; Documentation/admin-guide/device-mapper/linear.rst.
Needs: CONFIG_BLK_DEV_DM, CONFIG_DEVTMPFS
"""

import errno
import fcntl
import os
import struct
import sys
from typing import Final

from gcs.linux.undo import Undo, on_failure

__all__ = ["SECTOR", "create", "create_linear", "remove"]

#: Bytes of the unit in which tables count.
SECTOR: Final = 512
_CONTROL: Final = "/dev/mapper/control"
#: version, data_size, data_start, target_count, open_count, flags, event_nr, padding, dev,
#: name, uuid, data. Source: struct dm_ioctl, 312 bytes.
_HEADER = struct.Struct("=3IIIIiIIIQ128s129s7x")
#: sector_start, length, status, next, type. Source: struct dm_target_spec.
_TARGET = struct.Struct("=QQiI16s")
_VERSION = (4, 0, 0)
#: _IOWR(0xfd, number, struct dm_ioctl): read and write (3 << 30), the size, type and number.
_IOWR: Final = 3 << 30 | _HEADER.size << 16 | 0xFD << 8
_DEV_CREATE, _DEV_REMOVE, _DEV_SUSPEND, _TABLE_LOAD = 3, 4, 6, 9
_READONLY, _DEFERRED_REMOVE = 1 << 0, 1 << 17
#: The name's field, with its terminating zero.
_MAX_NAME = 127


def create_linear(
    name: str, source: str, offset: int, size: int, outer: Undo | None = None
) -> str:
    """Make a read-only device of a part of another; return its node.

    Raises EBUSY when the name is taken, EINVAL when the part is not within the device.

    Units: bytes, multiples of a sector.
    """
    return create(name, size, "linear", f"{source} {offset // SECTOR}", outer)


def create(
    name: str, size: int, target: str, parameters: str, outer: Undo | None = None
) -> str:
    """Make a read-only device of one target; return its node.

    Raises EBUSY when the name is taken, EINVAL when the target refuses its parameters.

    Units: bytes, a multiple of a sector.
    """
    with on_failure(outer) as undo:
        device = _call(_DEV_CREATE, name, "create")
        undo.add(remove, name)
        table = _table(size // SECTOR, target, parameters)
        _call(_TABLE_LOAD, name, f"load {target} {parameters} into", _READONLY, table)
        _call(_DEV_SUSPEND, name, "resume", _READONLY)  # without its flag it means the opposite
    return f"/dev/dm-{os.minor(device)}"


def remove(name: str) -> None:
    """Remove a device, at once or when its last user has closed it; none is fine."""
    try:
        _call(_DEV_REMOVE, name, "remove", _DEFERRED_REMOVE)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise


def _table(length: int, target: str, parameters: str) -> bytes:
    """Return a table of one target, padded to eight bytes."""
    text = parameters.encode() + b"\0"
    size = -(-(_TARGET.size + len(text)) // 8) * 8
    spec = _TARGET.pack(0, length, 0, size, target.encode())
    return (spec + text).ljust(size, b"\0")


def _call(number: int, name: str, verb: str, flags: int = 0, table: bytes = b"") -> int:
    """Make one ioctl; return the device's number."""
    subject = f"device-mapper {verb} {name}"
    sys.audit("gcs.ioctl", subject)
    if len(name) > _MAX_NAME:
        raise OSError(errno.ENAMETOOLONG, f"{subject}: {os.strerror(errno.ENAMETOOLONG)}")
    size = _HEADER.size + len(table)
    header = _HEADER.pack(
        *(*_VERSION, size, _HEADER.size, int(bool(table)), 0),
        *(flags, 0, 0, 0, name.encode(), b""),
    )
    buffer = bytearray(header + table)
    try:
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(control, _IOWR | number, buffer)
        finally:
            os.close(control)
    except OSError as error:
        raise OSError(error.errno, f"{subject}: {error.strerror}") from error
    device: int = _HEADER.unpack_from(buffer)[10]
    return device
