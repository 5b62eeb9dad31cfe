"""What hosts ask for so that a container has its files, in both of their layouts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.reference_host.guest import Guest

__all__ = [
    "Layout",
    "add_disk",
    "change_pmem",
    "pmem_path",
    "remove_disk",
    "v1_layout",
    "v2_layout",
]


@dataclass(frozen=True)
class Layout:
    """Where a container's files are in the guest."""

    container_id: str
    bundle: str
    #: The mount point of the disk that it writes to.
    disk: str
    scratch: str

    @property
    def rootfs(self) -> str:
        """The overlay of its layers."""
        return f"{self.bundle}/rootfs"

    async def combine(self, guest: "Guest", layers: Sequence[str]) -> None:
        """Mount its root file system; the topmost layer comes first."""
        settings = {
            "ContainerID": self.container_id,
            "ContainerRootPath": self.rootfs,
            "Layers": [
                {"Id": f"{index:08d}-0000-0000-0000-000000000000", "Path": path}
                for index, path in enumerate(layers)
            ],
            "ScratchPath": self.scratch,
        }
        await guest.modify("Add", "CombinedLayers", settings)

    async def separate(self, guest: "Guest") -> None:
        """Unmount its root file system; hosts name nothing but the path."""
        await guest.modify("Remove", "CombinedLayers", {"ContainerRootPath": self.rootfs})


def v1_layout(container_id: str) -> Layout:
    """Return the layout of the first shim: the disk is mounted on the bundle itself."""
    bundle = f"/run/gcs/c/{container_id}"
    return Layout(container_id, bundle, bundle, f"{bundle}/scratch/{container_id}")


def v2_layout(pod: str, container_id: str, disk: str) -> Layout:
    """Return the layout of the second shim: a disk has a place of its own, pods share it."""
    scratch = f"{disk}/scratch/{pod}/{container_id}"
    return Layout(container_id, f"/run/gcs/pods/{pod}/{container_id}", disk, scratch)


def _without_zeros(**settings: object) -> dict[str, object]:
    """Leave out what Go leaves out."""
    return {name: value for name, value in settings.items() if value not in (0, "", False)}


def pmem_path(number: int) -> str:
    """Return where a layer is mounted."""
    return f"/run/layers/p{number}"


async def change_pmem(guest: "Guest", verb: str, number: int) -> None:
    """Mount or unmount a layer in persistent memory."""
    settings = _without_zeros(DeviceNumber=number, MountPath=pmem_path(number))
    await guest.modify(verb, "VPMemDevice", settings)


async def add_disk(guest: "Guest", lun: int, path: str) -> None:
    """Mount a disk that containers write to, and make its file system if it has none."""
    settings = _without_zeros(MountPath=path, Lun=lun, EnsureFilesystem=True, Filesystem="ext4")
    await guest.modify("Add", "MappedVirtualDisk", settings)


async def remove_disk(guest: "Guest", lun: int, path: str) -> None:
    """Unmount a disk, and have the guest let go of it; the file system isn't named again."""
    await guest.modify("Remove", "MappedVirtualDisk", _without_zeros(MountPath=path, Lun=lun))
    await guest.modify("Remove", "SCSIDevice", _without_zeros(Lun=lun))
