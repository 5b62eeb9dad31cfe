"""What a host asks of one VM, scene by scene: layers, disks, folders. See `scenes`."""

from msgspec.structs import replace as with_members

from gcs.errors import Hresult
from gcs.host.guest_scratch import GuestScratch
from gcs.host.layer_mounts import LayerMounts
from gcs.host.place import whole
from gcs.wire.resource import (
    MappedDirectory,
    MappedVirtualDisk,
    MappingInfo,
    RequestType,
    ScsiDevice,
    TemporaryFilesystem,
    VPMemDevice,
)
from tests.vm.play import MIB, SCRATCH, Play
from tests.vm.test_disks import _mbr
from tests.vm.test_storage import _mkfs, _verity, served

_PORT = 571
#: The root port that no layer of the image has; what its device holds is a multiple of 2 MiB.
_SPARE, _PMEM_ALIGN = 7, 2 * MIB

# -- storage -----------------------------------------------------------------------------------


async def layers(play: Play) -> None:
    """Layers with devices of their own, in parts of one, verified; a scratch beside them."""
    await LayerMounts(play.vm, play.client).mount(whole(play.layers))
    await GuestScratch(play.vm, play.client, SCRATCH).mount()
    plain = _mkfs(play.folder, "plain", "-b", "4096").read_bytes()
    proved, digest = _verity(plain, bytes(32))
    data, device = plain + proved, play.folder / "device"
    device.write_bytes(data.ljust(-(-len(data) // _PMEM_ALIGN) * _PMEM_ALIGN, b"\0"))
    before = set((await play.shell("ls /sys/block")).split())
    await play.vm.add_layer(_SPARE, device)
    part = MappingInfo(device_size_in_bytes=len(plain))
    first = VPMemDevice(device_number=_SPARE, mount_path="/run/layers/a", mapping_info=part)
    await play.change(RequestType.ADD, first)
    (name,) = (
        each
        for each in set((await play.shell("ls /sys/block")).split()) - before
        if each.startswith("pmem")
    )
    part = MappingInfo(device_offset_in_bytes=len(plain), device_size_in_bytes=len(proved))
    second = VPMemDevice(
        pci_address=await play.pci_address(f"/sys/block/{name}"),
        mount_path="/run/layers/b",
        mapping_info=part,
        root_digest=digest,
    )
    await play.change(RequestType.ADD, second)
    assert await play.shell("cat /run/layers/a/plain /run/layers/b/plain") == "plainplain"
    for settings in (first, second):
        await play.change(RequestType.REMOVE, settings)


async def disks(play: Play) -> None:
    """Waited for, made, mounted, linked to, in parts; what the base image lacks is named."""
    for lun, data in ((3, bytes(64 * MIB)), (4, _mbr(20))):
        file = play.folder / f"disk{lun}"
        file.write_bytes(data)
        await play.vm.add_disk(lun, str(file))
    disk = MappedVirtualDisk(lun=3, mount_path="/run/disks/3", ensure_filesystem=True)
    for lacking, program in (
        (with_members(disk, encrypted=True), "cryptsetup"),
        (with_members(disk, filesystem="xfs"), "mkfs.xfs"),
    ):
        error = await play.refused(RequestType.ADD, lacking)
        assert error.result == Hresult.NOT_IMPL
        assert f"{program} is not in this image" in error.message
    controller = await play.pci_address("/sys/block/sda")
    for settings in (
        MappedVirtualDisk(lun=3),
        with_members(disk, filesystem="ext4", options=("noatime",)),
        MappedVirtualDisk(lun=3, mount_path="/run/disks/3", read_only=True),
        MappedVirtualDisk(lun=3, mount_path="/run/disks/3", pci_address=controller),
        MappedVirtualDisk(lun=4, mount_path="/run/disks/4", partition=2, block_dev=True),
    ):
        await play.change(RequestType.ADD, settings)
        await play.change(RequestType.REMOVE, settings)
    for gone in (ScsiDevice(lun=3), ScsiDevice(lun=4, pci_address=controller)):
        await play.change(RequestType.REMOVE, gone)
        await play.vm.remove_disk(gone.lun)


async def shares(play: Play) -> None:
    """A folder of the host and a file of one; and a file system of no host at all."""
    folder = play.folder / "shared"
    folder.mkdir()
    (folder / "file").write_text("theirs")
    with served(play, folder, _PORT):
        share = MappedDirectory(
            mount_path="/run/shares/f",
            port=_PORT,
            share_name=str(folder),
            cache="loose",
            read_only=True,
        )
        await play.change(RequestType.ADD, share)
        assert await play.shell("cat /run/shares/f/file") == "theirs"
        await play.change(RequestType.REMOVE, share)
    with served(play, folder / "file", _PORT):
        share = MappedDirectory(
            mount_path="/run/shares/one",
            port=_PORT,
            share_name=str(folder / "file"),
            single_file=True,
        )
        await play.change(RequestType.ADD, share)
        assert await play.shell("cat /run/shares/one") == "theirs"
        await play.change(RequestType.REMOVE, share)
    files = TemporaryFilesystem(mount_path="/run/memory", size_in_bytes=MIB)
    await play.change(RequestType.ADD, files)
    await play.change(RequestType.REMOVE, files)
