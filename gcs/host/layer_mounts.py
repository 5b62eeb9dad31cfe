"""The layers of one VM: each file plugged in once, each layer mounted while somebody has it.

A virtio-pmem can't be unplugged, so a device stays when the last container of its layers has
gone, and the next one of the same layer gets it again. Several containers share a mount.

Layer n, in the order in which the VM first gets them, is at /run/layers/p<n> in the guest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from gcs.errors import GcsError
from gcs.host.background import all_of
from gcs.host.bridge import modify
from gcs.host.client import Client
from gcs.host.place import Place
from gcs.host.qemu import DEVICE_MEMORY_GIB
from gcs.host.vm import Vm
from gcs.wire.resource import MappingInfo, RequestType, ResourceType, VPMemDevice

__all__ = ["LayerMounts"]

_GIB = 1 << 30


@dataclass(slots=True)
class _Device:
    """A file, and the number of the device that it is or will be."""

    number: int
    size: int
    is_plugged: bool = False
    lock: trio.Lock = field(default_factory=trio.Lock)


@dataclass(slots=True)
class _Mount:
    """A layer, and how many use it."""

    settings: VPMemDevice
    users: int = 0
    lock: trio.Lock = field(default_factory=trio.Lock)


class LayerMounts:
    """What is plugged into a VM, and what of it is mounted for whom."""

    def __init__(self, vm: Vm, client: Client) -> None:
        self.vm = vm
        self.client = client
        self._devices: dict[Path, _Device] = {}
        self._mounts: dict[Place, _Mount] = {}

    def users(self, place: Place) -> int:
        """Return how many have a layer."""
        known = self._mounts.get(place)
        return known.users if known else 0

    async def mount(self, places: Sequence[Place]) -> tuple[str, ...]:
        """Mount layers, bottom first, for one more user; return where they are, in that order.

        A layer that is there several times is mounted, and counted, once.

        Raises GcsError when the VM has too few ports or too little room, before anything is
        done, or when a layer can't be plugged in or mounted. Leaves nothing mounted then that
        was not before.
        """
        self._check_room(places)
        wanted = [self._known(place) for place in dict.fromkeys(places)]
        done: list[_Mount] = []

        async def take(device: _Device, mount: _Mount, file: Path) -> None:
            await self._take(device, mount, file)
            done.append(mount)

        try:
            await all_of(*(partial(take, *each) for each in wanted))
        except GcsError as error:
            await self._undo(done, error)
            raise
        return tuple(self._mounts[place].settings.mount_path for place in places)

    def _check_room(self, places: Sequence[Place]) -> None:
        """Raise GcsError when there is no port, or no room, for a file to be plugged in."""
        wanted = {place.file for place in places} - self._devices.keys()
        if not wanted:
            return
        ports = self.vm.config.pmem_ports
        left = ports - len(self._devices)
        if len(wanted) > left:
            raise GcsError(
                f"{len(wanted)} layers that the VM does not have yet need a port each, and of "
                f"its {ports} {left or 'none'} {'is' if left == 1 else 'are'} left"
            )
        sizes = self.vm.mapped_files | {file: own.size for file, own in self._devices.items()}
        size = sum((sizes | {file: file.stat().st_size for file in wanted}).values())
        if size > DEVICE_MEMORY_GIB * _GIB:
            raise GcsError(
                f"with {len(wanted)} more layers the VM would have {size / _GIB:.1f} GiB of "
                f"mapped files, and it has room for {DEVICE_MEMORY_GIB}"
            )

    def _known(self, place: Place) -> tuple[_Device, _Mount, Path]:
        """Return what is known of a layer; gives numbers out to a new one."""
        device = self._devices.get(place.file)
        if device is None:
            device = self._devices[place.file] = _Device(
                len(self._devices), place.file.stat().st_size
            )
        if place not in self._mounts:
            path = f"/run/layers/p{len(self._mounts)}"
            self._mounts[place] = _Mount(_settings(device.number, place, path))
        return device, self._mounts[place], place.file

    async def _take(self, device: _Device, mount: _Mount, file: Path) -> None:
        async with device.lock:
            if not device.is_plugged:
                await self.vm.add_layer(device.number, file)
                device.is_plugged = True
        async with mount.lock:
            if not mount.users:
                await self._modify(RequestType.ADD, mount)
            mount.users += 1

    async def unmount(self, places: Sequence[Place]) -> None:
        """Take one user off layers, and unmount those that nobody has any more.

        Raises GcsError when the guest can't; the layer stays as it was then.
        """
        await all_of(
            *(partial(self._release, self._mounts[place]) for place in dict.fromkeys(places))
        )

    async def _release(self, mount: _Mount) -> None:
        async with mount.lock:
            if mount.users == 1:
                await self._modify(RequestType.REMOVE, mount)
            mount.users -= 1

    async def _undo(self, done: Sequence[_Mount], error: GcsError) -> None:
        for mount in done:
            try:
                await self._release(mount)
            except GcsError as second:
                error.add_note(f"{mount.settings.mount_path} stays: {second}")

    async def _modify(self, request: RequestType, mount: _Mount) -> None:
        await modify(self.client, request, ResourceType.VPMEM_DEVICE, mount.settings)


def _settings(number: int, place: Place, path: str) -> VPMemDevice:
    part = None
    if place.size:
        part = MappingInfo(device_offset_in_bytes=place.offset, device_size_in_bytes=place.size)
    return VPMemDevice(device_number=number, mount_path=path, mapping_info=part)
