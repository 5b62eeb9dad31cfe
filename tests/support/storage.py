"""Storage of an agent without a VM: loop devices for layers and disks, and its mount table."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gcs.errors import CallError
from gcs.host.bridge import modify
from gcs.host.client import Client
from gcs.linux import mounts
from gcs.wire.resource import (
    CombinedLayers,
    Layer,
    MappedVirtualDisk,
    RequestType,
    ResourceSettings,
    ResourceType,
    TemporaryFilesystem,
    VPMemDevice,
)
from tests.support.agent import AgentHost, agent_pid

__all__ = ["Storage", "devices", "disk", "layer", "root"]

_KINDS: Mapping[type[ResourceSettings], ResourceType] = {
    CombinedLayers: ResourceType.COMBINED_LAYERS,
    MappedVirtualDisk: ResourceType.MAPPED_VIRTUAL_DISK,
    TemporaryFilesystem: ResourceType.TEMPORARY_FILESYSTEM,
    VPMemDevice: ResourceType.VPMEM_DEVICE,
}


def devices(layers: Mapping[int, str], disks: Mapping[int, str]) -> str:
    """Return Python that has an agent find these, by device number and by LUN."""
    return (
        "from gcs.guest import devices; devices._TIMEOUT_S = 0.5\n"
        "from gcs.linux import pmem, scsi\n"
        f"pmem.find_in_slot = lambda slot: {dict(layers)!r}.get(slot - 1)\n"
        f"scsi.find = lambda controller, lun, *_: {dict(disks)!r}.get(lun)\n"
    )


def layer(number: int) -> VPMemDevice:
    """Return the settings of a layer at /run/layers."""
    return VPMemDevice(device_number=number, mount_path=f"/run/layers/{number}")


def disk(lun: int, *options: str, fs: str = "", make: bool = False) -> MappedVirtualDisk:
    """Return the settings of a disk at /run/disks."""
    return MappedVirtualDisk(
        lun=lun,
        mount_path=f"/run/disks/{lun}",
        options=options,
        filesystem=fs,
        ensure_filesystem=make,
    )


def root(
    *layers: str, scratch: str = "", target: str = "/run/gcs/c/c/rootfs"
) -> CombinedLayers:
    """Return the settings of a container's root."""
    return CombinedLayers(
        container_root_path=target,
        layers=tuple(Layer(path=path) for path in layers),
        scratch_path=scratch,
    )


@dataclass(frozen=True)
class Storage:
    """What a host changes, and what an agent's namespace has to show for it."""

    host: AgentHost
    client: Client

    async def add(self, settings: ResourceSettings) -> None:
        """Mount something. Raises CallError."""
        await modify(self.client, RequestType.ADD, _KINDS[type(settings)], settings)

    async def remove(self, settings: ResourceSettings) -> None:
        """Unmount it. Raises CallError."""
        await modify(self.client, RequestType.REMOVE, _KINDS[type(settings)], settings)

    async def add_refused(self, settings: ResourceSettings) -> CallError:
        """Fail to mount something; return the error."""
        error = await self.tried(RequestType.ADD, settings)
        assert error, f"{settings} was not refused"
        return error

    async def remove_refused(self, settings: ResourceSettings) -> CallError:
        """Fail to unmount something; return the error."""
        error = await self.tried(RequestType.REMOVE, settings)
        assert error, f"removing {settings} was not refused"
        return error

    async def tried(self, action: RequestType, settings: ResourceSettings) -> CallError | None:
        """Mount or unmount something; return the error if there is one."""
        try:
            await modify(self.client, action, _KINDS[type(settings)], settings)
        except CallError as error:
            return error
        return None

    def path(self, path: str) -> Path:
        """Return where a path of the agent is seen from here."""
        return Path(f"/proc/{agent_pid(self.host)}/root{path}")

    def table(self) -> tuple[mounts.Mount, ...]:
        """Return the agent's mount table, oldest first."""
        return mounts.parse(self.mountinfo())

    def mountinfo(self) -> str:
        """Return the text of the agent's mount table."""
        return Path(f"/proc/{agent_pid(self.host)}/mountinfo").read_text()

    def at(self, target: str) -> tuple[mounts.Mount, ...]:
        """Return what is mounted at a path of the agent."""
        return tuple(mount for mount in self.table() if mount.target == target)

    def state(self) -> list[str]:
        """Return all that can be seen of storage: mounts, files below /run, descriptors."""
        table = [f"{m.target} {m.fstype} {m.source}" for m in self.table()]
        top = self.path("/run")
        files = [str(path.relative_to(top)) for path in top.rglob("*")]
        fds = Path(f"/proc/{agent_pid(self.host)}/fd")
        return [*sorted(table), *sorted(files), str(len(list(fds.iterdir())))]
