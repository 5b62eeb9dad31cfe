"""SCSI disks: find by controller and LUN, mount them or link to them, let go of them.

A virtio-scsi controller is counted by PCI address, which the host gives; the kernel's host
numbers follow the order of probing. On Hyper-V a controller has a GUID for its number.

Source: Documentation/scsi/scsi_mid_low_api.rst; Documentation/ABI/testing/sysfs-block.
Needs: CONFIG_SCSI_VIRTIO, CONFIG_BLK_DEV_SD, CONFIG_EXT4_FS, CONFIG_XFS_FS,
CONFIG_MSDOS_PARTITION, CONFIG_EFI_PARTITION
"""

import errno
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gcs.linux import abi, ext4, mounts, options, pci, syscall, vmbus
from gcs.linux.undo import Undo, on_failure

__all__ = ["find", "holds_files", "host_numbers", "make_link", "mount", "remove", "remove_link"]

_TARGET_MODE = 0o700
#: What keeps a read-only file system from writing its journal's content back.
_NO_REPLAY: Final[Mapping[str, str]] = MappingProxyType({"ext4": "noload", "xfs": "norecovery"})
#: The folder that a new ext4 has. What a check of the file system has saved is in it.
_ALWAYS_THERE: Final = "lost+found"


def host_numbers(sysfs: Path = pci.SYSFS) -> dict[str, int]:
    """Return the SCSI host number of each virtio-scsi by PCI address, in that order."""
    found = {}
    for device in (sysfs / "bus/virtio/drivers/virtio_scsi").glob("virtio*"):
        address = pci.address_of(device)
        hosts = [child.name for child in device.resolve().glob("host*")]
        if address and hosts:
            found[address] = int(hosts[0].removeprefix("host"))
    return dict(sorted(found.items()))


def find(
    controller: int,
    lun: int,
    pci_address: str = "",
    partition: int = 0,
    sysfs: Path = pci.SYSFS,
) -> str | None:
    """Return the device node of a disk, or of its n-th partition; None if it is not there."""
    device = _device(controller, lun, pci_address, sysfs)
    blocks = sorted(device.glob("block/*")) if device else []
    if not blocks or not partition:
        return f"/dev/{blocks[0].name}" if blocks else None
    for number in blocks[0].glob("*/partition"):
        if number.read_text().strip() == str(partition):
            return f"/dev/{number.parent.name}"
    return None


def _device(controller: int, lun: int, pci_address: str, sysfs: Path) -> Path | None:
    host = _host_number(controller, pci_address, sysfs)
    return None if host is None else sysfs / f"bus/scsi/devices/{host}:0:0:{lun}"


def _host_number(controller: int, pci_address: str, sysfs: Path) -> int | None:
    hosts = host_numbers(sysfs)
    if pci_address:
        return hosts.get(pci_address)
    if vmbus.is_there(sysfs):
        return vmbus.scsi_host(controller, sysfs)
    return list(hosts.values())[controller] if controller < len(hosts) else None


def remove(controller: int, lun: int, pci_address: str = "", sysfs: Path = pci.SYSFS) -> None:
    """Tell the kernel to let go of a disk before it is unplugged; an absent one is fine."""
    device = _device(controller, lun, pci_address, sysfs)
    if device is None:
        return
    try:
        (device / "delete").write_text("1\n")
    except FileNotFoundError:
        return


def mount(
    source: str,
    target: str,
    fstype: str,
    *,
    readonly: bool,
    words: Sequence[str] = (),
    outer: Undo | None = None,
) -> None:
    """Mount a disk, with the options that the words are.

    Makes the target, and removes it again when it fails if it made it. A read-only ext4 or xfs
    is mounted without replaying its journal.
    """
    wanted = options.parse(("ro", *words) if readonly else words)
    flags = wanted.flags | (abi.MountFlag.RDONLY if readonly else abi.MountFlag(0))
    data = wanted.data
    if abi.MountFlag.RDONLY in flags and fstype in _NO_REPLAY:
        data = ",".join(filter(None, (_NO_REPLAY[fstype], data)))
    with mounts.mounting(target, _TARGET_MODE, outer) as undo:
        with ext4.explained(source) if fstype == "ext4" else nullcontext():
            syscall.mount(source, target, fstype, flags, data or None)
        undo.add(syscall.umount, target)
        for change in wanted.propagation:
            syscall.mount("none", target, None, change)


def holds_files(source: str, fstype: str) -> bool:
    """Tell whether there is anything in a disk's file system.

    Its journal is replayed for that: what is only there yet counts as well. Raises OSError if
    it can't be mounted.
    """
    folder = tempfile.mkdtemp(dir="/run", prefix="look-")
    try:
        syscall.mount(source, folder, fstype, abi.MountFlag.RDONLY)
        try:
            return not all(map(_is_as_made, Path(folder).iterdir()))
        finally:
            syscall.umount(folder)
    finally:
        mounts.remove_target(folder)


def _is_as_made(entry: Path) -> bool:
    """Tell whether this is what mkfs.ext4 itself has put into the root of a file system."""
    is_that_folder = entry.name == _ALWAYS_THERE and stat.S_ISDIR(entry.lstat().st_mode)
    return is_that_folder and not any(entry.iterdir())


def make_link(source: str, target: str) -> None:
    """Make a symbolic link to a disk, with the folders on the way to it.

    Raises EEXIST when something else is there.
    """
    with on_failure() as undo:
        mounts.make_target(str(Path(target).parent), _TARGET_MODE, undo)
        link = Path(target)
        if not (link.is_symlink() and str(link.readlink()) == source):
            link.symlink_to(source)


def remove_link(target: str) -> None:
    """Remove a link; one that is not there is done. Raises EINVAL when it is no link."""
    if not os.path.lexists(target):
        return
    if not Path(target).is_symlink():
        raise OSError(errno.EINVAL, f"unlink {target}: not a symbolic link")
    os.unlink(target)  # noqa: PTH108 - the error names the path either way
