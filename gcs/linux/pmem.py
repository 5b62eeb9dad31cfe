"""Layers and scratches on persistent memory: find the device, mount it with DAX.

With DAX a read goes to the host's page cache and leaves none in the guest. It needs blocks of
the page size and a device that is mapped; the word `dax` in the mount options is a request
that ext4 either grants or refuses with EINVAL; whether a file has it, statx(2) tells.

A backing file that the host opened read-only still looks writable to the guest, and what is
written to it vanishes: so a layer's mount is read-only, and `noload` keeps a journal from being
replayed.

Source: Documentation/filesystems/dax.rst; ext4(5).
Needs: CONFIG_VIRTIO_PMEM, CONFIG_BLK_DEV_PMEM, CONFIG_FS_DAX, CONFIG_EXT4_FS, CONFIG_BLK_DEV_DM
"""

import errno
import os
from itertools import islice
from pathlib import Path

from gcs.linux import abi, devmapper, ext4, mounts, pci, syscall, vmbus
from gcs.linux.undo import Undo

__all__ = ["find", "find_in_slot", "has_dax", "map_part", "mount", "part_name"]

_TARGET_MODE = 0o700
#: Folders, and files of other kinds, to go through; layers of nothing but links have hundreds.
_MAX_ENTRIES = 1000
#: flags, and options of ext4
_READ_ONLY = abi.MountFlag.RDONLY, ("noload",)
_READ_WRITE = abi.MountFlag(0), ()


def find(pci_address: str, sysfs: Path = pci.SYSFS) -> str | None:
    """Return the device node of the pmem device at a PCI address, None if it is not there."""
    for block in sorted((sysfs / "block").glob("pmem*")):
        if pci.address_of(block / "device") == pci_address:
            return f"/dev/{block.name}"
    return None


def find_in_slot(slot: int, sysfs: Path = pci.SYSFS) -> str | None:
    """Return the device node of the pmem device in a hot-plug slot, None if it is not there.

    Hyper-V has no slots: its firmware lists the devices by number, from 0.
    """
    if vmbus.is_there(sysfs):
        name = f"pmem{slot - 1}"
        return f"/dev/{name}" if (sysfs / "block" / name).exists() else None
    port = pci.port_in_slot(slot, sysfs)
    address = pci.behind(port, sysfs) if port else None
    return find(address, sysfs) if address else None


def mount(
    source: str, target: str, outer: Undo | None = None, *, writable: bool = False
) -> bool:
    """Mount a layer, or what may be written; return whether its files are read by DAX.

    Makes the target, and removes it again when it fails if it made it.
    """
    with mounts.mounting(target, _TARGET_MODE, outer) as undo:
        is_granted = _mount(source, target, *(_READ_WRITE if writable else _READ_ONLY))
        undo.add(syscall.umount, target)
        return is_granted and has_dax(target) is not False


def part_name(source: str, offset: int, size: int) -> str:
    """Return device-mapper's name for a part of a pmem device: there is one of each."""
    return f"dm-linear-{Path(source).name}-{offset}-{size}"


def map_part(source: str, offset: int, size: int, outer: Undo | None = None) -> tuple[str, str]:
    """Make a device of a part of a pmem device; return its node, and device-mapper's name.

    Raises EINVAL when that part is not there.
    """
    name = part_name(source, offset, size)
    with Path(source).open("rb", buffering=0) as device:
        end = device.seek(0, os.SEEK_END)
    if offset + size > end:
        text = f"{source}: {size} bytes from {offset} are not within its {end}"
        raise OSError(errno.EINVAL, text)
    return devmapper.create_linear(name, source, offset, size, outer), name


def _mount(source: str, target: str, flags: abi.MountFlag, words: tuple[str, ...]) -> bool:
    try:
        syscall.mount(source, target, "ext4", flags, ",".join((*words, "dax")))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        with ext4.explained(source):
            syscall.mount(source, target, "ext4", flags, ",".join(words) or None)
        return False
    return True


def has_dax(folder: str) -> bool | None:
    """Return whether the first file that is found in a folder is read by DAX.

    None when there is no file among its first entries. The mount options only tell what was
    asked for; the kernel decides for each file.
    """
    folders = islice(os.walk(folder), _MAX_ENTRIES)
    entries = (Path(top, name) for top, _, names in folders for name in names)
    for path in islice(entries, _MAX_ENTRIES):
        if path.is_file() and not path.is_symlink():
            return bool(syscall.statx_attributes(str(path)) & abi.STATX_ATTR_DAX)
    return None
