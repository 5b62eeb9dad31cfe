"""Disks and layers that are whole, in parts, encrypted, full, broken or suddenly gone."""

import shutil
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace as with_changes
from pathlib import Path

import pytest
from msgspec.structs import replace

from gcs.errors import CallError, Hresult
from gcs.host.artifacts import BootForm, find_boot_image
from gcs.host.container import Container
from gcs.wire.control import StreamName
from gcs.wire.resource import MappedVirtualDisk, MappingInfo, RequestType, VPMemDevice
from tests.support.contained import Wish, create
from tests.support.patience import is_soon
from tests.support.shared_vm import SharedVm
from tests.support.stage import ROOT
from tests.vm.test_container import OUTPUTS, PORTS, run
from tests.vm.test_storage import _mkfs, change, refused, shell, steps_that_failed

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

_MIB = 1024 * 1024
#: The root port that no other suite uses; what its device holds is a multiple of 2 MiB.
_PORT, _PMEM_ALIGN = 10, 2 * _MIB
_LAYERS = tuple(f"/run/layers/p{number}" for number in reversed(range(7)))
#: An error that is to be had at once comes within so many seconds.
_SOON_S = 5.0


@pytest.fixture(scope="module")
def full_vm(vm: SharedVm) -> Iterator[SharedVm]:
    """A VM of the full image, which a test may kill."""
    image = find_boot_image(BootForm.PMEM, root_image=str(ROOT / "build/root-image-full"))
    config = with_changes(vm.config, initrd=None, root_image=image.root_image)
    folder = Path(tempfile.mkdtemp(prefix="gcs-vm-", dir="/tmp"))
    machine = SharedVm(config, folder, vm.vsock_program, vm.image_path)
    machine.boot()
    machine.connect()
    yield machine
    machine.stop()
    shutil.rmtree(folder)


@contextmanager
def plugged(vm: SharedVm, lun: int, image: Path, mib: int = 64) -> Iterator[MappedVirtualDisk]:
    """Plug a disk in for the block, a new one if it is not there; give its settings."""
    with image.open("ab") as file:
        file.truncate(mib * _MIB)
    vm.call(vm.vm.add_disk, lun, str(image))
    try:
        yield MappedVirtualDisk(lun=lun, mount_path=f"/run/disks/{lun}", ensure_filesystem=True)
    finally:
        vm.call(vm.vm.remove_disk, lun)


def refused_soon(vm: SharedVm, settings: MappedVirtualDisk | VPMemDevice) -> CallError:
    """Make an Add that must be refused at once, after which all else works."""
    errors: list[CallError] = []

    def measure() -> float:
        began = time.monotonic()
        errors.append(refused(vm, RequestType.ADD, settings))
        return time.monotonic() - began

    assert is_soon(measure, _SOON_S)
    assert shell(vm, "echo served") == "served\n"
    return errors[-1]


# -- encrypted ---------------------------------------------------------------------------


@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
def test_what_is_on_an_encrypted_disk_is_nowhere_else(
    full_vm: SharedVm, tmp_path: Path, filesystem: str
) -> None:
    """Not on the host, not in the VM once it is unmounted; and it can't be had again."""
    vm, image = full_vm, tmp_path / "disk"
    with plugged(vm, 3, image, mib=400) as disk:
        wanted = replace(disk, encrypted=True, filesystem=filesystem)
        change(vm, RequestType.ADD, wanted)
        assert f" {filesystem} rw" in shell(vm, "grep /run/disks/3 /proc/mounts")
        shell(
            vm,
            "cd /run/disks/3; for i in $(seq 998); do echo a-secret-$i; done >f",
        )
        shell(vm, "cp -r /run/disks/3/f /run/disks/3/g; sync")
        assert "a-secret-998" in shell(vm, "cat /run/disks/3/g")
        assert b"a-secret-" not in image.read_bytes()
        change(vm, RequestType.REMOVE, wanted)
        assert shell(vm, "ls /sys/block | grep -c dm-; ls /dev/mapper") == "0\ncontrol\n"
        assert "holds LUKS and is not empty" in refused_soon(vm, wanted).message
        assert "holds LUKS" in refused_soon(vm, disk).message
    assert image.read_bytes()[:6] == b"LUKS\xba\xbe"


