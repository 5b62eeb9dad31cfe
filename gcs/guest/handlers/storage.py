"""ModifySettings of layers and disks."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

import trio

from gcs.errors import InvalidArgumentError, UnsupportedError, WrongStateError
from gcs.guest import devices, encryption, mounting
from gcs.guest.agent import Agent, MountRecord
from gcs.guest.kernel_call import in_kernel
from gcs.guest.log import fields
from gcs.guest.mounting import absolute
from gcs.linux import pmem, probe, scsi, verity
from gcs.linux.undo import Undo, on_failure
from gcs.wire.resource import MappedVirtualDisk, MappingInfo, ScsiDevice, VPMemDevice

__all__ = [
    "add_disk",
    "add_pmem",
    "remove_disk",
    "remove_pmem",
    "remove_scsi_device",
]

_log = logging.getLogger("gcs.storage")

T = TypeVar("T")

#: DAX maps pages: a part that begins within one could not be mapped.
_PAGE = 4096
#: The file systems that a disk may have; the first is the one to make when none is named.
_MOUNTABLE = ("ext4", "xfs")
_BLANK_IS_FINE: Final = MappedVirtualDisk(ensure_filesystem=True, filesystem="ext4")
_EXT4_WORDS: Final = "nodiscard,lazy_itable_init=1,lazy_journal_init=1"
_MKFS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "ext4": (
            # Blocks of a page whatever the size: without them there is no DAX.
            *("mkfs.ext4", "-q", "-b", str(_PAGE)),
            *("-E", _EXT4_WORDS),
        ),
        # Without -f it refuses what holds anything, by its own lights as well.
        "xfs": ("mkfs.xfs", "-q", "-K"),
    }
)
#: What was never written to an encrypted disk can't be read: no superblocks that are written by
#: less than a block (the copies of ext4's), and no look at what was there before (that of xfs).
_ON_ENCRYPTED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "ext4": ("-O", "sparse_super2", "-E", f"num_backup_sb=0,{_EXT4_WORDS}"),
        "xfs": ("-f",),
    }
)


# -- layers --------------------------------------------------------------


async def add_pmem(agent: Agent, settings: VPMemDevice) -> None:
    """Mount a layer, or a part of a device that is one, with DAX if its blocks allow it.

    Or a scratch that may be written, after making a file system on it if it is blank.
    """
    target, part = absolute(settings.mount_path, "MountPath"), settings.mapping_info
    if part is not None:
        _check_part(part)
    if settings.writable and (part or settings.root_digest):
        raise InvalidArgumentError("Writable: only a whole device that is not verified")
    record = MountRecord(target, kind="VPMemDevice")
    with agent.reserve_mount(record):
        record.source = await _wait_for_pmem(settings)
        _check_unmapped(agent, record.source, part)
        if settings.writable:
            await _filesystem(agent, record.source, _BLANK_IS_FINE)
        record.has_dax = await mounting.make(
            agent, record, lambda undo: _mount_layer(record, settings, undo)
        )
    level = logging.INFO if record.has_dax else logging.WARNING
    members = fields(source=record.source, target=target, dax=record.has_dax)
    _log.log(level, "layer mounted", extra=members)


def _mount_layer(record: MountRecord, settings: VPMemDevice, outer: Undo) -> bool:
    """Make the devices that the layer is on, and mount it; return whether it has DAX."""
    part, digest = settings.mapping_info, settings.root_digest
    with on_failure(outer) as undo:
        if part is not None:
            offset, size = part.device_offset_in_bytes, part.device_size_in_bytes
            record.source, name = pmem.map_part(record.source, offset, size, undo)
            record.mappings += (name,)
        if digest:
            name = f"dm-verity-{Path(record.source).name}-{digest}"
            record.source = verity.create(name, record.source, digest, undo)
            record.mappings += (name,)
        return pmem.mount(record.source, record.target, undo, writable=settings.writable)


def _check_part(part: MappingInfo) -> None:
    numbers = (part.device_offset_in_bytes, part.device_size_in_bytes)
    if not part.device_size_in_bytes or any(number % _PAGE for number in numbers):
        text = f"{numbers[1]} bytes from {numbers[0]}: not whole pages of {_PAGE}"
        raise InvalidArgumentError(f"MappingInfo: {text}")


def _check_unmapped(agent: Agent, source: str, part: MappingInfo | None) -> None:
    """Raise WrongStateError when that part of a device is mounted elsewhere."""
    if part is None:
        return
    offset, size = part.device_offset_in_bytes, part.device_size_in_bytes
    name = pmem.part_name(source, offset, size)
    for other in agent.mounts.values():
        if name in other.mappings:
            text = f"{size} bytes from {offset} are mounted at {other.target} already"
            raise WrongStateError(f"{source}: {text}")


async def _wait_for_pmem(settings: VPMemDevice) -> str:
    """Return the node of a pmem device. Raises DeadlineError."""
    if settings.pci_address:
        what = f"pmem device at PCI address {settings.pci_address}"
        return await devices.wait_for_node(partial(pmem.find, settings.pci_address), what)
    number = settings.device_number
    find = partial(pmem.find_in_slot, number + 1)
    return await devices.wait_for_node(find, f"pmem device {number}")


async def remove_pmem(agent: Agent, settings: VPMemDevice) -> None:
    """Unmount a layer."""
    await mounting.take_off(agent, absolute(settings.mount_path, "MountPath"))


# -- disks --------------------------------------------------------------


async def add_disk(agent: Agent, settings: MappedVirtualDisk) -> None:
    """Mount a SCSI disk, after making a file system on it if it is blank and that is asked.

    Or link to its device, or only wait for it.
    """
    if not settings.mount_path:
        await _wait_for_disk(settings)
        return
    target = absolute(settings.mount_path, "MountPath")
    record = MountRecord(target, kind="MappedVirtualDisk")
    with agent.reserve_mount(record):
        record.source = await _wait_for_disk(settings)
        if settings.block_dev:
            record.is_link = True
            await trio.to_thread.run_sync(scsi.make_link, record.source, target)
        else:
            await _mount_disk(agent, settings, record)
    _log.info(
        "disk mounted",
        extra=fields(source=record.source, target=target, link=record.is_link),
    )


async def _wait_for_disk(settings: MappedVirtualDisk) -> str:
    """Return the disk's device node, or its partition's. Raises DeadlineError."""
    find = partial(
        scsi.find, settings.controller, settings.lun, settings.pci_address, settings.partition
    )
    what = f"disk {settings.controller}:{settings.lun}"
    if settings.partition:
        what += f", partition {settings.partition}"
    return await devices.wait_for_node(find, what)


async def _mount_disk(agent: Agent, settings: MappedVirtualDisk, record: MountRecord) -> None:
    before = Undo()
    try:
        if settings.encrypted:
            fstype = await _encrypt(agent, settings, record, before)
        else:
            fstype = await _filesystem(agent, record.source, settings)
        await _mount_plain(agent, settings, record, fstype)
    except BaseException as error:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(before.run, error)
        raise


async def _mount_plain(
    agent: Agent, settings: MappedVirtualDisk, record: MountRecord, fstype: str
) -> None:
    def mount(undo: Undo) -> None:
        scsi.mount(
            record.source,
            record.target,
            fstype,
            readonly=settings.read_only,
            words=settings.options,
            outer=undo,
        )

    await mounting.make(agent, record, mount)


async def _encrypt(
    agent: Agent, settings: MappedVirtualDisk, record: MountRecord, undo: Undo
) -> str:
    """Make an encrypted disk of an empty one, and a file system on it; return its type.

    The key does not outlive the mount: nothing that is on a disk could be read, and a disk with
    anything on it is refused.
    """
    source, fstype = record.source, settings.filesystem or _MOUNTABLE[0]
    if settings.read_only:
        raise InvalidArgumentError(f"{source}: Encrypted and ReadOnly: nothing could be on it")
    _check_makeable(source, fstype)
    found = await _read(agent, probe.identify, source)
    if found in _MOUNTABLE:
        is_empty = not await _read(agent, partial(scsi.holds_files, fstype=found), source)
    else:
        is_empty = not found and await _read(agent, probe.is_blank, source)
    if not is_empty:
        what = found or "something unknown"
        raise WrongStateError(f"{source} holds {what} and is not empty: not encrypted")
    record.source, record.mappings = await encryption.encrypt(agent, source, undo)
    await _format(agent, record.source, fstype, _ON_ENCRYPTED[fstype])
    return fstype


async def _filesystem(agent: Agent, source: str, settings: MappedVirtualDisk) -> str:
    """Return the type of the disk's file system, made now if the disk is blank.

    A disk that can't be read, or that holds anything, is never formatted.
    """
    wanted = settings.filesystem
    found = await _read(agent, probe.identify, source)
    if found in _MOUNTABLE:
        if settings.ensure_filesystem and wanted and found != wanted:
            raise WrongStateError(f"{source} holds {found}, not {wanted}: not formatted")
        return found
    if found:
        raise WrongStateError(f"{source} holds {found}, which is not mounted nor formatted")
    if not settings.ensure_filesystem or settings.read_only:
        raise InvalidArgumentError(f"{source} holds no known file system")
    if not await _read(agent, probe.is_blank, source):
        raise WrongStateError(
            f"{source} is not blank and holds no known file system: not formatted"
        )
    await _format(agent, source, wanted or _MOUNTABLE[0])
    return wanted or _MOUNTABLE[0]


async def _read(agent: Agent, look: Callable[[str], T], source: str) -> T:
    """Look at a disk. Raises DeadlineError when it does not answer."""
    return await in_kernel(agent.storage_threads, f"reading {source}", lambda _: look(source))


async def _format(agent: Agent, source: str, fstype: str, words: Sequence[str] = ()) -> None:
    """Make a file system on a blank disk. Raises UnsupportedError if there is no way to."""
    argv = _check_makeable(source, fstype)
    await agent.children.check_output((*argv, *words, source))


def _check_makeable(source: str, fstype: str) -> Sequence[str]:
    """Return the command that makes a file system. Raises UnsupportedError if there is none."""
    argv = _MKFS.get(fstype)
    text = f"{source}: the utility VM can't make a {fstype} file system"
    if argv is None:
        raise UnsupportedError(text)
    if shutil.which(argv[0]) is None:
        raise UnsupportedError(f"{text}: {argv[0]} is not in this image; the full image has it")
    return argv


async def remove_disk(agent: Agent, settings: MappedVirtualDisk) -> None:
    """Unmount a SCSI disk, or unlink it; whether it is still there does not matter."""
    if not settings.mount_path:
        return
    target = absolute(settings.mount_path, "MountPath")
    record = agent.mounts.get(target)
    if record.is_link if record else settings.block_dev:
        with agent.release_mount(target):
            await trio.to_thread.run_sync(scsi.remove_link, target)
    else:
        await mounting.take_off(agent, target)


async def remove_scsi_device(_agent: Agent, settings: ScsiDevice) -> None:
    """Let go of a SCSI disk that is about to be unplugged."""
    await trio.to_thread.run_sync(
        scsi.remove, settings.controller, settings.lun, settings.pci_address
    )
