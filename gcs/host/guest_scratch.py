"""The scratch in its VM: plugged in and mounted, and where on it a container writes.

Source: PROTOCOL.md, "MappedVirtualDisk", "VPMemDevice", "TemporaryFilesystem".
"""

import hashlib
from collections.abc import Iterable
from typing import Final, assert_never

from gcs.errors import CallError, GcsError
from gcs.host.bridge import modify
from gcs.host.client import Client
from gcs.host.vm import Vm
from gcs.wire.container_storage import Scratch, ScratchKind
from gcs.wire.resource import (
    MappedVirtualDisk,
    RequestType,
    ResourceSettings,
    ResourceType,
    ScsiDevice,
    TemporaryFilesystem,
    VPMemDevice,
)

__all__ = ["GuestScratch"]

_DISK: Final = Scratch()
_LUN = 0
#: Where each kind is mounted in the guest.
_PATHS = {
    ScratchKind.SCSI: f"/run/mounts/scsi/0_{_LUN}_0",
    ScratchKind.TMPFS: "/run/mounts/tmpfs",
    ScratchKind.PMEM: "/run/mounts/pmem",
}


class GuestScratch:
    """The scratch of one VM."""

    def __init__(self, vm: Vm, client: Client, scratch: Scratch = _DISK) -> None:
        self._vm = vm
        self._client = client
        self._scratch = scratch

    @property
    def is_kept(self) -> bool:
        """Whether what containers have written stays."""
        return bool(self._scratch.path)

    async def mount(self) -> None:
        """Plug the scratch in, and mount it.

        Raises GcsError, when its file holds anything that is no ext4 as well: then nothing is
        written to it.
        """
        scratch = self._scratch
        match scratch.kind:
            case ScratchKind.SCSI:
                await self._vm.add_disk(_LUN, "/dev/fdset/1", is_kept=self.is_kept)
            case ScratchKind.PMEM:
                await self._vm.add_scratch_memory()
            case ScratchKind.TMPFS:
                pass
            case _:
                assert_never(scratch.kind)
        try:
            await modify(self._client, RequestType.ADD, *self._resource())
        except CallError as error:
            if not self.is_kept:
                raise
            raise GcsError(f"scratch {scratch.path}: {error.message}") from error

    async def unmount(self) -> None:
        """Unmount it, and unplug it if that is possible."""
        await modify(self._client, RequestType.REMOVE, *self._resource())
        if self._scratch.kind is ScratchKind.SCSI:
            disk = ScsiDevice(lun=_LUN)
            await modify(self._client, RequestType.REMOVE, ResourceType.SCSI_DEVICE, disk)
            await self._vm.remove_disk(_LUN)

    def folder(self, cid: str, digests: Iterable[str] = ()) -> str:
        """Return where a container writes.

        On a scratch that is kept it is the same for all that have the same layers, so that what
        one has written is there for the next. Over other layers it would make no sense.

        Args:
            cid: Of the container.
            digests: Of its layers, bottom first.
        """
        name = cid
        if self.is_kept:
            name = f"kept-{hashlib.sha256(' '.join(digests).encode()).hexdigest()[:32]}"
        return f"{_PATHS[self._scratch.kind]}/scratch/{name}"

    def _resource(self) -> tuple[ResourceType, ResourceSettings]:
        kind = self._scratch.kind
        path = _PATHS[kind]
        match kind:
            case ScratchKind.SCSI:
                disk = MappedVirtualDisk(
                    mount_path=path, lun=_LUN, ensure_filesystem=True, filesystem="ext4"
                )
                return ResourceType.MAPPED_VIRTUAL_DISK, disk
            case ScratchKind.PMEM:
                number = self._vm.config.pmem_ports
                memory = VPMemDevice(device_number=number, mount_path=path, writable=True)
                return ResourceType.VPMEM_DEVICE, memory
            case ScratchKind.TMPFS:
                size = self._scratch.size_mib * 1024**2
                files = TemporaryFilesystem(mount_path=path, size_in_bytes=size)
                return ResourceType.TEMPORARY_FILESYSTEM, files
            case _:
                assert_never(kind)
