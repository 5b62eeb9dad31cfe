"""An image's layers and the scratch disk of a VM in one go, as its first container has them."""

from collections.abc import Sequence

from gcs.host.background import together
from gcs.host.guest_scratch import GuestScratch
from gcs.host.layer_mounts import LayerMounts
from gcs.host.place import Place

__all__ = ["mount_layers", "unmount_layers"]


async def mount_layers(mounts: LayerMounts, places: Sequence[Place]) -> tuple[str, ...]:
    """Mount all at once; return where the layers are in the guest, bottom first."""
    paths: list[str] = []

    async def mount() -> None:
        paths.extend(await mounts.mount(places))

    await together(GuestScratch(mounts.vm, mounts.client).mount, mount)
    return tuple(paths)


async def unmount_layers(mounts: LayerMounts, places: Sequence[Place]) -> None:
    """Unmount what `mount_layers` mounted, and unplug the disk."""
    await GuestScratch(mounts.vm, mounts.client).unmount()
    await mounts.unmount(places)