def test_what_the_host_changes_on_an_encrypted_disk_is_an_error(
    full_vm: SharedVm, tmp_path: Path
) -> None:
    """And never other data."""
    vm, image = full_vm, tmp_path / "disk"
    with plugged(vm, 3, image) as disk:
        wanted = replace(disk, encrypted=True)
        change(vm, RequestType.ADD, wanted)
        before = image.read_bytes()
        shell(vm, "dd if=/dev/zero of=/run/disks/3/f bs=1M count=4; sync")
        after = bytearray(image.read_bytes())
        changed = [at for at in range(0, len(after), 4096) if after[at] != before[at]]
        assert len(changed) > 900
        with image.open("r+b") as file:
            for at in changed[200:-100]:
                file.seek(at)
                file.write(bytes([after[at] ^ 1]))
        said = shell(vm, "echo 3 >/proc/sys/vm/drop_caches; cat /run/disks/3/f | wc -c")
        assert "Input/output error" in said or "Invalid or incomplete" in said, said
        assert "4194304" not in said
        change(vm, RequestType.REMOVE, wanted)


def test_a_step_of_encrypting_that_fails_leaves_everything_as_it_was(
    full_vm: SharedVm, tmp_path: Path
) -> None:
    """Each step in turn: no device, mount or folder stays, and the disk counts as blank."""
    vm = full_vm
    with plugged(vm, 3, tmp_path / "disk"):
        node = f"/dev/{shell(vm, 'ls /sys/bus/scsi/devices/*:0:3/block').strip()}"
        (count,) = steps_that_failed(vm, [("encrypted", {"lun": 3, "node": node})])
    # Three programs, what is read and made before, and the mount: fewer are not seen.
    assert count >= 10


def test_an_encrypted_disk_that_held_an_empty_file_system_will_do(
    full_vm: SharedVm, tmp_path: Path
) -> None:
    """Hosts in use hand over scratches that are formatted; a file on one is kept."""
    vm = full_vm
    with plugged(vm, 3, tmp_path / "disk") as disk:
        change(vm, RequestType.ADD, disk)
        shell(vm, "touch /run/disks/3/file")
        change(vm, RequestType.REMOVE, disk)
        encrypted = replace(disk, encrypted=True)
        assert "holds ext4 and is not empty" in refused_soon(vm, encrypted).message
        change(vm, RequestType.ADD, disk)
        shell(vm, "rm /run/disks/3/file")
        change(vm, RequestType.REMOVE, disk)
        change(vm, RequestType.ADD, encrypted)
        change(vm, RequestType.REMOVE, encrypted)


def test_the_full_image_makes_xfs_and_has_a_clock_daemon(
    full_vm: SharedVm, tmp_path: Path
) -> None:
    """Its programs find their libraries."""
    vm = full_vm
    with plugged(vm, 3, tmp_path / "disk", mib=400) as disk:
        wanted = replace(disk, filesystem="xfs")
        change(vm, RequestType.ADD, wanted)
        assert " xfs rw" in shell(vm, "grep /run/disks/3 /proc/mounts")
        change(vm, RequestType.REMOVE, wanted)
    assert "chronyd (chrony) version" in shell(vm, "chronyd -v")


def test_the_base_image_names_what_it_lacks(vm_connected: SharedVm, tmp_path: Path) -> None:
    """The program, and where it is."""
    with plugged(vm_connected, 3, tmp_path / "disk") as disk:
        for wanted, program in (
            (replace(disk, encrypted=True), "cryptsetup"),
            (replace(disk, filesystem="xfs"), "mkfs.xfs"),
        ):
            error = refused_soon(vm_connected, wanted)
            assert error.result == Hresult.NOT_IMPL
            assert f"{program} is not in this image" in error.message
        change(vm_connected, RequestType.ADD, disk)
        change(vm_connected, RequestType.REMOVE, disk)


# -- a power cut -------------------------------------------------------------------------


async def _start(container: Container) -> bytes:
    """Start it and return the first line that it says."""
    streams = await container.start(PORTS, OUTPUTS, terminal=False)
    said = bytes(await streams[StreamName.STDOUT].receive_some())
    for stream in streams.values():
        await stream.aclose()
    return said


def test_a_scratch_outlives_a_power_cut(
    full_vm: SharedVm, vm_connected: SharedVm, tmp_path: Path
) -> None:
    """What was synced is there in the next VM, which replays the journal."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 * _MIB)
    disk = MappedVirtualDisk(lun=7, mount_path="/run/disks/7", ensure_filesystem=True)
    full_vm.call(full_vm.vm.add_disk, 7, str(image))
    change(full_vm, RequestType.ADD, disk)
    script = (
        "mkdir /kept; head -c 300000 /dev/urandom >/kept/a; md5sum /kept/a >/kept/sum; sync;"
        "echo synced; while :; do mkdir /x /y; echo x >/x/f; mv /x/f /y; sync; rm -r /x /y;"
        "done"
    )
    wish = Wish(
        ("sh", "-c", script), full_vm.image.config, _LAYERS, scratch="/run/disks/7/scratch"
    )
    assert full_vm.call(_start, full_vm.call(create, full_vm, wish)) == b"synced\n"
    full_vm.cut_power()
    uuid = image.read_bytes()[1024 + 0x68 : 1024 + 0x78]
    with plugged(vm_connected, 7, image):
        change(vm_connected, RequestType.ADD, disk)
        said = shell(
            vm_connected,
            "cd /run/disks/7/scratch/*/upper/kept; md5sum a | cut -c1-32; cut -c1-32 sum",
        )
        assert len(set(said.split())) == 1, said
        assert "recovery complete" in shell(vm_connected, "dmesg | tail -20")
        change(vm_connected, RequestType.REMOVE, disk)
    assert image.read_bytes()[1024 + 0x68 : 1024 + 0x78] == uuid
    with image.open("r+b") as file:  # and had the cut torn its superblock as well
        file.seek(1024)
        file.write(bytes(1024))
    torn = image.read_bytes()
    with plugged(vm_connected, 7, image):
        error = refused_soon(vm_connected, disk)
        assert "is not blank and holds no known file system: not formatted" in error.message
    assert image.read_bytes() == torn


# -- broken ------------------------------------------------------------------------------


def _broken(folder: Path) -> dict[str, bytes]:
    good = _mkfs(folder, "good", "-b", "4096").read_bytes()
    magic = bytearray(good)
    magic[1024 + 0x38] ^= 1
    checksum = bytearray(good)
    checksum[1024 + 0x78] ^= 1  # the name of the volume
    groups = good[:4096] + bytes(4096) + good[8192:]
    return {
        "it has no superblock of ext4": bytes(magic),
        "EBADMSG": bytes(checksum),
        "its file system has 524288 bytes, and the device only 262144": good[: len(good) // 2],
        "mount ext4 /dev/dm-": groups,
    }


def test_a_broken_layer_is_refused_in_words(vm_connected: SharedVm, tmp_path: Path) -> None:
    """What is wrong with it, and the VM goes on."""
    vm, broken = vm_connected, _broken(tmp_path)
    parts: dict[str, MappingInfo] = {}
    content = b""
    for said, part in broken.items():
        parts[said] = MappingInfo(
            device_offset_in_bytes=len(content), device_size_in_bytes=len(part)
        )
        content += part
    device = tmp_path / "device"
    device.write_bytes(content.ljust(-(-len(content) // _PMEM_ALIGN) * _PMEM_ALIGN, b"\0"))
    vm.call(vm.vm.add_layer, _PORT, device)
    for said, mapping in parts.items():
        layer = VPMemDevice(
            device_number=_PORT, mount_path="/run/layers/broken", mapping_info=mapping
        )
        error = refused_soon(vm, layer)
        assert said in error.message, error.message
        assert "/run/layers/broken" in error.message
    assert shell(vm, "ls /sys/block | grep -c dm-; ls -d /run/layers/b*").startswith("0\nls: ")


def test_a_truncated_disk_is_refused_in_words(vm_connected: SharedVm, tmp_path: Path) -> None:
    """And not formatted."""
    image = tmp_path / "disk"
    with plugged(vm_connected, 3, image) as disk:
        change(vm_connected, RequestType.ADD, disk)
        change(vm_connected, RequestType.REMOVE, disk)
    with image.open("r+b") as file:
        file.truncate(32 * _MIB)
    with plugged(vm_connected, 3, image, mib=32) as disk:
        error = refused_soon(vm_connected, disk)
        assert (
            "its file system has 67108864 bytes, and the device only 33554432" in error.message
        )


def test_a_full_scratch_is_an_error_of_its_container(
    vm_connected: SharedVm, tmp_path: Path
) -> None:
    """ENOSPC there, and for who wants to be created on it; all else goes on."""
    vm = vm_connected
    with plugged(vm, 3, tmp_path / "disk", mib=16) as disk:
        change(vm, RequestType.ADD, disk)
        command = ("sh", "-c", "cat /dev/zero >/full; echo $?")
        wish = Wish(command, vm.image.config, _LAYERS, scratch="/run/disks/3/scratch")
        container = vm.call(create, vm, wish)
        status, said = vm.call(run, container)
        assert (status, said["stdout"]) == (0, b"1\n")
        assert b"No space left on device" in said["stderr"]
        began = time.monotonic()
        shell(vm, "i=0; while mkdir /run/disks/3/$i 2>&-; do i=$((i+1)); done")
        filled = time.monotonic() - began

        def measure() -> float:
            began = time.monotonic()
            with pytest.raises(CallError) as caught:
                vm.call(create, vm, wish)
            assert "ENOSPC" in caught.value.message
            return time.monotonic() - began

        assert is_soon(measure, _SOON_S + filled)
        vm.call(container.remove)
        assert shell(vm, "echo served") == "served\n"
        change(vm, RequestType.REMOVE, disk)


def test_a_disk_that_is_unplugged_while_it_is_used_is_an_error(
    vm_connected: SharedVm, tmp_path: Path
) -> None:
    """Nobody was told: what reads it gets one, and it is removed as ever."""
    vm, image = vm_connected, tmp_path / "disk"

    def measure() -> float:
        image.unlink(missing_ok=True)
        with plugged(vm, 3, image) as disk:
            change(vm, RequestType.ADD, disk)
            shell(vm, "echo x >/run/disks/3/file; sync; echo 3 >/proc/sys/vm/drop_caches")
        began = time.monotonic()
        said = shell(
            vm, "cat /run/disks/3/file; echo y >/run/disks/3/new; sync -f /run/disks/3"
        )
        assert "I/O error" in said or "Input/output error" in said, said
        assert shell(vm, "echo served") == "served\n"
        change(vm, RequestType.REMOVE, disk)
        took = time.monotonic() - began
        assert "No such file" in shell(vm, "ls /run/disks/3")
        return took

    assert is_soon(measure, _SOON_S)


# -- in parts ----------------------------------------------------------------------------


def _mbr(mib: int) -> bytes:
    """Return a disk with two partitions, 8 MiB each, by a table in its first sector."""
    entries = [struct.pack("<B3xB3xII", 0, 0x83, first * 2048, 8 * 2048) for first in (1, 9)]
    table = bytes(446) + b"".join(entries) + bytes(32) + b"\x55\xaa"
    return table.ljust(mib * _MIB, b"\0")


def _gpt(mib: int) -> bytes:
    """Return the same with GUIDs, and a second copy of the table at the end."""
    sectors = mib * 2048
    kind = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
    entries = b"".join(
        struct.pack("<16s16sQQQ72s", kind, bytes([n] * 16), first, first + 8 * 2048 - 1, 0, b"")
        for n, first in ((1, 2048), (2, 9 * 2048))
    ).ljust(128 * 128, b"\0")

    def header(here: int, other: int, table: int) -> bytes:
        fields = (here, other, 34, sectors - 34, bytes([7] * 16), table, 128, 128)
        plain = struct.pack(
            "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, *fields, zlib.crc32(entries)
        )
        return plain[:16] + struct.pack("<I", zlib.crc32(plain)) + plain[20:]

    protective = struct.pack("<B3xB3xII", 0, 0xEE, 1, sectors - 1)
    disk = bytearray(mib * _MIB)
    disk[446 : 446 + 16], disk[510:512] = protective, b"\x55\xaa"
    disk[512 : 512 + 92] = header(1, sectors - 1, 2)
    disk[1024 : 1024 + len(entries)] = entries
    disk[-33 * 512 : -512] = entries
    disk[-512 : -512 + 92] = header(sectors - 1, 1, sectors - 33)
    return bytes(disk)


@pytest.mark.parametrize("table", [_mbr, _gpt])
def test_partitions_are_disks_of_their_own(
    vm_connected: SharedVm, tmp_path: Path, table: Callable[[int], bytes]
) -> None:
    """One is mounted, one linked to, both at once; the table and the other stay as they are."""
    vm, image = vm_connected, tmp_path / "disk"
    image.write_bytes(table(20))
    with plugged(vm, 3, image, mib=20) as disk:
        error = refused_soon(vm, disk)
        assert "partition table, which is not mounted nor formatted" in error.message
        first = replace(disk, partition=1, mount_path="/run/disks/first")
        again = replace(first, mount_path="/run/disks/again", options=("ro", "noatime"))
        second = replace(disk, partition=2, mount_path="/run/disks/second", block_dev=True)
        for settings in (first, second):
            change(vm, RequestType.ADD, settings)
        shell(vm, "echo x >/run/disks/first/file")
        assert shell(vm, "readlink /run/disks/second").rstrip()[-1] == "2"
        size = shell(
            vm, "blockdev --getsize64 /run/disks/second; dd if=/run/disks/second bs=1M | md5sum"
        )
        assert size.startswith(f"{8 * _MIB}\n")
        assert shell(vm, "cat /run/disks/first/file") == "x\n"
        change(vm, RequestType.REMOVE, first)
        change(vm, RequestType.ADD, again)
        (line,) = shell(vm, "grep /run/disks/again /proc/mounts").splitlines()
        assert " ro,noatime" in line
        assert "Read-only file system" in shell(vm, "touch /run/disks/again/new")
        for settings in (again, second):
            change(vm, RequestType.REMOVE, settings)
        missing = replace(first, partition=3)
        error = refused(vm, RequestType.ADD, missing)
        assert "disk 0:3, partition 3 did not appear within 5 s" in error.message
    assert image.read_bytes()[:_MIB] == table(20)[:_MIB]
    assert image.read_bytes()[9 * _MIB :] == table(20)[9 * _MIB :]


def test_a_disk_is_mounted_in_two_places(vm_connected: SharedVm, tmp_path: Path) -> None:
    """It is one file system, and stays until the last has gone."""
    vm = vm_connected
    with plugged(vm, 3, tmp_path / "disk") as disk:
        other = replace(disk, mount_path="/run/disks/other")
        change(vm, RequestType.ADD, disk)
        change(vm, RequestType.ADD, other)
        shell(vm, "echo x >/run/disks/3/file")
        assert shell(vm, "cat /run/disks/other/file") == "x\n"
        change(vm, RequestType.REMOVE, disk)
        assert shell(vm, "cat /run/disks/other/file") == "x\n"
        change(vm, RequestType.REMOVE, other)
